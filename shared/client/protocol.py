"""What the shell, the comparison and the diagrams call: the same client protocol on all five transports.

A leaf's client sends and reads once (``TransportClient``). ChatClient adds what no wire has by itself: it comes back after a lost
connection, drops events that it has already, notices a missing one, and compares the sha256 at the end.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any

from shared.client.following import (
    Attempt,
    Item,
    Lost,
    Reconnected,
    Rewound,
    SequenceCheck,
    collect,
    collect_picture,
    follow,
)
from shared.client.transport import Ask, ClientCounts, TransportClient
from shared.session import Message

__all__ = ["Ask", "ChatClient", "ClientCounts", "Item", "Lost", "Reconnected", "Rewound", "collect", "collect_picture"]


class ChatClient(TransportClient):
    """A client of one transport that follows turns to their end. Use it as ``async with``.

    ``resume=False`` shows the protocol without resuming: the first lost connection raises ConnectionLost.
    ``give_up_s``: the longest time without a new event before the client gives up.
    """

    def __init__(self, address: str, *, resume: bool = True, give_up_s: float = 30.0, **options: Any) -> None:
        super().__init__(address, **options)
        self._resume = resume
        self._give_up_s = give_up_s

    def chat(
        self,
        message: str,
        *,
        session_id: str | None = None,
        model_id: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Send a message and read the reply to its end: events (plain REST: one Reply), Lost and Reconnected between them."""
        request_id = request_id or str(uuid.uuid4())
        return self.follow(Ask(text=message, session_id=session_id, model_id=model_id, request_id=request_id))

    def image(
        self, prompt: str, *, size: str | None = None, session_id: str | None = None, request_id: str | None = None
    ) -> AsyncGenerator[Item, None]:
        """Ask for a picture of ``size`` WIDTHxHEIGHT: its events (plain REST: one Picture)."""
        request_id = request_id or str(uuid.uuid4())
        return self.follow(Ask(text=prompt, kind="image", size=size, session_id=session_id, request_id=request_id))

    def follow(self, ask: Ask) -> AsyncGenerator[Item, None]:
        """Start a turn of either kind, chat or image, and read it to its end."""
        stream = self.stream_image if ask.kind == "image" else self.stream_chat
        return self._follow(lambda: stream(ask), SequenceCheck(None, 0))

    def read(self, turn_id: str, after: int = 0, epoch: int = 0) -> AsyncGenerator[Item, None]:
        """Read a turn from a cursor to its end, on any transport. Any client may have started the turn."""
        return self._follow(lambda: self.stream_turn(turn_id, after, epoch), SequenceCheck(turn_id, after))

    async def list_messages(self, session_id: str) -> list[Message]:
        """All messages of a session, in order, page by page."""
        page = await self.message_page(session_id)
        messages = page.messages
        while page.next_cursor is not None:
            page = await self.message_page(session_id, cursor=page.next_cursor)
            messages += page.messages
        return messages

    def _follow(self, first: Attempt, check: SequenceCheck) -> AsyncGenerator[Item, None]:
        return follow(self, first, check, resume=self._resume, give_up_s=self._give_up_s)
