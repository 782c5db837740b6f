"""A turn that this process generates: its log, the events that are not committed yet, and why it was stopped."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from shared.chat.request import TurnRequest
from shared.chat.turn_log import TurnLog
from shared.events import AnyEvent, Usage
from shared.store.protocol import Append, End, Started, StoredImage
from shared.store.record import Record

StopReason = Literal["cancelled", "interrupted"]


class RunningTurn:
    """The state of one turn while its model answers. The producer appends, the committer stores and publishes.

    ``begun_s`` is time.perf_counter() when the request came; ``message_count`` counts the session's messages, the new
    message included. ``fenced``: the store refuses further events of this turn from this process. The store has the
    turn up to ``stored_seq``. Events after it, and the pictures, are kept so that they can be committed again.
    """

    def __init__(self, turn_log: TurnLog, started: Started, request: TurnRequest, begun_s: float) -> None:
        self.turn_log = turn_log
        self.turn_id = turn_log.turn_id
        self.session_id = started.turn.session_id
        self.message_count = started.message_count
        self.request = request
        self.begun_s = begun_s
        self.seq = 1
        self.thinking = False
        self.texts: list[str] = []
        self.usage = Usage()
        self.image: StoredImage | None = None
        self.uncommitted: list[Record] = []
        self.images: list[StoredImage] = []
        self.stored_seq = 1
        self.end: End | None = None
        self.fenced = False
        self.stopped: StopReason | None = None
        self.task: asyncio.Task[None] | None = None
        self.model_asked = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the request came."""
        return round((time.perf_counter() - self.begun_s) * 1000, 3)

    def append(self, event: AnyEvent) -> None:
        """Append the next event; its seq is ``seq + 1``."""
        self.seq += 1
        self.uncommitted.append(Record.of(event))

    def next_append(self, owner: str) -> Append:
        """The next entry to commit: the events that the store has lost, then the uncommitted events."""
        records, self.uncommitted = self.uncommitted, []
        if self.stored_seq < len(self.turn_log.records):
            records = [*self.turn_log.records[self.stored_seq :], *records]
        entry = Append(
            turn_id=self.turn_id,
            session_id=self.session_id,
            request_id=self.request.request_id,
            owner=owner,
            records=records,
            end=self.end,
        )
        if self.images:
            named = {record.image_id for record in records}
            entry.images += [image for image in self.images if image.image_id in named]
        return entry

    def commit_again(self, entry: Append, stored_seq: int) -> None:
        """Put the events of a refused entry back before the uncommitted events. The next commit begins after ``stored_seq``."""
        new = [record for record in entry.records if record.seq > len(self.turn_log.records)]
        self.uncommitted = [*new, *self.uncommitted]
        self.stored_seq = stored_seq

    async def committed(self) -> None:
        """Wait until every event that was appended before is in the store, or until the store has refused it."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def commit_done(self) -> None:
        """Release the waiters of ``committed`` when nothing is uncommitted."""
        if self.uncommitted:
            return
        waiters, self._waiting = self._waiting, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fence(self) -> None:
        """Stop the model and drop the uncommitted events: the store refuses further events of this turn from this process."""
        self.fenced = True
        self.uncommitted = []
        self.stop("interrupted")

    def stop(self, why: StopReason) -> None:
        """Stop the model at once. A turn that has its terminal event, or was stopped before, stays as it is."""
        if self.stopped is None and self.end is None:
            self.stopped = why
            # A task that is cancelled before its first step never runs, and the log would have no terminal event.
            if self.model_asked and self.task is not None:
                self.task.cancel()
