"""A client of the chat over streamable HTTP: POST, then read newline-delimited JSON from one chunked answer (NDJSON).

    POST /chat/stream                                       200
    Accept: application/x-ndjson                            Content-Type: application/x-ndjson
    Idempotency-Key: KEY
    {"message": "Hi", "session_id": null, …}                {"type": "turn_started", "turn_id": …, "seq": 1, …}
                                                            {"type": "chunk", "turn_id": …, "seq": 2, "text": "Hello", …}

The protocol itself has nothing for a lost connection, so ``GET /turns/TURN_ID/stream?after=SEQ`` goes on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from protocols import TRANSPORTS
from shared.client import cli
from shared.client.events import read_item
from shared.client.http import HttpClient, cursor
from shared.client.protocol import Ask
from shared.client.transport import TurnItem
from shared.errors import ChatError
from shared.events import CursorLost

NDJSON = "application/x-ndjson"


class Client(HttpClient):
    """See ChatClient."""

    transport = "ndjson"

    def stream_chat(self, ask: Ask) -> AsyncGenerator[TurnItem, None]:
        body = {"message": ask.text, "session_id": ask.session_id, "model_id": ask.model_id}
        return self._events("POST", "/chat/stream", {"Idempotency-Key": ask.request_id}, json=body)

    def stream_image(self, ask: Ask) -> AsyncGenerator[TurnItem, None]:
        body = {"prompt": ask.text, "size": ask.size, "session_id": ask.session_id}
        return self._events("POST", "/images/stream", {"Idempotency-Key": ask.request_id}, json=body)

    def stream_turn(self, turn_id: str, after: int, epoch: int = 0) -> AsyncGenerator[TurnItem, None]:
        return self._events("GET", f"/turns/{turn_id}/stream", {}, params=cursor(after, epoch))

    async def _events(
        self, method: str, path: str, headers: dict[str, str], **options: Any
    ) -> AsyncGenerator[TurnItem, None]:
        headers = {"Accept": NDJSON, **headers}
        async with self._stream(method, path, media_type=NDJSON, headers=headers, **options) as response:
            async for line in parse(self._bytes(response)):
                event = read_item(line)
                if isinstance(event, CursorLost):
                    # The stream ends here; it is the refusal that GET answers with 409.
                    raise ChatError("cursor_lost", last_seq=event.last_seq)
                yield event


async def parse(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream that are not empty; an empty line is a heartbeat. A line ends in LF, in whatever pieces it arrives."""
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
