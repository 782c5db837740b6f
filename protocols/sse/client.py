"""A client of the chat over Server-Sent Events: POST, then read ``text/event-stream`` (WHATWG HTML, section 9.2).

    POST /chat/stream                                       200
    Accept: text/event-stream                               Content-Type: text/event-stream
    Idempotency-Key: KEY
    {"message": "Hi", "session_id": null, …}                event: turn_started
                                                            id: TURN_ID/1
                                                            data: {"type": "turn_started", "turn_id": …, "seq": 1, …}

After a lost connection ``GET /turns/TURN_ID/stream`` with ``Last-Event-ID: TURN_ID/SEQ`` goes on, as a browser's EventSource does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from protocols import TRANSPORTS
from shared.client import cli
from shared.client.events import read_item
from shared.client.http import HttpClient
from shared.client.protocol import Ask
from shared.client.transport import TurnItem

EVENT_STREAM = "text/event-stream"


class Client(HttpClient):
    """See ChatClient."""

    transport = "sse"

    def stream_chat(self, ask: Ask) -> AsyncGenerator[TurnItem, None]:
        body = {"message": ask.text, "session_id": ask.session_id, "model_id": ask.model_id}
        return self._events("POST", "/chat/stream", {"Idempotency-Key": ask.request_id}, json=body)

    def stream_image(self, ask: Ask) -> AsyncGenerator[TurnItem, None]:
        body = {"prompt": ask.text, "size": ask.size, "session_id": ask.session_id}
        return self._events("POST", "/images/stream", {"Idempotency-Key": ask.request_id}, json=body)

    def stream_turn(self, turn_id: str, after: int, epoch: int = 0) -> AsyncGenerator[TurnItem, None]:
        cursor = f"{turn_id}/{after}.{epoch}" if epoch else f"{turn_id}/{after}"
        return self._events("GET", f"/turns/{turn_id}/stream", {"Last-Event-ID": cursor})

    async def _events(
        self, method: str, path: str, headers: dict[str, str], **body: Any
    ) -> AsyncGenerator[TurnItem, None]:
        headers = {"Accept": EVENT_STREAM, **headers}
        async with self._stream(method, path, media_type=EVENT_STREAM, headers=headers, **body) as response:
            async for data in parse(self._bytes(response)):
                yield read_item(data)


async def parse(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The ``data`` of each event of a stream. An empty line ends an event; a line ends in LF.

    ``event:`` and ``id:`` repeat what the JSON says, ``retry:`` is for browsers, and a line that begins with a colon is a comment:
    the heartbeat. The standard also ends lines at CR, which JSON escapes, so no line of these streams holds a CR.
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
