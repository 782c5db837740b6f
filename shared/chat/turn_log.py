"""A turn, its append-only log of events, and reading that log from a cursor.

Live and replay are one code path: a reader takes ``records[after:]`` of a log and waits for more until the terminal event is
there. Nothing is queued for a reader, so a slow one costs nobody anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Self

from shared.chat.counters import Counters
from shared.errors import ChatError
from shared.events import (
    TERMINAL_STATUS,
    Kind,
    Status,
)
from shared.logger import Logger, short
from shared.reply import Fold
from shared.store.record import Record

_BATCH = 256
_IMAGE_BATCH = 4


class TurnLog:
    """The part of a log that this process holds: all of a turn's committed records so far."""

    def __init__(self, turn_id: str, kind: Kind, session_id: str | None = None) -> None:
        self.turn_id = turn_id
        self.kind = kind
        self.session_id = session_id
        self.records: list[Record] = []
        self.ended = False
        self.closing = False
        self.cuts = 0
        self.readers = 0
        self.last_read = time.monotonic()
        self._waiters: dict[asyncio.Future[bool], float] = {}

    @property
    def over(self) -> bool:
        """Whether nothing more will come, the terminal event or not."""
        return self.ended or self.closing

    def publish(self, records: Iterable[Record]) -> None:
        """Show committed records to every reader."""
        self.records.extend(records)
        self.ended = bool(self.records) and self.records[-1].terminal
        self._wake()

    def close(self) -> None:
        """Send the readers away without a terminal event: they resume elsewhere."""
        self.closing = True
        self._wake()

    def cut(self) -> None:
        """End every stream that is open now as a broken line would: a demonstration, the readers come back at once."""
        self.cuts += 1
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(True)

    def tick(self, now: float) -> None:
        """Give readers that have waited their heartbeat time an empty batch; ``now`` is time.monotonic()."""
        for waiter, deadline in list(self._waiters.items()):
            if deadline <= now:
                del self._waiters[waiter]
                if not waiter.done():
                    waiter.set_result(False)

    async def wait(self, deadline: float) -> bool:
        """Wait for a publish or a close; False when the deadline passed first."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = deadline
        try:
            return await waiter
        finally:
            self._waiters.pop(waiter, None)


class Reader:
    """Reads a log from a cursor: ``with reader: async for records in reader``.

    Each step is what has been committed since the last one (never more than a few hundred records), or an empty list after
    ``heartbeat_s`` of silence. The iteration ends after the terminal event, or without one when the server is closing
    (``complete`` tells which).
    """

    def __init__(self, log: TurnLog, after: int, heartbeat_s: float, counters: Counters, terminal: Logger) -> None:
        if after > len(log.records):
            raise ChatError("cursor_out_of_range")
        self.turn_id = log.turn_id
        self.kind = log.kind
        self.session_id = log.session_id
        self.after = after
        self.last_seq = len(log.records)
        self._log = log
        self._cuts = log.cuts
        self._heartbeat_s = heartbeat_s
        self._counters = counters
        self._terminal = terminal
        self._streaming = False
        self._batch = _BATCH if log.kind == "chat" else _IMAGE_BATCH

    @property
    def status(self) -> Status:
        """The turn's status as far as this process knows."""
        records = self._log.records
        return TERMINAL_STATUS[records[-1].type] if self._log.ended else "running"

    @property
    def complete(self) -> bool:
        """Whether the terminal event has been read."""
        return self._log.ended and self.after >= len(self._log.records)

    @property
    def over(self) -> bool:
        """Whether nothing more will come, the terminal event or not."""
        return self._log.over

    def __enter__(self) -> Self:
        self._log.readers += 1
        self._counters.streams_active += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._log.readers -= 1
        self._counters.streams_active -= 1
        self._log.last_read = time.monotonic()
        if self._streaming and not (self.complete or self._log.closing):
            self._terminal.info("cut", turn=short(self.turn_id), after=self.after)

    def __aiter__(self) -> Self:
        self._streaming = True
        if self.after:
            self._terminal.info("resumed", turn=short(self.turn_id), after=self.after)
        return self

    async def __anext__(self) -> list[Record]:
        log = self._log
        while len(log.records) <= self.after:
            if self.over or self._cuts != log.cuts:
                raise StopAsyncIteration
            if not await log.wait(time.monotonic() + self._heartbeat_s):
                return []
        records = log.records[self.after : self.after + self._batch]
        self.after += len(records)
        return records

    async def wait(self, seconds: float) -> list[Record]:
        """All records after the cursor as soon as there is one, or none after ``seconds``: one long poll."""
        log = self._log
        deadline = time.monotonic() + seconds
        while len(log.records) <= self.after and not self.over and await log.wait(deadline):
            pass
        records = log.records[self.after :]
        self.after += len(records)
        return records

    async def whole(self) -> Fold:
        """The turn to its end, for who answers in one piece. Raises ``shutting_down`` when we close and it goes on elsewhere."""
        fold = Fold()
        with self:
            async for records in self:
                for record in records:
                    fold.add(record.event)
        if not self.complete:
            raise ChatError("shutting_down")
        return fold
