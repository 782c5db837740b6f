"""What goes on beside the turns: noticing what other processes wrote, leases, the grace period, heartbeats, old logs."""

from __future__ import annotations

import asyncio
import time

from shared.chat.generation import Generation
from shared.chat.members import Members
from shared.chat.turn_logs import TurnLogs
from shared.config import Settings
from shared.errors import ChatError
from shared.events import now_ms
from shared.logger import Logger, short
from shared.session import SessionUpdate, TurnBegan
from shared.store.protocol import Signal, Store

_WATCH_S = 0.02
_PURGE_S = 60.0
_WEEK_MS = 7 * 24 * 3600 * 1000
_SIGNAL_KEPT_MS = 60_000


class Upkeep:
    """Run ``watch_forever`` and ``keep_house_forever`` beside a service."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        owner: str,
        generation: Generation,
        logs: TurnLogs,
        members: Members,
        log: Logger,
    ) -> None:
        self._settings = settings
        self._store = store
        self._owner = owner
        self._generation = generation
        self._logs = logs
        self._members = members
        self._log = log
        self._last_signal = 0

    async def begin(self) -> None:
        """Look once before the first request: what was signalled before is not ours, and orphans are ended."""
        self._store.keep_leases(self._owner, self._settings.lease_s)
        self._last_signal = await self._store.last_signal()
        await self.renew()

    async def watch_forever(self) -> None:
        """Notice what other processes wrote: events of turns read here, cancels, and what happens in joined sessions."""
        behind = False
        while True:
            await asyncio.sleep(_WATCH_S)
            if not (self._generation.running or self._members or self._logs.followed()):
                continue
            try:
                signals = await self._store.changes(self._last_signal)
                if signals is None and not behind:
                    continue
                # Until all is read: the store does not tell a second time that it has changed.
                behind = True
                for signal in signals or ():
                    self._last_signal = max(self._last_signal, signal.signal_id)
                    if signal.origin != self._owner:
                        self._take(signal)
                for turn_log in self._logs.followed():
                    await self._logs.catch_up(turn_log)
                behind = False
            except ChatError as error:
                self._log.error("cannot read the store", code=error.code)
                await asyncio.sleep(1)

    def _take(self, signal: Signal) -> None:
        match signal.kind:
            case "cancel":
                self._generation.stop(signal.turn_id or "", "cancelled")
            case "turn_started" if signal.session_id and signal.turn_id:
                self._members.tell(TurnBegan(signal.session_id, signal.turn_id))
                self._members.message_added(signal.session_id, signal.message_count)
            case "message_added" if signal.session_id:
                self._members.message_added(signal.session_id, signal.message_count)
            case "session_cleared" | "session_deleted" if signal.session_id:
                self._members.tell(SessionUpdate(session_id=signal.session_id, update_type=signal.kind))

    async def keep_house_forever(self) -> None:
        """Leases, the grace period, heartbeats, other processes' orphans, old logs."""
        grace_s, lease_s = self._settings.disconnect_grace_s, self._settings.lease_s
        step_s = max(0.02, min(lease_s / 6, grace_s / 4 if grace_s else 0.05, self._settings.heartbeat_s / 4, 1.0))
        renewal_s = min(lease_s, grace_s or lease_s) / 3
        next_renewal = next_purge = 0.0
        while True:
            await asyncio.sleep(step_s)
            now = time.monotonic()
            for turn_log in self._logs.held():
                turn_log.tick(now)
            try:
                if now >= next_renewal:
                    next_renewal = now + renewal_s
                    await self.renew()
                await self._leave_unread(now)
                if now >= next_purge:
                    next_purge = now + _PURGE_S
                    kept = now_ms() - self._settings.turn_retention_h * 3_600_000
                    await self._store.purge(kept, kept - _WEEK_MS, now_ms() - _SIGNAL_KEPT_MS)
            except ChatError as error:
                self._log.error("cannot keep house", code=error.code)

    async def renew(self) -> None:
        read = [log.turn_id for log in self._logs.followed() if log.readers]
        dropped = list(self._generation.dropped)
        if self._generation.running or read or dropped:
            lease_until = now_ms() + self._settings.lease_s * 1000
            await self._store.renew(self._owner, lease_until, read, now_ms(), dropped)
            self._generation.dropped.difference_update(dropped)
        for turn_id in await self._store.reap(now_ms()):
            self._log.warning("interrupted", turn=short(turn_id), why="its server is gone")
            held = self._logs.get(turn_id)
            if held is not None:
                await self._logs.catch_up(held)

    async def _leave_unread(self, now: float) -> None:
        """Cancel what nobody has read for the grace period, neither here nor in another process."""
        grace_s = self._settings.disconnect_grace_s
        for live in list(self._generation.running.values()):
            if not live.attended or live.log.readers or now - live.log.last_read < grace_s:
                continue
            row = await self._store.get_turn(live.turn_id)
            if row is not None and now_ms() - row.last_read_at >= grace_s * 1000 and not live.log.readers:
                self._log.info("nobody reads", session=short(live.session_id), turn=short(live.turn_id))
                live.stop("cancelled")
