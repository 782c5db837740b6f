"""A client of the chat over plain REST: POST and wait for the whole reply (RFC 9110, RFC 8259).

A lost reply is recovered by repeating the POST with the same ``Idempotency-Key``. ``poll=True`` is the other, named way: start the
turn and long-poll its events, which gives tokens as they come at the price of a request for each batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, TypeVar

from protocols import TRANSPORTS
from shared.client import cli
from shared.client.http import HttpClient, chat_body, image_body, key_header
from shared.client.protocol import Ask, ServerAbsent, Silent
from shared.errors import ConnectionLost
from shared.events import AnyEvent
from shared.reply import Picture, Reply

POLL_S = 20.0
T = TypeVar("T")


class Client(HttpClient):
    """See ChatClient; ``poll``: long-poll instead of waiting for the whole reply."""

    transport = "rest"

    def __init__(self, address: str, *, poll: bool = False, **options: Any) -> None:
        super().__init__(address, **options)
        self._poll = poll

    async def _chat(self, ask: Ask) -> AsyncGenerator[AnyEvent | Reply, None]:
        if self._poll:
            async for event in self._polled(ask):
                yield event
        else:
            yield await self._whole("/chat", Reply, chat_body(ask), ask)

    async def _image(self, ask: Ask) -> AsyncGenerator[AnyEvent | Picture, None]:
        if self._poll:
            async for event in self._polled(ask):
                yield event
        else:
            yield await self._whole("/images", Picture, image_body(ask), ask)

    async def _whole(self, path: str, answer: type[T], body: dict[str, Any], ask: Ask) -> T:
        """POST and wait. A long reply is as silent as a broken line: after a while ask again, if the server is there at all."""
        while True:
            try:
                return await self._ask("POST", path, answer, body, headers=key_header(ask))
            except Silent:
                if not self._resume:
                    raise
            with _was_there():
                await self.ping()

    async def _polled(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        turn = await self.start(ask)
        with _was_there():
            async for event in self._read(turn.turn_id, 0):
                yield event

    async def _read(self, turn_id: str, after: int) -> AsyncGenerator[AnyEvent, None]:
        running = True
        wait_s = min(POLL_S, self._silence_s / 2)
        while running:
            asked = time.monotonic()
            running, events = await self.poll(turn_id, after, wait_s)
            if running and not events and time.monotonic() - asked < wait_s / 2:
                raise ConnectionLost("the server sends its readers away")
            for event in events:
                after = event.seq
                yield event


@contextlib.contextmanager
def _was_there() -> Iterator[None]:
    """Something has been sent already: a server that is not there now is a lost connection."""
    try:
        yield
    except ServerAbsent as error:
        raise ConnectionLost(error.message) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
