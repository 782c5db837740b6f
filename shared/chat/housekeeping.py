"""Housekeeping: leases, heartbeats, turns that nobody reads, turns whose server is gone, and logs that are too old."""

from __future__ import annotations

import asyncio
import time

from shared.chat.committer import Committer
from shared.chat.dependencies import Dependencies
from shared.chat.generation import Generation
from shared.errors import ChatError
from shared.session import short

_PURGE_S = 60.0


class Housekeeping:
    """Run ``keep_house_forever`` beside a service, after ``begin``."""

    def __init__(self, dependencies: Dependencies, generation: Generation, committer: Committer) -> None:
        self._dependencies = dependencies
        self._generation = generation
        self._committer = committer

    async def begin(self) -> None:
        """Before the first request: have the leases renewed, and end the turns whose server is gone."""
        self._dependencies.store.keep_leases(self._dependencies.owner)
        await self._renew_leases()

    async def keep_house_forever(self) -> None:
        """Do what is due, several times in the shortest of the times that the settings give."""
        settings = self._dependencies.settings
        grace_s, lease_s = settings.disconnect_grace_s, settings.lease_s
        step_s = max(0.02, min(lease_s / 6, grace_s / 4 if grace_s else 0.05, settings.heartbeat_s / 4, 1.0))
        renewal_s = min(lease_s, grace_s or lease_s) / 3
        next_renewal = next_purge = 0.0
        while True:
            await asyncio.sleep(step_s)
            now = time.monotonic()
            for turn_log in self._dependencies.turn_logs.held():
                turn_log.tick(now)
            try:
                if now >= next_renewal:
                    next_renewal = now + renewal_s
                    await self._renew_leases()
                await self._cancel_unread(now)
                if now >= next_purge:
                    next_purge = now + _PURGE_S
                    await self._dependencies.store.purge()
            except ChatError as error:
                self._dependencies.logger.error("cannot keep house", code=error.code)

    async def _renew_leases(self) -> None:
        """Renew the leases of this process, and end the turns of processes whose leases are over."""
        store, turn_logs = self._dependencies.store, self._dependencies.turn_logs
        read = [turn_log.turn_id for turn_log in turn_logs.followed() if turn_log.readers]
        dropped = list(self._committer.dropped)
        running = [(turn, len(turn.turn_log.records)) for turn in self._generation.running.values()]
        if running or read or dropped:
            turn_ids = [turn.turn_id for turn, _ in running]
            standings = await store.renew(self._dependencies.owner, turn_ids, read, dropped)
            self._committer.dropped.difference_update(dropped)
            for (turn, committed_seq), standing in zip(running, standings, strict=True):
                self._committer.compare(turn, committed_seq, standing)
        for turn_id in await store.reap():
            self._dependencies.logger.warning("interrupted", turn=short(turn_id), why="its server is gone")
            await turn_logs.look(turn_id)
        for turn_id in list(turn_logs.behind):
            await turn_logs.look(turn_id)

    async def _cancel_unread(self, now: float) -> None:
        """Cancel the turns that nobody has read for the grace period, neither here nor in another process."""
        grace_s = self._dependencies.settings.disconnect_grace_s
        for turn in list(self._generation.running.values()):
            turn_log = turn.turn_log
            if not turn.request.attended or turn_log.readers or now - turn_log.last_read < grace_s:
                continue
            row = await self._dependencies.store.get_turn(turn.turn_id)
            if row is not None and row.unread_ms >= grace_s * 1000 and not turn_log.readers:
                self._dependencies.logger.info("nobody reads", session=short(turn.session_id), turn=short(turn.turn_id))
                turn.stop("cancelled")
