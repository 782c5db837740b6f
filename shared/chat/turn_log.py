"""A turn's append-only log of events, and reading that log from a cursor.

Reading a running turn and replaying an old one are the same code: a reader takes ``records[after:]`` of the log, and
waits for more until the terminal event is there. Nothing is queued for a reader, so a slow reader costs the others
nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Self

from shared.chat.counters import Counters
from shared.errors import ChatError, ErrorCode
from shared.events import TERMINAL_STATUS, Kind, Status, TurnStarted
from shared.logger import Logger
from shared.reply import Fold
from shared.session import short
from shared.store.record import Record

# The most records that a reader gets at once; a piece of a picture is large.
_BATCH = 256
_IMAGE_BATCH = 4


class LineDropped(Exception):
    """A stage direction has asked to break the line of this reader. The server breaks it without a word."""


class TurnLog:
    """The committed records of a turn, as far as this process has them: all from seq 1 to the newest.

    ``closed_for`` is the reason why the readers are sent away without a terminal event, if they are. ``cuts`` counts
    the demonstrations of a broken line, and ``drops`` those in which not even the answer ends. ``last_read`` and
    ``quiet_until``, before which readers get no heartbeats, are time.monotonic().
    """

    def __init__(self, turn_id: str, kind: Kind, session_id: str | None = None) -> None:
        self.turn_id = turn_id
        self.kind = kind
        self.session_id = session_id
        self.records: list[Record] = []
        self.ended = False
        self.closed_for: ErrorCode | None = None
        self.cuts = 0
        self.drops = 0
        self.quiet_until = 0.0
        self.readers = 0
        self.last_read = time.monotonic()
        self._waiters: dict[asyncio.Future[bool], float] = {}

    @property
    def over(self) -> bool:
        """Whether no more records will come, with or without a terminal event."""
        return self.ended or self.closed_for is not None

    def publish(self, records: Iterable[Record]) -> None:
        """Show committed records to every reader."""
        self.records.extend(records)
        self.ended = bool(self.records) and self.records[-1].terminal
        self._wake()

    def close(self, why: ErrorCode) -> None:
        """End every stream without a terminal event, for good: the clients resume, at this server or at another one."""
        self.closed_for = self.closed_for or why
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
        """Give readers no heartbeats for so long."""
        self.quiet_until = time.monotonic() + seconds

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(True)

    def tick(self, now: float) -> None:
        """End the wait of readers whose deadline has passed; ``now`` is time.monotonic()."""
        if now < self.quiet_until:
            return
        for waiter, deadline in list(self._waiters.items()):
            if deadline <= now:
                del self._waiters[waiter]
                if not waiter.done():
                    waiter.set_result(False)

    async def wait(self, deadline: float) -> bool:
        """Wait for new records or the end of the streams; False when ``deadline`` (time.monotonic()) passed first."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = deadline
        try:
            return await waiter
        finally:
            self._waiters.pop(waiter, None)


class Reader:
    """Reads a log from a cursor: ``with reader: async for records in reader``.

    Each step gives the records that were committed since the step before, at most a few hundred, or an empty list after
    ``heartbeat_s`` of silence. The iteration ends after the terminal event, or without one when this server sends its
    readers away; ``complete`` tells which, and ``check_complete`` why. Raises ``cursor_out_of_range`` for a cursor
    beyond the log, and LineDropped.
    """

    def __init__(self, turn_log: TurnLog, after: int, heartbeat_s: float, counters: Counters, logger: Logger) -> None:
        if after > len(turn_log.records) and turn_log.closed_for is None:
            raise ChatError("cursor_out_of_range")
        self.turn_id = turn_log.turn_id
        self.kind = turn_log.kind
        self.session_id = turn_log.session_id
        self.after = after
        self.last_seq = len(turn_log.records)
        self._turn_log = turn_log
        self._cuts = turn_log.cuts
        self._drops = turn_log.drops
        self._heartbeat_s = heartbeat_s
        self._counters = counters
        self._logger = logger
        self._streaming = False
        self._batch = _BATCH if turn_log.kind == "chat" else _IMAGE_BATCH

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
        return self._turn_log.ended and self.after >= len(self._turn_log.records)

    @property
    def over(self) -> bool:
        """Whether no more records will come, with or without a terminal event."""
        return self._turn_log.over

    @property
    def closed_for(self) -> ErrorCode | None:
        """The reason why this server has sent the reader away, if it has."""
        return self._turn_log.closed_for

    def check_complete(self) -> None:
        """Raise the reason why the stream ended before the terminal event: ``shutting_down`` or ``storage_unavailable``."""
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
        if self._streaming and not (self.complete or self._turn_log.closed_for):
            self._logger.info("cut", turn=short(self.turn_id), after=self.after)

    def __aiter__(self) -> Self:
        self._streaming = True
        if self.after:
            self._logger.info("resumed", turn=short(self.turn_id), after=self.after)
        return self

    async def __anext__(self) -> list[Record]:
        turn_log = self._turn_log
        while len(turn_log.records) <= self.after and self._drops == turn_log.drops:
            if self.over or self._cuts != turn_log.cuts:
                raise StopAsyncIteration
            if not await turn_log.wait(time.monotonic() + self._heartbeat_s):
                return []
        if self._drops != turn_log.drops:
            raise LineDropped
        records = turn_log.records[self.after : self.after + self._batch]
        self.after += len(records)
        return records

    async def wait(self, seconds: float) -> list[Record]:
        """One long poll: all records after the cursor as soon as there is one, or none after ``seconds``."""
        turn_log = self._turn_log
        deadline = time.monotonic() + seconds
        while len(turn_log.records) <= self.after and not self.over and await turn_log.wait(deadline):
            pass
        records = turn_log.records[self.after :]
        self.after += len(records)
        return records

    async def whole(self) -> Fold:
        """The whole turn, when it has ended. Raises what ``check_complete`` raises."""
        fold = Fold()
        with self:
            async for records in self:
                for record in records:
                    fold.add(record.event)
        self.check_complete()
        return fold
