"""The messages of an ASGI connection that the app has not received yet."""

from __future__ import annotations

import asyncio
from typing import Any


class ReceivedMessages:
    """What uvicorn's WebSocket uses of ``asyncio.Queue``, for one receiver at a time.

    An ``asyncio.Queue`` keeps four deques, which are 3 KiB for each open connection.
    """

    __slots__ = ("_messages", "_receiver")

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._receiver: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        """Whether the app has received all messages."""
        return not self._messages

    def put_nowait(self, message: Any) -> None:
        """Append a message, and wake the receiver."""
        self._messages.append(message)
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    async def get(self) -> Any:
        """Wait for the next message and take it out. A wait that is cancelled loses no message."""
        while not self._messages:
            self._receiver = asyncio.get_running_loop().create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        return self._messages.pop(0)
