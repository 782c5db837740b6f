"""Watching the store for the writes of other processes: events of followed turns, cancels, and news of joined sessions."""

from __future__ import annotations

import asyncio
import contextlib

from shared.chat.dependencies import Dependencies
from shared.chat.generation import Generation
from shared.errors import ChatError
from shared.session import SessionUpdate, TurnBegan
from shared.store.protocol import Moved, News, NewsLost, Pushed, Signal

_RETRY_S = 1.0


class Watch:
    """Run ``watch_forever`` beside a service."""

    def __init__(self, dependencies: Dependencies, generation: Generation) -> None:
        self._dependencies = dependencies
        self._generation = generation

    async def watch_forever(self) -> None:
        """Pass on the news of the store while the service runs."""
        while True:
            try:
                async for news in self._dependencies.store.news(self._wanted):
                    await self._pass_on(news)
            except Exception as error:  # noqa: BLE001 - a failure must not keep the next news from the other turns and sessions
                self._dependencies.readiness.loop_failed("watch")
                self._dependencies.logger.error("cannot watch the store", why=type(error).__name__)
                await asyncio.sleep(_RETRY_S)
                await self._look_at_everything()

    async def _pass_on(self, news: News) -> None:
        turn_logs = self._dependencies.turn_logs
        match news:
            case Signal():
                if news.origin != self._dependencies.owner:
                    self._handle(news)
            case Pushed():
                await turn_logs.apply(news)
            case Moved():
                await turn_logs.look(news.turn_id)
            case NewsLost():
                await self._look_at_everything()

    def _wanted(self) -> bool:
        """Whether a turn or a session of this process depends on other processes now."""
        dependencies = self._dependencies
        return bool(self._generation.running or dependencies.members or dependencies.turn_logs.followed())

    async def _look_at_everything(self) -> None:
        """Read the followed turns again, and find the turns that started meanwhile in the joined sessions."""
        dependencies = self._dependencies
        for turn_log in dependencies.turn_logs.followed():
            await dependencies.turn_logs.look(turn_log.turn_id)
        for session_id in dependencies.members.sessions():
            with contextlib.suppress(ChatError):
                session = await dependencies.store.get_session(session_id)
                if session is not None and session.last_turn_id is not None:
                    dependencies.members.tell(TurnBegan(session_id, session.last_turn_id))

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
            case "user_typing" if signal.session_id:
                update = SessionUpdate(session_id=signal.session_id, update_type="user_typing", typing=signal.typing)
                members.tell(update)
