"""What one reader of a WebSocket connection has not read yet."""

from __future__ import annotations

import asyncio

from shared.client.transport import TurnItem
from shared.session import SessionUpdate


class Inbox:
    """Events and hints in their order. An exception in it ends the reader."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[TurnItem | SessionUpdate | Exception] = asyncio.Queue()

    def put(self, item: TurnItem | SessionUpdate | Exception) -> None:
        """Add an item."""
        self._items.put_nowait(item)

    async def next(self) -> TurnItem | SessionUpdate:
        """Wait for the next item. Raises an exception that was put."""
        item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def next_turn_item(self) -> TurnItem:
        """Wait for the next item of a turn. A reader of a turn receives no hints."""
        item = await self.next()
        assert not isinstance(item, SessionUpdate)
        return item
