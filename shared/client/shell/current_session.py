"""The session that the user is in, and on a held connection the other users in it: their turns, and whether they type."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from shared.client.following import WORTH_RETRYING
from shared.client.shell.active_client import ActiveClient
from shared.errors import ChatError, ConnectionLost
from shared.events import TurnStarted
from shared.session import SessionUpdate

_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
# The session is read at once, and again when the connection has certainly joined it.
_LOOKS_S = (0.0, 0.5)
# The server forgets that a user types, so the hint is sent again while the line holds text.
_TYPING_AGAIN_S = 3.0
_TYPING_SHOWN_S = 10.0
# The hint about this shell's own clearing or deleting arrives before the answer, after it, or never.
_EXPECTED_S = 5.0


@dataclass(frozen=True, slots=True)
class OtherTurn:
    """A turn runs in the session that this shell did not show yet."""

    turn_id: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class WatchLost:
    """The held connection was lost."""

    why: str


@dataclass(frozen=True, slots=True)
class WatchRestored:
    """The held connection is open again, ``elapsed_ms`` after it was lost."""

    elapsed_ms: float


SessionNews = OtherTurn | SessionUpdate | WatchLost | WatchRestored


class CurrentSession:
    """``session_id``: None before the first message. ``model_id``: the model of sessions that this shell creates.

    ``listed``: the ids that /sessions showed, by number. ``watches``: show what others do, where a connection is held.
    """

    def __init__(self, active: ActiveClient, *, session_id: str | None, model_id: str | None, watches: bool) -> None:
        self.session_id = session_id
        self.model_id = model_id
        self.listed: list[str] = []
        self._active = active
        self._watches = watches
        self._news: asyncio.Queue[SessionNews] = asyncio.Queue()
        self._watching: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._told_at = 0.0
        self._told = False
        self._typed_until = 0.0
        self._last_turn: str | None = None
        self._lost_at: float | None = None
        self._nudged = asyncio.Event()
        self._expected: dict[tuple[str | None, str], float] = {}

    @property
    def someone_types(self) -> bool:
        """Whether someone else types now. A hint that typing began counts for _TYPING_SHOWN_S."""
        return time.monotonic() < self._typed_until

    async def news(self) -> AsyncIterator[SessionNews]:
        """What happens in the session without this shell."""
        while True:
            yield await self._news.get()

    async def create(self, model_id: str | None = None) -> str:
        """Create a session and enter it."""
        await self.unwatch()
        async with self._active.asking() as client:
            session = await client.create_session(model_id or self.model_id)
        self._active.stats.sessions_created += 1
        await self.enter(session.session_id)
        return session.session_id

    async def enter(self, session_id: str | None) -> None:
        """Enter a session, or none."""
        await self.unwatch()
        self.session_id, self._last_turn = session_id, None
        self.watch()

    def watch(self) -> None:
        """Watch the session in a task, where a connection is held."""
        watched = self._watching is not None and not self._watching.done()
        if (
            self._watches
            and not watched
            and self.session_id
            and self._active.client.holds_connection
            and not self._active.parted
        ):
            self._watching = asyncio.create_task(self._watch(self.session_id))

    async def unwatch(self) -> None:
        """Stop watching."""
        tasks = [task for task in (self._watching, self._telling) if task is not None]
        self._watching = self._telling = None
        self._told, self._typed_until = False, 0.0
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def nudge(self) -> None:
        """Try at once to watch again: a turn has found that the server is back."""
        self._nudged.set()

    @contextlib.contextmanager
    def doing(self, update_type: str) -> Iterator[None]:
        """While this shell clears or deletes the session: the hint about it is not shown as another user's doing."""
        what = (self.session_id, update_type)
        self._expected[what] = time.monotonic() + _EXPECTED_S
        try:
            yield
        except BaseException:
            self._expected.pop(what, None)
            raise

    async def _watch(self, session_id: str) -> None:
        tries = 0
        self._lost_at = None
        while True:
            self._nudged.clear()
            looking = asyncio.create_task(self._look(session_id))
            try:
                async with aclosing(self._active.client.watch(session_id)) as items:
                    async for item in items:
                        self._receive(item)
            except (ChatError, ConnectionLost) as error:
                if isinstance(error, ChatError) and error.code not in WORTH_RETRYING:
                    # The session is gone, or the server refuses this client; the next request says so in words.
                    return
                self._active.state = "down"
                if self._lost_at is None:
                    self._lost_at, tries = time.monotonic(), 0
                    self._news.put_nowait(WatchLost(error.message))
            finally:
                looking.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)]):
                    await self._nudged.wait()
            tries += 1

    async def _look(self, session_id: str) -> None:
        """Find a turn that began before the session was watched: joining replays nothing.

        An answer also shows that the server is back.
        """
        for after_s in _LOOKS_S:
            await asyncio.sleep(after_s)
            try:
                session = await self._active.client.get_session(session_id)
            except (ChatError, ConnectionLost):
                continue
            if self._lost_at is not None:
                self._active.state = "up"
                self._news.put_nowait(WatchRestored((time.monotonic() - self._lost_at) * 1000))
                self._lost_at = None
            turn_id, missed = session.running_turn_id, session.last_turn_id
            if self._last_turn is not None and missed != self._last_turn:
                turn_id = turn_id or missed
            self._last_turn = missed or ""
            if turn_id is not None:
                self._news.put_nowait(OtherTurn(turn_id))

    def _receive(self, item: object) -> None:
        if isinstance(item, TurnStarted):
            self._typed_until, self._last_turn = 0.0, item.turn_id
            self._news.put_nowait(OtherTurn(item.turn_id, item.request_id))
        elif isinstance(item, SessionUpdate):
            if item.update_type == "user_typing":
                self._typed_until = time.monotonic() + _TYPING_SHOWN_S if item.typing else 0.0
            if self._expected.pop((item.session_id, item.update_type), 0.0) > time.monotonic():
                return
            self._news.put_nowait(item)

    def type(self, text: str) -> None:
        """Tell the others that this user types, or stopped. Commands do not count as typing."""
        typing = bool(text) and not text.startswith("/")
        now = time.monotonic()
        stale = typing and now - self._told_at > _TYPING_AGAIN_S
        watched = self._watching is not None and self._active.state != "down"
        if self.session_id and watched and (typing != self._told or stale):
            self._told, self._told_at = typing, now
            before, self._telling = self._telling, None
            self._telling = asyncio.create_task(self._tell(self.session_id, typing, before))

    async def _tell(self, session_id: str, typing: bool, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        with contextlib.suppress(ChatError, ConnectionLost):
            await self._active.client.typing(session_id, typing)
