"""A turn's append-only log of events, and reading that log from a cursor.

Reading a running turn and replaying an old one are the same code: a reader takes ``records[after:]`` of the log, and
waits for more until the terminal event is there. Nothing is queued for a reader, so a slow reader costs the others
nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Protocol, Self

from shared.chat.counters import Counters
from shared.errors import ChatError, ErrorCode
from shared.events import TERMINAL_STATUS, CursorLost, Kind, Status, TurnStarted
from shared.logger import Logger
from shared.reply import Fold
from shared.session import short_turn
from shared.store.record import Record

# The most records that a reader gets at once. The pieces of a picture come one by one, because to join them costs a copy of each.
_BATCH = 256
_IMAGE_BATCH = 1
# The event that ends a silence without heartbeats comes a little later than asked. No heartbeat may come before it.
_AFTER_QUIET_S = 0.5


class LineDropped(Exception):
    """A stage direction has asked to break the line of this reader. The server breaks the line without an answer."""


class TurnLog:
    """The committed records of a turn, as far as this process has them: all from seq 1 to the newest.

    ``closed_for`` is the reason why the readers are sent away without a terminal event, if they are. ``cuts`` counts
    the demonstrations of a broken line, and ``drops`` those in which not even the answer ends. ``last_read`` and
    ``quiet_until``, before which readers get no heartbeats, are time.monotonic(). ``stored`` is the log that the store
    has in place of this one, if the store has lost the end of this log.
    """

    def __init__(self, turn_id: str, kind: Kind, session_id: str | None = None) -> None:
        self.turn_id = turn_id
        self.kind = kind
        self.session_id = session_id
        self.records: list[Record] = []
        self.ended = False
        self.closed_for: ErrorCode | None = None
        self.stored: TurnLog | None = None
        self.cuts = 0
        self.drops = 0
        self.quiet_until = 0.0
        self.readers = 0
        self.last_read = time.monotonic()
        self._waits: dict[asyncio.Future[bool], _Wait] = {}

    @property
    def over(self) -> bool:
        """Whether no more records will come, with or without a terminal event."""
        return self.ended or self.closed_for is not None

    @property
    def epoch(self) -> int:
        """1 when another process has ended the turn for its owner, else 0."""
        return self.records[-1].epoch if self.ended else 0

    @property
    def lost(self) -> CursorLost:
        """The message for a reader whose cursor lies in events that the store has lost."""
        return CursorLost(turn_id=self.turn_id, last_seq=len(self.records), epoch=self.epoch)

    def loses(self, after: int, epoch: int) -> bool:
        """Whether the cursor lies in events that the store has lost.

        The process that ends a turn for another one appends the terminal event alone. So a cursor of an earlier epoch
        that is not before the terminal event names an event that is not in this log.
        """
        return self.ended and epoch < self.epoch and after >= len(self.records)

    def publish(self, records: Iterable[Record]) -> None:
        """Show committed records to every reader.

        Readers that wait send them on their lines, in one pass. Each reader that cannot is woken; the terminal event wakes
        all.
        """
        new = list(records)
        if not new:
            return
        self.records.extend(new)
        self.ended = new[-1].terminal
        if self.ended:
            self._wake()
            return
        now = time.monotonic()
        for future, wait in list(self._waits.items()):
            reader = wait.reader
            if future.done():
                continue
            if reader is not None and reader.send_now(new):
                wait.deadline = now + reader.heartbeat_s
            else:
                future.set_result(True)

    def close(self, why: ErrorCode) -> None:
        """End every stream without a terminal event, for good: the clients resume, at this server or at another one."""
        self.closed_for = self.closed_for or why
        self._wake()

    def replace(self, stored: TurnLog) -> None:
        """Have the readers read the store's log in place of this log: the store has lost events that this log has."""
        self.stored = stored
        self._wake()

    def cut(self) -> None:
        """End every stream that is open now, as a broken line would. The clients come back at once."""
        self.cuts += 1
        self._wake()

    def drop(self) -> None:
        """Break the line of every reader that is open now, in the middle of its answer or before it."""
        self.drops += 1
        self._wake()

    def stay_quiet(self, seconds: float) -> None:
        """Give the readers no heartbeats for ``seconds``."""
        self.quiet_until = time.monotonic() + seconds + _AFTER_QUIET_S

    def _wake(self) -> None:
        for future in list(self._waits):
            _end(future, has_more=True)

    def tick(self, now: float) -> None:
        """End the wait of readers whose deadline has passed; ``now`` is time.monotonic()."""
        if now < self.quiet_until:
            return
        for future, wait in list(self._waits.items()):
            if wait.deadline <= now:
                _end(future, has_more=False)

    async def wait(self, deadline: float, reader: Reader | None = None) -> bool:
        """Wait for new records or the end of the streams; False when ``deadline`` (time.monotonic()) passed first.

        New records that ``reader`` has sent on its line do not end the wait, but put off the deadline.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waits[future] = _Wait(deadline, reader)
        try:
            return await future
        finally:
            del self._waits[future]


class _Wait:
    """A wait for new records: its deadline (time.monotonic()), and the reader that waits, if one does."""

    __slots__ = ("deadline", "reader")

    def __init__(self, deadline: float, reader: Reader | None) -> None:
        self.deadline = deadline
        self.reader = reader


def _end(future: asyncio.Future[bool], *, has_more: bool) -> None:
    if not future.done():
        future.set_result(has_more)


class Line(Protocol):
    """The connection of a reader, as far as it can be written without waiting."""

    def send_now(self, records: Sequence[Record]) -> int:
        """Send records while the connection has room. Returns how many were sent, from the first one on."""
        ...


class Reader:
    """Reads a log from a cursor: ``with reader: async for records in reader``.

    Each step gives the records that were committed since the step before, at most a few hundred, or an empty list after
    ``heartbeat_s`` of silence. The iteration ends after the terminal event, or without one when this server sends its
    readers away; ``complete`` tells which, and ``check_complete`` why. Raises ``cursor_out_of_range`` for a cursor
    beyond the log, and LineDropped.

    ``lost`` is set when the cursor lies in events that the store has lost: from the start, or because the store went
    back while the turn was read. Then the iteration gives nothing, or ends. ``rewind`` goes back to the first event.

    A reader with a ``line`` that waits in the iteration sends new records on the line itself. The iteration gives the
    others: those that the log has already, those for which the line has no room, and the terminal event.
    """

    __slots__ = (
        "_batch",
        "_counters",
        "_cuts",
        "_drops",
        "_logger",
        "_streaming",
        "_turn_log",
        "after",
        "heartbeat_s",
        "kind",
        "last_seq",
        "line",
        "lost",
        "session_id",
        "turn_id",
    )

    def __init__(
        self,
        turn_log: TurnLog,
        after: int,
        heartbeat_s: float,
        counters: Counters,
        logger: Logger,
        *,
        lost: CursorLost | None = None,
    ) -> None:
        self.lost: CursorLost | None = None
        if lost is None and after > len(turn_log.records) and turn_log.closed_for is None:
            raise ChatError("cursor_out_of_range")
        self.turn_id = turn_log.turn_id
        self.kind = turn_log.kind
        self.session_id = turn_log.session_id
        self.after = after
        self.last_seq = len(turn_log.records)
        self._turn_log = turn_log
        self._cuts = turn_log.cuts
        self._drops = turn_log.drops
        self.heartbeat_s = heartbeat_s
        self.line: Line | None = None
        self._counters = counters
        self._logger = logger
        self._streaming = False
        self._batch = _BATCH if turn_log.kind == "chat" else _IMAGE_BATCH
        if lost is not None:
            self._lose(lost)

    @property
    def status(self) -> Status:
        """The turn's status as far as this process knows."""
        return TERMINAL_STATUS[self._turn_log.records[-1].type] if self._turn_log.ended else "running"

    @property
    def request_id(self) -> str | None:
        """The idempotency key of the request that started the turn."""
        first = self._turn_log.records[0].event if self._turn_log.records else None
        return first.request_id if isinstance(first, TurnStarted) else None

    @property
    def complete(self) -> bool:
        """Whether the terminal event has been read."""
        return self.lost is None and self._turn_log.ended and self.after >= len(self._turn_log.records)

    @property
    def was_cut(self) -> bool:
        """Whether ``TurnLog.cut`` ended the iteration before the terminal event."""
        return self._cuts != self._turn_log.cuts and not (self.complete or self.closed_for)

    @property
    def over(self) -> bool:
        """Whether no more records will come, with or without a terminal event."""
        return self.lost is not None or self._turn_log.over

    @property
    def closed_for(self) -> ErrorCode | None:
        """The reason why this server has sent the reader away, if it has."""
        return self._turn_log.closed_for

    def check_cursor(self) -> None:
        """Raise ``cursor_lost`` when the cursor is lost."""
        if self.lost is not None:
            raise ChatError("cursor_lost", last_seq=self.lost.last_seq)

    def check_complete(self) -> None:
        """Raise the reason why the stream ended before the terminal event.

        It is ``cursor_lost``, ``shutting_down``, ``storage_unavailable`` or ``turn_not_found``.
        """
        self.check_cursor()
        if not self.complete:
            raise ChatError(self._turn_log.closed_for or "shutting_down")

    def __enter__(self) -> Self:
        self._turn_log.readers += 1
        self._counters.streams_active += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._turn_log.readers -= 1
        self._counters.streams_active -= 1
        self._turn_log.last_read = time.monotonic()
        if self._streaming and not (self.complete or self.lost or self._turn_log.closed_for):
            self._logger.info("cut", turn=short_turn(self.turn_id), after=self.after)

    def __aiter__(self) -> Self:
        self._streaming = True
        if self.after:
            self._logger.info("resumed", turn=short_turn(self.turn_id), after=self.after)
        return self

    async def __anext__(self) -> list[Record]:
        while not self._has_more() and self._drops == self._turn_log.drops:
            if self.over or self._cuts != self._turn_log.cuts:
                raise StopAsyncIteration
            if not await self._turn_log.wait(time.monotonic() + self.heartbeat_s, self):
                return []
        if self._drops != self._turn_log.drops:
            raise LineDropped
        return self._next(self._batch)

    def send_now(self, new: list[Record]) -> bool:
        """Send the newest records of the log on the line. Returns whether the reader has all records of the log then."""
        if self.line is None or len(new) > self._batch or self.after + len(new) != len(self._turn_log.records):
            return False
        try:
            sent = self.line.send_now(new)
        except Exception:  # noqa: BLE001 - the other readers get the records, and the task of this reader meets the failure
            return False
        self.after += sent
        return sent == len(new)

    async def wait(self, seconds: float) -> list[Record]:
        """One long poll: all records after the cursor as soon as there is one, or none after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self._has_more() and not self.over and await self._turn_log.wait(deadline):
            pass
        return self._next(len(self._turn_log.records))

    def _has_more(self) -> bool:
        """Whether there are records after the cursor, in the log that the store has now."""
        while (stored := self._turn_log.stored) is not None:
            self._turn_log.readers -= 1
            stored.readers += 1
            self._turn_log, self._cuts, self._drops = stored, stored.cuts, stored.drops
            if self.after >= len(stored.records):
                self._lose(stored.lost)
        return self.lost is None and len(self._turn_log.records) > self.after

    def _lose(self, lost: CursorLost) -> None:
        self.lost = lost
        self._logger.warning("cursor lost", turn=short_turn(self.turn_id), after=self.after, last_seq=lost.last_seq)

    def _next(self, most: int) -> list[Record]:
        records = self._turn_log.records[self.after : self.after + most] if self.lost is None else []
        self.after += len(records)
        return records

    def rewind(self) -> CursorLost | None:
        """Go back to before the first event and return the message for the client; None when the cursor is not lost."""
        lost, self.lost = self.lost, None
        if lost is not None:
            self.after, self.last_seq = 0, len(self._turn_log.records)
        return lost

    async def whole(self) -> Fold:
        """The whole turn as it is stored, when it has ended. Raises what ``check_complete`` raises."""
        with self:
            while True:
                fold = Fold()
                async for records in self:
                    for record in records:
                        fold.add(record.event)
                if self.rewind() is None:
                    break
        self.check_complete()
        return fold
