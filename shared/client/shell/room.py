"""The session one is in, and who else is: on a held connection, the turns that others start and whether they type."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from shared.client.shell.link import Link
from shared.errors import ChatError, ConnectionLost
from shared.events import TurnStarted
from shared.session import SessionUpdate

_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
# Once at once, and once when joining must have happened.
_LOOKS_S = (0.0, 0.5)
_AGAIN_S = 3.0
_SHOWN_S = 10.0
# The hint about what we did ourselves comes on another connection, before the answer or after it, or never.
_EXPECTED_S = 5.0


@dataclass(frozen=True, slots=True)
class Began:
    """Someone else's turn runs."""

    turn_id: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """The held connection broke; ``why``."""

    why: str


@dataclass(frozen=True, slots=True)
class Back:
    """The held connection is there again, after ``elapsed_ms``."""

    elapsed_ms: float


News = Began | SessionUpdate | Dropped | Back


class Room:
    """``model_id``: the model of sessions that are made here; ``listed``: the ids that /sessions showed, by number."""

    def __init__(self, link: Link, *, session_id: str | None, model_id: str | None, company: bool) -> None:
        self.session_id = session_id
        self.model_id = model_id
        self.listed: list[str] = []
        self._link = link
        self._company = company
        self._news: asyncio.Queue[News] = asyncio.Queue()
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
        """Whether someone else types now; a hint that was not taken back is forgotten after a while."""
        return time.monotonic() < self._typed_until

    async def news(self) -> AsyncIterator[News]:
        """What happens in the session, without us."""
        while True:
            yield await self._news.get()

    async def make(self, model_id: str | None = None) -> str:
        """Make a session and go there."""
        await self.unwatch()
        async with self._link.asking() as client:
            session = await client.create_session(model_id or self.model_id)
        self._link.tally.sessions_made += 1
        await self.enter(session.session_id)
        return session.session_id

    async def enter(self, session_id: str | None) -> None:
        """Go to a session, or to none."""
        await self.unwatch()
        self.session_id, self._last_turn = session_id, None
        self.watch()

    def watch(self) -> None:
        """Listen to the session, where a connection is held."""
        watched = self._watching is not None and not self._watching.done()
        if (
            self._company
            and not watched
            and self.session_id
            and self._link.client.holds_connection
            and not self._link.parted
        ):
            self._watching = asyncio.create_task(self._watch(self.session_id))

    async def unwatch(self) -> None:
        """Listen no more."""
        tasks = [task for task in (self._watching, self._telling) if task is not None]
        self._watching = self._telling = None
        self._told, self._typed_until = False, 0.0
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def nudge(self) -> None:
        """The server is there again, as someone else found out: no need to wait longer."""
        self._nudged.set()

    @contextlib.contextmanager
    def doing(self, update_type: str) -> Iterator[None]:
        """What we do to the session ourselves, unless it is refused: its next hint is no news from someone else."""
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
                async with aclosing(self._link.client.watch(session_id)) as items:
                    async for item in items:
                        self._hear(item)
            except ChatError:
                # The session is gone, or this server refuses us; the next request says so in words.
                return
            except ConnectionLost as error:
                self._link.state = "down"
                if self._lost_at is None:
                    self._lost_at, tries = time.monotonic(), 0
                    self._news.put_nowait(Dropped(error.message))
            finally:
                looking.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)]):
                    await self._nudged.wait()
            tries += 1

    async def _look(self, session_id: str) -> None:
        """What began before we listened: joining replays nothing. An answer also says that the line is back."""
        for after_s in _LOOKS_S:
            await asyncio.sleep(after_s)
            try:
                session = await self._link.client.get_session(session_id)
            except (ChatError, ConnectionLost):
                continue
            if self._lost_at is not None:
                self._link.state = "up"
                self._news.put_nowait(Back((time.monotonic() - self._lost_at) * 1000))
                self._lost_at = None
            turn_id, missed = session.running_turn_id, session.last_turn_id
            if self._last_turn is not None and missed != self._last_turn:
                turn_id = turn_id or missed
            self._last_turn = missed or ""
            if turn_id is not None:
                self._news.put_nowait(Began(turn_id))

    def _hear(self, item: object) -> None:
        if isinstance(item, TurnStarted):
            self._typed_until, self._last_turn = 0.0, item.turn_id
            self._news.put_nowait(Began(item.turn_id, item.request_id))
        elif isinstance(item, SessionUpdate):
            if item.update_type == "user_typing":
                self._typed_until = time.monotonic() + _SHOWN_S if item.typing else 0.0
            if self._expected.pop((item.session_id, item.update_type), 0.0) > time.monotonic():
                return
            self._news.put_nowait(item)

    def type(self, text: str) -> None:
        """Tell the others that we type, or no longer do; commands are nobody's business."""
        typing = bool(text) and not text.startswith("/")
        now = time.monotonic()
        stale = typing and now - self._told_at > _AGAIN_S
        watched = self._watching is not None and self._link.state != "down"
        if self.session_id and watched and (typing != self._told or stale):
            self._told, self._told_at = typing, now
            before, self._telling = self._telling, None
            self._telling = asyncio.create_task(self._tell(self.session_id, typing, before))

    async def _tell(self, session_id: str, typing: bool, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        with contextlib.suppress(ChatError, ConnectionLost):
            await self._link.client.typing(session_id, typing)
