"""Who is joined to which session in this process: the connections that are told what happens in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from shared.session import SessionUpdate, TurnBegan


class Membership:
    """A connection that joined a session: hints about it and the turns that start in it, for as long as the block runs."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._queue: asyncio.Queue[SessionUpdate | TurnBegan] = asyncio.Queue()

    def put(self, item: SessionUpdate | TurnBegan) -> None:
        """Hand one over."""
        self._queue.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[SessionUpdate | TurnBegan]:
        while True:
            yield await self._queue.get()


class Members:
    """The joined connections of this process."""

    def __init__(self) -> None:
        self._of: dict[str, set[Membership]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def count(self, session_id: str) -> int:
        """How many connections are joined to a session."""
        return len(self._of.get(session_id, ()))

    @contextlib.contextmanager
    def join(self, session_id: str, member: Membership | None = None) -> Iterator[Membership]:
        """Be a connection of a session, as ``member`` where there is one already; iterate it for what happens there."""
        member = member or Membership(session_id)
        member.session_id = session_id
        self._of.setdefault(session_id, set()).add(member)
        try:
            yield member
        finally:
            members = self._of[session_id]
            members.discard(member)
            if not members:
                del self._of[session_id]

    def tell(self, item: SessionUpdate | TurnBegan, origin: Membership | None = None) -> None:
        """Hand an item to every connection of its session but the one that caused it."""
        for member in self._of.get(item.session_id, ()):
            if member is not origin:
                member.put(item)

    def message_added(self, session_id: str, count: int | None, origin: Membership | None = None) -> None:
        """Tell that a session has a message more, and how many now."""
        self.tell(SessionUpdate(session_id=session_id, update_type="message_added", message_count=count), origin)
