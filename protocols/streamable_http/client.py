"""A client of the chat over streamable HTTP: POST, then read newline-delimited JSON from one chunked answer (NDJSON).

A lost stream is taken up again with ``?after=``, because the protocol itself has nothing for it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from protocols import TRANSPORTS
from shared.client import cli
from shared.client.http import HttpClient, chat_body, image_body, key_header
from shared.client.protocol import Ask
from shared.events import AnyEvent, from_json

ACCEPT = {"Accept": "application/x-ndjson"}


class Client(HttpClient):
    """See ChatClient."""

    transport = "ndjson"

    async def _chat(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        async for event in self._events("POST", "/chat/stream", json=chat_body(ask), headers=ACCEPT | key_header(ask)):
            yield event

    async def _image(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        async for event in self._events(
            "POST", "/images/stream", json=image_body(ask), headers=ACCEPT | key_header(ask)
        ):
            yield event

    async def _read(self, turn_id: str, after: int) -> AsyncGenerator[AnyEvent, None]:
        cursor = {"after": after}
        async for event in self._events("GET", f"/turns/{turn_id}/stream", params=cursor, headers=ACCEPT):
            yield event

    async def _events(self, method: str, path: str, **options: Any) -> AsyncGenerator[AnyEvent, None]:
        async with self._stream(method, path, **options) as response:
            async for line in parse(self._bytes(response)):
                yield from_json(line)


async def parse(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream that are not empty; an empty one is a heartbeat. A line goes to its LF, across any pieces."""
    rest = b""
    async for piece in stream:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line:
                yield line


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
