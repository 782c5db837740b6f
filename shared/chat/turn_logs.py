"""The logs that this process has in memory: those of the turns that it generates, and those that it has readers for.

A log stays in memory only while something refers to it: its producer, a reader, or a task that loads it. Every other
log is in the store and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref

import msgspec

from shared.chat.turn_log import TurnLog
from shared.errors import ChatError
from shared.store.protocol import Damaged, Pushed, Store, TurnRow
from shared.store.record import Record


class TurnLogs:
    """The logs in memory, by turn id. A log that this process does not generate follows the store.

    ``store_refuses``: the store refuses every write, so the reader of a running turn would receive no event.
    ``behind`` are turns that have new events which the store could not read; housekeeping tries again.
    """

    def __init__(self, store: Store) -> None:
        self.draining = False
        self.store_refuses = False
        self.behind: set[str] = set()
        self._store = store
        self._held: weakref.WeakValueDictionary[str, TurnLog] = weakref.WeakValueDictionary()
        self._generated: weakref.WeakSet[TurnLog] = weakref.WeakSet()
        self._loading: dict[str, asyncio.Task[TurnLog]] = {}

    def held(self) -> list[TurnLog]:
        """All logs in memory."""
        return list(self._held.values())

    def followed(self) -> list[TurnLog]:
        """The logs in memory of turns that another process generates now."""
        return [turn_log for turn_log in self.held() if not turn_log.over and turn_log not in self._generated]

    def get(self, turn_id: str) -> TurnLog | None:
        """The log if it is in memory."""
        return self._held.get(turn_id)

    def generate(self, turn_log: TurnLog) -> None:
        """Add the log of a turn that this process generates."""
        self._held[turn_log.turn_id] = turn_log
        self._generated.add(turn_log)

    def release(self, turn_log: TurnLog) -> None:
        """Note that this process does not generate the turn any more."""
        self._generated.discard(turn_log)

    async def open(self, turn_id: str) -> TurnLog:
        """The log, read from the store when it is not in memory. Callers that ask at the same time share one read.

        Raises ``turn_not_found``, ``turn_expired``.
        """
        held = self._held.get(turn_id)
        if held is not None and (held.closed_for != "storage_unavailable" or held in self._generated):
            if not held.over:
                return held
            # A reader keeps the log in memory, though the turn may have been deleted or have expired meanwhile.
            row = _refuse_gone(await self._store.get_turn(turn_id))
            if not held.ended or (row.last_seq, row.epoch) == (len(held.records), held.epoch):
                return held
            # The store has lost the end of an ended turn, which another process has ended again.
            self._held.pop(turn_id, None)
        task = self._loading.get(turn_id)
        if task is None:
            task = self._loading[turn_id] = asyncio.create_task(self._load(turn_id))
            task.add_done_callback(lambda _: self._loading.pop(turn_id, None))
        return await asyncio.shield(task)

    async def _load(self, turn_id: str) -> TurnLog:
        found = await self._store.read(turn_id, 0)
        row = _refuse_gone(found[0] if found else None)
        turn_log = TurnLog(turn_id, row.kind, row.session_id)
        turn_log.publish(found[1] if found else [])
        held = self._held.get(turn_id)
        if held is None or held.closed_for == "storage_unavailable":
            self._held[turn_id] = turn_log
        else:
            turn_log = held
        if not turn_log.over and turn_log not in self._generated:
            await self.follow(turn_log)
            if not turn_log.ended:
                if self.draining:
                    turn_log.close("shutting_down")
                elif self.store_refuses:
                    turn_log.close("storage_unavailable")
        return turn_log

    async def follow(self, turn_log: TurnLog) -> None:
        """Follow a turn that another process generates, while its log is in memory.

        The log is read after the store has confirmed that it pushes the turn's events: earlier events are not pushed.
        """
        weakref.finalize(turn_log, self._unfollow, turn_log.turn_id)
        await self._store.follow(turn_log.turn_id)
        await self.catch_up(turn_log)

    def _unfollow(self, turn_id: str) -> None:
        if turn_id not in self._held:
            self._store.unfollow(turn_id)

    async def apply(self, pushed: Pushed) -> None:
        """Publish the events that the store has pushed, if they follow the last event of the log.

        The turn is read from the store when events are missing in between, and when a pushed event differs from the
        event of this log that has its seq.
        """
        turn_log = self._held.get(pushed.turn_id)
        if turn_log is None or turn_log.over or turn_log in self._generated:
            return
        known = len(turn_log.records)
        numbered = list(enumerate(pushed.lines, pushed.first_seq))
        if pushed.first_seq > known + 1 or any(
            seq <= known and line != turn_log.records[seq - 1].stored for seq, line in numbered
        ):
            await self.look(pushed.turn_id)
            return
        try:
            turn_log.publish(
                [Record.load(pushed.turn_id, seq, line, _no_image) for seq, line in numbered if seq > known]
            )
        except (ValueError, msgspec.MsgspecError):
            turn_log.close("storage_unavailable")

    async def look(self, turn_id: str) -> None:
        """Read a turn that may have new events. A turn that cannot be read now stays in ``behind`` until it is read.

        The streams of a turn whose log is damaged end. Their readers would wait for ever.
        """
        turn_log = self._held.get(turn_id)
        if turn_log is None or turn_log.over or turn_log in self._generated:
            self.behind.discard(turn_id)
            return
        self.behind.add(turn_id)
        try:
            await self.catch_up(turn_log)
        except Damaged:
            turn_log.close("storage_unavailable")
        except ChatError:
            return
        self.behind.discard(turn_id)

    async def reach(self, turn_log: TurnLog, after: int, lease_s: float) -> None:
        """Wait until a log has seq ``after``, or is over, or ``lease_s`` have passed while the turn's owner lives.

        A reader may have seen that much in another process, and the news of it has not reached this process yet. An
        owner that lives commits again within a third of ``lease_s`` what the store has lost. An owner that has not
        renewed its lease in the second half of the wait may be dead. Then the turn is about to be ended, which tells a
        cursor that is lost from a cursor that is wrong. Raises ``storage_unavailable`` when that takes longer than
        another ``lease_s``.
        """
        if turn_log in self._generated:
            await _reached(turn_log, after, lease_s)
            return
        await self.catch_up(turn_log)
        # A clock that goes back makes a renewed lease end earlier, and a lease that was given up is 0.
        lease: float | None = None
        for wait_s in (lease_s / 2, lease_s / 2, lease_s):
            await _reached(turn_log, after, wait_s)
            row = await self.catch_up(turn_log)
            renewed = row is not None and lease is not None and row.lease not in (lease, 0)
            if row is None or renewed or _has_reached(turn_log, after):
                return
            lease = row.lease
        raise ChatError("storage_unavailable")

    async def catch_up(self, turn_log: TurnLog) -> TurnRow | None:
        """Publish the events that the store has and the log lacks. Returns the turn.

        A log is closed when the store has the turn no more. The log of a turn that has ended in the store without a
        terminal event after this log's last one is replaced.
        """
        found = await self._store.read(turn_log.turn_id, len(turn_log.records))
        if found is None:
            turn_log.close("turn_not_found")
            return None
        # Two tasks may catch up at once: a record that the other one has published meanwhile is dropped.
        records = [record for record in found[1] if record.seq > len(turn_log.records)]
        if records:
            turn_log.publish(records)
        if found[0].status != "running" and not turn_log.ended:
            await self._replace(turn_log)
        return found[0]

    async def _replace(self, turn_log: TurnLog) -> None:
        """Have the readers read the store's log of the ended turn in place of a log whose end the store has lost."""
        try:
            found = await self._store.read(turn_log.turn_id, 0)
        except Damaged:
            found = None
        if turn_log.over or turn_log.stored is not None:
            return
        stored = TurnLog(turn_log.turn_id, turn_log.kind, turn_log.session_id)
        stored.publish(found[1] if found else [])
        if not stored.ended:
            # The terminal event could not be written, because the log in the store is damaged.
            turn_log.close("storage_unavailable")
            return
        self._held[turn_log.turn_id] = stored
        weakref.finalize(stored, self._unfollow, turn_log.turn_id)
        turn_log.replace(stored)

    def drain(self) -> None:
        """End the streams of turns that another process generates: these turns go on, and their readers resume elsewhere."""
        self.draining = True
        for turn_log in self.followed():
            turn_log.close("shutting_down")

    def end_stuck_streams(self) -> None:
        """End the streams of turns that cannot be committed. Their clients resume, and give up after their own ``give_up_s``."""
        self.store_refuses = True
        for turn_log in self.followed():
            turn_log.close("storage_unavailable")


def _has_reached(turn_log: TurnLog, after: int) -> bool:
    return len(turn_log.records) >= after or turn_log.over or turn_log.stored is not None


async def _reached(turn_log: TurnLog, after: int, wait_s: float) -> None:
    """Wait at most ``wait_s`` until a log has seq ``after``, is over, or is replaced."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while not _has_reached(turn_log, after):
                await turn_log.wait(math.inf)


def _no_image(image_id: str) -> memoryview:
    """Raise: a store does not push events that refer to an image."""
    raise AssertionError(f"an event of image {image_id} was pushed")


def _refuse_gone(row: TurnRow | None) -> TurnRow:
    """Raise ``turn_not_found``, ``turn_expired``."""
    if row is None:
        raise ChatError("turn_not_found")
    if row.expired:
        raise ChatError("turn_expired")
    return row
