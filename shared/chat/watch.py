"""Noticing what other processes wrote: events of turns that are read here, cancels, and what happens in joined sessions."""

from __future__ import annotations

import asyncio

from shared.chat.dependencies import Dependencies
from shared.chat.generation import Generation
from shared.errors import ChatError
from shared.session import SessionUpdate, TurnBegan
from shared.store.protocol import Signal

_LOOK_S = 0.02
_RETRY_S = 1.0


class Watch:
    """Run ``watch_forever`` beside a service, after ``begin``."""

    def __init__(self, dependencies: Dependencies, generation: Generation) -> None:
        self._dependencies = dependencies
        self._generation = generation
        self._last_signal = 0

    async def begin(self) -> None:
        """Skip the signals that were sent before this process started."""
        self._last_signal = await self._dependencies.store.last_signal()

    async def watch_forever(self) -> None:
        """Look at the store every 20 ms for as long as this process generates, reads or has joined connections."""
        store, turn_logs = self._dependencies.store, self._dependencies.turn_logs
        behind = False
        while True:
            await asyncio.sleep(_LOOK_S)
            if not (self._generation.running or self._dependencies.members or turn_logs.followed()):
                continue
            try:
                signals = await store.changes(self._last_signal)
                if signals is None and not behind:
                    continue
                # The store tells of a change once. Until all of it has been read, the next look reads again.
                behind = True
                for signal in signals or ():
                    self._last_signal = max(self._last_signal, signal.signal_id)
                    if signal.origin != self._dependencies.owner:
                        self._handle(signal)
                for turn_log in turn_logs.followed():
                    await turn_logs.catch_up(turn_log)
                behind = False
            except ChatError as error:
                self._dependencies.logger.error("cannot read the store", code=error.code)
                await asyncio.sleep(_RETRY_S)

    def _handle(self, signal: Signal) -> None:
        members, signal_id = self._dependencies.members, signal.signal_id
        match signal.kind:
            case "cancel":
                self._generation.stop(signal.turn_id or "", "cancelled")
            case "turn_started" if signal.session_id and signal.turn_id:
                members.tell(TurnBegan(signal.session_id, signal.turn_id), signal_id=signal_id)
                members.message_added(signal.session_id, signal.message_count, signal_id=signal_id)
            case "message_added" if signal.session_id:
                members.message_added(signal.session_id, signal.message_count, signal_id=signal_id)
            case "session_cleared" | "session_deleted" if signal.session_id:
                members.tell(SessionUpdate(session_id=signal.session_id, update_type=signal.kind), signal_id=signal_id)
