"""A client of the chat over Server-Sent Events: POST, then read ``text/event-stream`` (WHATWG HTML, section 9.2).

A lost stream is taken up again with ``Last-Event-ID``, as a browser's EventSource does by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from protocols import TRANSPORTS
from shared.client import cli
from shared.client.http import HttpClient, chat_body, image_body, key_header
from shared.client.protocol import Ask
from shared.events import AnyEvent, from_json

ACCEPT = {"Accept": "text/event-stream"}


class Client(HttpClient):
    """See ChatClient."""

    transport = "sse"

    async def _chat(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        async for event in self._events("POST", "/chat/stream", json=chat_body(ask), headers=ACCEPT | key_header(ask)):
            yield event

    async def _image(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        async for event in self._events(
            "POST", "/images/stream", json=image_body(ask), headers=ACCEPT | key_header(ask)
        ):
            yield event

    async def _read(self, turn_id: str, after: int) -> AsyncGenerator[AnyEvent, None]:
        cursor = {"Last-Event-ID": f"{turn_id}/{after}"}
        async for event in self._events("GET", f"/turns/{turn_id}/stream", headers=ACCEPT | cursor):
            yield event

    async def _events(self, method: str, path: str, **options: Any) -> AsyncGenerator[AnyEvent, None]:
        async with self._stream(method, path, **options) as response:
            async for data in parse(self._bytes(response)):
                yield from_json(data)


async def parse(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The ``data`` of each event of a stream. Lines end in LF here: the JSON in them has no other line break to be split at.

    ``event:`` and ``id:`` repeat what the JSON says, comments are heartbeats, ``retry:`` is for browsers.
    """
    rest = b""
    data: list[bytes] = []
    async for piece in stream:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line and data:
                yield b"\n".join(data)
                data = []
            elif line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
