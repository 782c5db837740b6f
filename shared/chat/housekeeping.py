"""Housekeeping: leases, heartbeats, turns that nobody reads, turns whose server is gone, and logs that are too old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from shared.chat.committer import Committer
from shared.chat.dependencies import Dependencies
from shared.chat.generation import Generation
from shared.errors import ChatError
from shared.session import short, short_turn

_PURGE_S = 60.0
_BETWEEN_PURGES_S = 0.01
# A start that the store has recorded may take so long until its turn is generated here.
_UNKNOWN_S = 10.0


class Housekeeping:
    """Run ``keep_house_forever`` beside a service, after ``begin``."""

    def __init__(self, dependencies: Dependencies, generation: Generation, committer: Committer) -> None:
        settings = dependencies.settings
        grace_s, lease_s = settings.disconnect_grace_s, settings.lease_s
        self._dependencies = dependencies
        self._generation = generation
        self._committer = committer
        self._unknown_since: dict[str, float] = {}
        self._unknown_s = max(2 * lease_s, _UNKNOWN_S)
        # Each task and its period in seconds.
        self._duties: dict[Callable[[], Awaitable[None]], float] = {
            self._tick: min(settings.heartbeat_s / 4, 1.0),
            self._renew: min(lease_s, grace_s or lease_s) / 3,
            self._look_for_lost_ends: lease_s,
            self._reap: lease_s / 6,
            self._cancel_unread: min(grace_s / 4 if grace_s else 0.05, 1.0),
            self._end_stuck_streams: min(settings.store_patience_s / 4, 1.0),
            self._purge: _PURGE_S,
        }

    async def begin(self) -> None:
        """Have a thread renew the leases. Call this before the first request."""
        self._dependencies.store.keep_leases(self._dependencies.owner)

    async def keep_house_forever(self) -> None:
        """Do every duty once in its period, each in a task of its own: a slow store delays only that duty."""
        async with asyncio.TaskGroup() as group:
            for duty, every_s in self._duties.items():
                group.create_task(self._repeat(duty, max(0.02, every_s)))

    async def _repeat(self, duty: Callable[[], Awaitable[None]], every_s: float) -> None:
        name, failing = duty.__name__.strip("_").replace("_", " "), False
        logger, readiness = self._dependencies.logger, self._dependencies.readiness
        while True:
            try:
                await duty()
            except Exception as error:  # noqa: BLE001 - whatever failed, the duty is done again
                readiness.loop_failed(name)
                if not failing:
                    why = error.code if isinstance(error, ChatError) else type(error).__name__
                    logger.error("housekeeping failed", duty=name, why=why)
                failing = True
            else:
                if failing:
                    logger.info("housekeeping works again", duty=name)
                failing = False
            await asyncio.sleep(every_s)

    async def _tick(self) -> None:
        """Wake the readers that have waited for a heartbeat's time."""
        now = time.monotonic()
        for turn_log in self._dependencies.turn_logs.held():
            turn_log.tick(now)

    async def _renew(self) -> None:
        """Renew the leases of this process, and note which turns are read here."""
        store, turn_logs = self._dependencies.store, self._dependencies.turn_logs
        read = [turn_log.turn_id for turn_log in turn_logs.followed() if turn_log.readers]
        dropped = list(self._committer.dropped)
        running = [(turn, len(turn.turn_log.records)) for turn in self._generation.running.values()]
        if not (running or read or dropped):
            return
        try:
            turn_ids = [turn.turn_id for turn, _ in running]
            standings = await store.renew(self._dependencies.owner, turn_ids, read, dropped)
        except ChatError:
            self._dependencies.readiness.refused()
            raise
        self._dependencies.readiness.wrote()
        self._committer.dropped.difference_update(dropped)
        for (turn, committed_seq), standing in zip(running, standings, strict=True):
            self._committer.compare(turn, committed_seq, standing)

    async def _look_for_lost_ends(self) -> None:
        """Find the turns of this process that are running in the store and not generated here: the store has lost their ends.

        Their last events are committed again while this process has them. A turn that this process does not know for
        some seconds is given up, and any process ends it.
        """
        store, owner, ended = self._dependencies.store, self._dependencies.owner, self._generation.ended
        ended.forget_old()
        unknown = set(await store.owned(owner)) - self._generation.running.keys() - self._committer.dropped
        lost = [turn for turn in map(ended.get, unknown) if turn is not None]
        if lost:
            standings = await store.renew(owner, [turn.turn_id for turn in lost], [])
            for turn, standing in zip(lost, standings, strict=True):
                self._committer.append_again(turn, standing)
        now = time.monotonic()
        unknown -= {turn.turn_id for turn in lost}
        self._unknown_since = {turn_id: self._unknown_since.get(turn_id, now) for turn_id in unknown}
        for turn_id, since in self._unknown_since.items():
            if now - since >= self._unknown_s:
                self._dependencies.logger.warning(
                    "given up", turn=short_turn(turn_id), why="its events are not here any more"
                )
                self._committer.dropped.add(turn_id)

    async def _reap(self) -> None:
        """End the turns of processes that are gone, and read again the logs that could not be read."""
        turn_logs = self._dependencies.turn_logs
        for turn_id in await self._dependencies.store.reap():
            self._dependencies.logger.warning("interrupted", turn=short_turn(turn_id), why="its server is gone")
            await turn_logs.look(turn_id)
        for turn_id in list(turn_logs.behind):
            await turn_logs.look(turn_id)

    async def _cancel_unread(self) -> None:
        """Cancel the turns that nobody has read for the grace period, neither here nor in another process."""
        grace_s, now = self._dependencies.settings.disconnect_grace_s, time.monotonic()
        for turn in list(self._generation.running.values()):
            turn_log = turn.turn_log
            if not turn.request.attended or turn_log.readers or now - turn_log.last_read < grace_s:
                continue
            row = await self._dependencies.store.get_turn(turn.turn_id)
            if row is not None and row.unread_ms >= grace_s * 1000 and not turn_log.readers:
                self._dependencies.logger.info(
                    "cancelled without a reader", session=short(turn.session_id), turn=short_turn(turn.turn_id)
                )
                turn.stop("cancelled")

    async def _end_stuck_streams(self) -> None:
        """End the streams of turns that cannot be committed, when the store has refused every write for too long."""
        readiness, turn_logs = self._dependencies.readiness, self._dependencies.turn_logs
        if readiness.refused_s:
            # No other write may run now, so this check finds out when the store accepts writes again.
            await readiness.check()
        refuses = readiness.refused_s >= self._dependencies.settings.store_patience_s
        if refuses and not turn_logs.store_refuses:
            turn_logs.end_stuck_streams()
        turn_logs.store_refuses = refuses

    async def _purge(self) -> None:
        """Drop expired turns and pictures in short steps. Other writes run between two steps."""
        more = True
        while more:
            more = await self._dependencies.store.purge()
            await asyncio.sleep(_BETWEEN_PURGES_S)
