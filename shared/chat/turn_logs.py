"""The logs that this process holds: those of the turns it generates, and those that someone here reads.

A log is held as long as somebody has it in hand; what nobody reads is in the store and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
import weakref

from shared.chat.turn_log import TurnLog
from shared.errors import ChatError
from shared.store.protocol import Store, TurnRow

# What is committed is published as soon as the event loop comes round.
_PUBLISHED_S = 1.0


class TurnLogs:
    """TurnLogs by turn id. ``generated`` ones are written here; all others follow the store."""

    def __init__(self, store: Store) -> None:
        self.draining = False
        self._store = store
        self._held: weakref.WeakValueDictionary[str, TurnLog] = weakref.WeakValueDictionary()
        self._generated: weakref.WeakSet[TurnLog] = weakref.WeakSet()
        self._loading: dict[str, asyncio.Task[TurnLog]] = {}

    def held(self) -> list[TurnLog]:
        """All logs in hand."""
        return list(self._held.values())

    def followed(self) -> list[TurnLog]:
        """The unfinished logs that another process writes."""
        return [log for log in self.held() if not log.over and log not in self._generated]

    def get(self, turn_id: str) -> TurnLog | None:
        """The log if it is in hand."""
        return self._held.get(turn_id)

    def generate(self, log: TurnLog) -> None:
        """Hold a log that this process writes."""
        self._held[log.turn_id] = log
        self._generated.add(log)

    def release(self, log: TurnLog) -> None:
        """This process writes it no longer."""
        self._generated.discard(log)

    async def open(self, turn_id: str) -> TurnLog:
        """The log, read from the store when it is not in hand; those who ask at the same time share one.

        Raises ``turn_not_found``, ``turn_expired``.
        """
        held = self._held.get(turn_id)
        if held is not None:
            if held.over:
                # Somebody still has it in hand, though it may have been deleted meanwhile, or have expired.
                _refuse_gone(await self._store.get_turn(turn_id))
            return held
        task = self._loading.get(turn_id)
        if task is None:
            task = self._loading[turn_id] = asyncio.create_task(self._load(turn_id))
            task.add_done_callback(lambda _: self._loading.pop(turn_id, None))
        return await asyncio.shield(task)

    async def _load(self, turn_id: str) -> TurnLog:
        found = await self._store.read(turn_id, 0)
        row = _refuse_gone(found[0] if found else None)
        records = found[1] if found else []
        log = TurnLog(turn_id, row.kind, row.session_id)
        log.publish(records)
        log = self._held.setdefault(turn_id, log)
        if not log.over and log not in self._generated:
            # What was committed between the first read and being held was announced to nobody here.
            await self.catch_up(log)
            if self.draining and not log.ended:
                log.close()
        return log

    async def reach(self, log: TurnLog, after: int) -> None:
        """Have all up to ``after`` that the store has: a reader may have seen elsewhere what has not come round to us yet."""
        if log not in self._generated:
            await self.catch_up(log)
            return
        row = await self._store.get_turn(log.turn_id)
        while row is not None and len(log.records) < after <= row.last_seq and not log.over:
            await log.wait(time.monotonic() + _PUBLISHED_S)

    async def catch_up(self, log: TurnLog) -> None:
        """Publish what the store has and the log has not; a log whose turn is gone is closed."""
        found = await self._store.read(log.turn_id, len(log.records))
        if found is None:
            log.close()
            return
        # Two may catch up at once, so what the other one has published meanwhile is dropped.
        records = [record for record in found[1] if record.seq > len(log.records)]
        if records:
            log.publish(records)

    def drain(self) -> None:
        """Send away the readers of turns that go on in another process."""
        self.draining = True
        for log in self.followed():
            log.close()


def _refuse_gone(row: TurnRow | None) -> TurnRow:
    """Raise ``turn_not_found``, ``turn_expired``."""
    if row is None:
        raise ChatError("turn_not_found")
    if row.expired:
        raise ChatError("turn_expired")
    return row
