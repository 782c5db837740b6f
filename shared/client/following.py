"""Following a turn to its end across lost connections: reconnect with the cursor, yield each event once and in order.

``follow`` is the loop that reconnects. ``SequenceCheck`` looks at every event: seq after seq, and the sha256 at the
end. When the store has lost events that were shown, ``Rewound`` says so and the turn is read again from its first
event.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import anyio

from shared.client.events import UnknownEvent
from shared.client.transport import Received, TransportClient
from shared.errors import ChatError, ConnectionLost, Corrupted, NotOurServer, SentAway, ServerAbsent
from shared.events import TERMINAL, AnyEvent, CursorLost, TurnFailed
from shared.reply import Fold, Picture, Reply, text_sha256

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 2.0
# The end of the HTTP body, or the status of the gRPC call, follows the terminal event at once.
_END_S = 0.25
# Refusals that a server gives for a while: a client that had a connection before asks again. A store that has lost events does
# not reach the client's cursor until the turn is ended; then the answer is ``cursor_lost``.
WORTH_RETRYING = frozenset(
    {"shutting_down", "storage_unavailable", "rate_limited", "too_many_streams", "cursor_out_of_range"}
)


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke after seq ``after``; the client is trying to come back."""

    after: int
    why: str


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The stream goes on after seq ``after``: ``elapsed_ms`` after it was lost, at the ``attempts``-th try."""

    after: int
    attempts: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Rewound:
    """The store has lost events of the turn that were shown, up to seq ``after``. Drop what is shown of the turn.

    The events come again from seq 1. ``last_seq`` is where the turn ends now.
    """

    turn_id: str
    after: int
    last_seq: int

    @property
    def lost_events(self) -> int:
        """How many of the shown events are not stored.

        The last stored event is the terminal event, which was not shown.
        """
        return max(0, self.after - self.last_seq + 1)


Item = AnyEvent | Reply | Picture | Lost | Reconnected | Rewound
Attempt = Callable[[], AsyncGenerator[Received, None]]


class SequenceCheck:
    """The events of one turn that have arrived, from the first cursor on. ``after`` is the last seq."""

    def __init__(self, turn_id: str | None, after: int) -> None:
        self.turn_id = turn_id
        self.after = after
        self.from_start = after == 0
        self._fold = Fold()

    def rewound(self, last_seq: int) -> Rewound:
        """Forget the turn's events, which come again from seq 1. Returns the item that says so."""
        told = Rewound(self.turn_id or "", self.after, last_seq)
        self.after, self.from_start, self._fold = 0, True, Fold()
        return told

    def admit(self, event: AnyEvent | UnknownEvent) -> bool:
        """Whether the event is new. Raises ConnectionLost after a gap, Corrupted for a wrong sha256."""
        if event.seq <= self.after:
            return False
        if event.seq != self.after + 1:
            raise ConnectionLost(f"event {self.after + 1} is missing")
        self.turn_id, self.after = event.turn_id, event.seq
        if self.from_start and not isinstance(event, UnknownEvent):
            self._fold.add(event)
            if isinstance(event, TERMINAL) and not isinstance(event, TurnFailed) and event.sha256 != self._fold.sha256:
                raise Corrupted(
                    "the events do not have the sha256 of the last one", after=event.seq, turn_id=event.turn_id
                )
        return True


async def follow(
    client: TransportClient, first: Attempt, check: SequenceCheck, *, resume: bool, give_up_s: float
) -> AsyncGenerator[Item, None]:
    """Read one turn to its end: ``first`` opens the stream, later attempts repeat it or read on from the cursor.

    Yields every event once, Lost and Reconnected in between; after Rewound the events come again from seq 1. ``resume=False``:
    the first lost connection is the end. ``give_up_s``: the longest time without a new event. Raises ChatError for a
    refusal, ConnectionLost when it gives up.
    """
    attempt = first
    answered = False
    lost_at: float | None = None
    attempts = 0
    sent_away = 0
    while True:
        try:
            async with aclosing(attempt()) as items:
                async for item in items:
                    answered = True
                    if isinstance(item, CursorLost):
                        yield check.rewound(item.last_seq)
                    if lost_at is not None:
                        client.counts.resumed += 1
                        yield Reconnected(check.after, attempts, round((time.monotonic() - lost_at) * 1000, 3))
                        lost_at, attempts = None, 0
                    if isinstance(item, Reply | Picture):
                        _check_whole(item)
                        yield item
                        return
                    if isinstance(item, CursorLost) or not check.admit(item) or isinstance(item, UnknownEvent):
                        continue
                    yield item
                    if isinstance(item, TERMINAL):
                        await _read_end(items)
                        return
            if attempt is first and lost_at is None and await _had_ended(client, check):
                return
            raise SentAway("the stream ended without its terminal event")
        except ChatError as error:
            if error.code == "cursor_lost" and resume and check.turn_id is not None and check.after:
                yield check.rewound(error.last_seq or 0)
                attempt = _reading_on(client, check.turn_id, 0)
                continue
            # During an outage of the store a long poll is refused, where a stream would only be silent.
            was_open = lost_at is not None or (answered and resume)
            if not was_open or error.code not in WORTH_RETRYING:
                raise
            why = error.message
        except ConnectionLost as error:
            why = error.message
            sent_away = sent_away + 1 if isinstance(error, SentAway) else 0
            if _is_final(error, answered=answered, was_lost=lost_at is not None):
                raise
            if not resume:
                raise ConnectionLost(why, after=check.after, turn_id=check.turn_id) from error
        if lost_at is None:
            lost_at = time.monotonic()
            client.counts.lost += 1
            yield Lost(check.after, why)
        if time.monotonic() - lost_at > give_up_s:
            raise ConnectionLost(f"gave up after {give_up_s:g} s: {why}", after=check.after, turn_id=check.turn_id)
        await asyncio.sleep(_backoff_s(max(attempts, sent_away - 1)))
        attempts += 1
        if check.turn_id is not None:
            attempt = _reading_on(client, check.turn_id, check.after)


def _is_final(error: ConnectionLost, *, answered: bool, was_lost: bool) -> bool:
    """Whether another attempt cannot help: no server ever answered, another program does, or the reply is corrupt."""
    if isinstance(error, ServerAbsent):
        return not answered and not was_lost
    return isinstance(error, Corrupted) or (isinstance(error, NotOurServer) and not answered)


def _reading_on(client: TransportClient, turn_id: str, after: int) -> Attempt:
    return lambda: client.stream_turn(turn_id, after)


async def _had_ended(client: TransportClient, check: SequenceCheck) -> bool:
    """Whether an empty stream is right, because the turn had ended at the cursor that it was read from."""
    if check.from_start or check.turn_id is None:
        return False
    turn = await client.get_turn(check.turn_id)
    return turn.status != "running" and turn.last_seq == check.after


async def _read_end(items: AsyncGenerator[Received, None]) -> None:
    """Read what follows the terminal event, so that the connection can be used again. No failure here matters to the turn.

    httpcore closes idle connections in the task that ends an answer, and shields that from anyio's time limits only: a time limit
    of asyncio's would leave the rest of these connections open.
    """
    with contextlib.suppress(ChatError, ConnectionLost), anyio.move_on_after(_END_S):
        async for _ in items:
            pass


def _check_whole(item: Reply | Picture) -> None:
    sha256 = text_sha256(item.text) if isinstance(item, Reply) else hashlib.sha256(item.image).hexdigest()
    if item.sha256 != sha256:
        raise Corrupted("the reply does not have its sha256", turn_id=item.turn_id)


def _backoff_s(attempts: int) -> float:
    """Exponential backoff with jitter."""
    jitter: float = random.uniform(0.5, 1.0)
    return jitter * min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(attempts, 10))


async def collect(items: AsyncGenerator[Item, None]) -> Reply:
    """Read a chat to its end as one Reply. Raises ChatError with the code of a failed turn."""
    fold = Fold()
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Reply):
                return item
            if isinstance(item, Rewound):
                fold = Fold()
            elif not isinstance(item, Lost | Reconnected | Picture):
                fold.add(item)
    return fold.reply()


async def collect_picture(items: AsyncGenerator[Item, None]) -> Picture:
    """Read an image turn to its end as one Picture. Raises ChatError: a failed turn's code, or ``turn_not_completed``."""
    fold = Fold()
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Picture):
                return item
            if isinstance(item, Rewound):
                fold = Fold()
            elif not isinstance(item, Lost | Reconnected | Reply):
                fold.add(item)
    return fold.picture()
