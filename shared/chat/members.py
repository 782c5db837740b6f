"""The connections of this process that joined a session, and what each is told about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from shared.session import SessionUpdate, TurnBegan


class Membership:
    """One connection in one session. Iterate over it for the turns that start in the session, and for hints about it.

    ``after_signal`` is the newest signal of the store when the connection joined. Older signals tell of changes before
    the connection joined, so they are skipped.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.after_signal = 0
        self._queue: asyncio.Queue[tuple[SessionUpdate | TurnBegan, int | None]] = asyncio.Queue()

    def put(self, item: SessionUpdate | TurnBegan, signal_id: int | None) -> None:
        """Queue an item; ``signal_id`` is None for a change that this process made."""
        self._queue.put_nowait((item, signal_id))

    async def __aiter__(self) -> AsyncIterator[SessionUpdate | TurnBegan]:
        while True:
            item, signal_id = await self._queue.get()
            if signal_id is None or signal_id > self.after_signal:
                yield item


class Members:
    """The joined connections of this process, by session."""

    def __init__(self) -> None:
        self._of: dict[str, set[Membership]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def sessions(self) -> list[str]:
        """The sessions that have a connection here."""
        return list(self._of)

    def count(self, session_id: str) -> int:
        """How many connections are joined to a session."""
        return len(self._of.get(session_id, ()))

    def add(self, member: Membership, session_id: str) -> None:
        """Join a connection to a session."""
        member.session_id = session_id
        self._of.setdefault(session_id, set()).add(member)

    def remove(self, member: Membership) -> None:
        """Remove a connection from its session."""
        members = self._of[member.session_id]
        members.discard(member)
        if not members:
            del self._of[member.session_id]

    def tell(
        self, item: SessionUpdate | TurnBegan, *, origin: Membership | None = None, signal_id: int | None = None
    ) -> None:
        """Queue an item for every connection of its session but ``origin``, which caused it."""
        for member in self._of.get(item.session_id, ()):
            if member is not origin:
                member.put(item, signal_id)

    def message_added(
        self,
        session_id: str,
        count: int | None,
        *,
        origin: Membership | None = None,
        signal_id: int | None = None,
    ) -> None:
        """Tell the members that a session has one more message, and how many messages it has now."""
        update = SessionUpdate(session_id=session_id, update_type="message_added", message_count=count)
        self.tell(update, origin=origin, signal_id=signal_id)
