"""What one reader of a WebSocket connection has not read yet."""

from __future__ import annotations

import asyncio

from shared.client.events import UnknownEvent
from shared.events import AnyEvent
from shared.session import SessionUpdate

TurnEvent = AnyEvent | UnknownEvent


class Inbox:
    """Events and hints in their order. An exception in it ends the reader."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[TurnEvent | SessionUpdate | Exception] = asyncio.Queue()

    def put(self, item: TurnEvent | SessionUpdate | Exception) -> None:
        """Add an item."""
        self._items.put_nowait(item)

    async def next(self) -> TurnEvent | SessionUpdate:
        """Wait for the next item. Raises an exception that was put."""
        item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def next_event(self) -> TurnEvent:
        """The messages for a reader of a turn. Such a reader receives no hints."""
        item = await self.next()
        assert not isinstance(item, SessionUpdate)
        return item
