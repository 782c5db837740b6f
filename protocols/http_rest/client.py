"""A client of the chat over plain REST: POST and wait for the whole reply (RFC 9110, RFC 8259).

A lost reply is recovered by repeating the POST with the same ``Idempotency-Key``. ``poll=True`` is the other, named way: start the
turn and long-poll its events, which gives tokens as they come at the price of a request for each batch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from protocols import TRANSPORTS
from shared import cli
from shared.client import Ask
from shared.events import AnyEvent
from shared.http_client import HttpClient, chat_body, image_body, key_header
from shared.turn import Picture, Reply

POLL_S = 20.0


class Client(HttpClient):
    """See ChatClient; ``poll``: long-poll instead of waiting for the whole reply."""

    transport = "rest"

    def __init__(self, address: str, *, poll: bool = False, **options: Any) -> None:
        super().__init__(address, **options)
        self._poll = poll

    async def _chat(self, ask: Ask) -> AsyncGenerator[AnyEvent | Reply, None]:
        if self._poll:
            turn = await self.start(ask)
            async for event in self._read(turn.turn_id, 0):
                yield event
        else:
            yield await self._ask("POST", "/chat", Reply, chat_body(ask), headers=key_header(ask))

    async def _image(self, ask: Ask) -> AsyncGenerator[AnyEvent | Picture, None]:
        if self._poll:
            turn = await self.start(ask)
            async for event in self._read(turn.turn_id, 0):
                yield event
        else:
            yield await self._ask("POST", "/images", Picture, image_body(ask), headers=key_header(ask))

    async def _read(self, turn_id: str, after: int) -> AsyncGenerator[AnyEvent, None]:
        running = True
        while running:
            running, events = await self.poll(turn_id, after, POLL_S)
            for event in events:
                after = event.seq
                yield event


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
