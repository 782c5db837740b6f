"""Committing: one task stores the events of all running turns, and shows an event to readers only when it is in the
store.

What arrives while one commit runs goes into the next one, so that one stream pays microseconds and a thousand streams
share a commit.
"""

from __future__ import annotations

import asyncio
import time

from shared.chat.dependencies import Dependencies
from shared.chat.running_turn import RunningTurn
from shared.events import AnyEvent, now_ms
from shared.session import short
from shared.store.protocol import Append

_TRIES_S = 2.0
_RETRY_S = 0.05


class Committer:
    """Run ``commit_forever`` beside the producers.

    ``dropped`` are the turns that the store refused to take. Housekeeping ends their leases, so that another process
    gives them a terminal event.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self.dropped: set[str] = set()
        self._dependencies = dependencies
        self._uncommitted: dict[RunningTurn, None] = {}
        self._appended = asyncio.Event()

    def append(self, turn: RunningTurn, event: AnyEvent) -> None:
        """Append an event to a turn and have it committed with the next group."""
        turn.append(event)
        if turn not in self._uncommitted:
            self._uncommitted[turn] = None
            self._appended.set()

    async def commit_forever(self) -> None:
        """Commit what the producers append, in groups, then publish it to the readers."""
        while True:
            await self._appended.wait()
            self._appended.clear()
            while self._uncommitted:
                turns = list(self._uncommitted)
                self._uncommitted.clear()
                await self._commit_group(turns)
                # A reference that is kept while this task waits would keep ended turns in memory.
                del turns

    async def _commit_group(self, turns: list[RunningTurn]) -> None:
        lease_until = now_ms() + self._dependencies.settings.lease_s * 1000
        batch = []
        for turn in turns:
            batch.append(
                Append(
                    turn_id=turn.turn_id,
                    owner=self._dependencies.owner,
                    lease_until=lease_until,
                    records=turn.uncommitted,
                    images=turn.uncommitted_images,
                    end=turn.end,
                )
            )
            turn.uncommitted, turn.uncommitted_images = [], []
        results = await self._store(batch)
        for turn, entry, stored in zip(turns, batch, results, strict=True):
            if stored:
                self._dependencies.counters.events_total += len(entry.records)
                self._dependencies.trace_records(entry.records)
                turn.turn_log.publish(entry.records)
            else:
                turn.fence()
                self._uncommitted.pop(turn, None)
            turn.commit_done()

    async def _store(self, batch: list[Append]) -> list[bool]:
        """Store a group, with tries for a while; then turn by turn, so that a turn that cannot be stored costs no other one."""
        deadline = time.monotonic() + _TRIES_S
        while time.monotonic() < deadline:
            try:
                return await self._dependencies.store.append(batch)
            except Exception:  # noqa: BLE001 - whatever the store raises, the other turns go on
                await asyncio.sleep(_RETRY_S)
        return [await self._store_alone(entry) for entry in batch]

    async def _store_alone(self, entry: Append) -> bool:
        try:
            return (await self._dependencies.store.append([entry]))[0]
        except Exception as error:  # noqa: BLE001 - whatever the store raises, the other turns go on
            self._dependencies.logger.error("cannot commit", turn=short(entry.turn_id), why=type(error).__name__)
            self.dropped.add(entry.turn_id)
            return False
