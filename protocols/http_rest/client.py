"""A client of the chat over plain REST: POST and wait for the whole reply (RFC 9110, RFC 8259).

    POST /chat                                              200
    Idempotency-Key: KEY                                    Content-Type: application/json
    {"message": "Hi", "session_id": null, …}                {"turn_id": …, "status": "completed", "text": "Hello …", …}

A lost reply is recovered by repeating the POST with the same key. ``poll=True`` is another way, and has another name in comparisons
(``rest-poll``): start the turn with ``POST /turns`` and long-poll its events, one request for each batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, TypeVar

from protocols import TRANSPORTS
from shared.client import cli
from shared.client.http import HttpClient
from shared.client.protocol import Ask
from shared.errors import ConnectionLost, SentAway, ServerAbsent, Silent
from shared.events import AnyEvent
from shared.reply import Picture, Reply

POLL_S = 20.0
# A gateway that answers 502, 503 or 504 sooner has not waited for the reply: it does not reach the server.
LEAST_WAIT_S = 1.0
T = TypeVar("T", Reply, Picture)


class Client(HttpClient):
    """See ChatClient. ``poll``: long-poll the events instead of waiting for the whole reply."""

    transport = "rest"

    def __init__(self, address: str, *, poll: bool = False, **options: Any) -> None:
        super().__init__(address, **options)
        self._poll = poll

    def stream_chat(self, ask: Ask) -> AsyncGenerator[AnyEvent | Reply, None]:
        body = {"message": ask.text, "session_id": ask.session_id, "model_id": ask.model_id}
        return self._started_and_polled(ask) if self._poll else self._whole("/chat", Reply, body, ask)

    def stream_image(self, ask: Ask) -> AsyncGenerator[AnyEvent | Picture, None]:
        body = {"prompt": ask.text, "size": ask.size, "session_id": ask.session_id}
        return self._started_and_polled(ask) if self._poll else self._whole("/images", Picture, body, ask)

    async def _whole(self, path: str, answer: type[T], body: dict[str, Any], ask: Ask) -> AsyncGenerator[T, None]:
        """POST and wait. A long reply is as silent as a broken connection, for this client and for a gateway on the way.

        So after a silence a server that answers a ping is asked again, with the same key. This may go on for as long as the turn.
        """
        while True:
            asked_at = time.monotonic()
            try:
                reply = await self._ask("POST", path, answer, json=body, headers={"Idempotency-Key": ask.request_id})
            except Silent:
                if not self._resume or time.monotonic() - asked_at < min(LEAST_WAIT_S, self._silence_s):
                    raise
                with _absent_is_lost():
                    await self.ping()
            else:
                yield reply
                return

    async def _started_and_polled(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        turn = await self.start(ask)
        with _absent_is_lost():
            async with contextlib.aclosing(self.stream_turn(turn.turn_id, 0)) as events:
                async for event in events:
                    yield event

    async def stream_turn(self, turn_id: str, after: int, epoch: int = 0) -> AsyncGenerator[AnyEvent, None]:
        running = True
        wait_s = min(POLL_S, self._silence_s / 2)
        while running:
            asked = time.monotonic()
            running, events = await self.poll(turn_id, after, wait_s, epoch)
            if running and not events and time.monotonic() - asked < wait_s / 2:
                raise SentAway("the server is shutting down and ended the poll early")
            for event in events:
                after = event.seq
                yield event


@contextlib.contextmanager
def _absent_is_lost() -> Iterator[None]:
    """An absent server is a lost connection here, because the turn has begun and the server was there a moment ago."""
    try:
        yield
    except ServerAbsent as error:
        raise ConnectionLost(error.message) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
