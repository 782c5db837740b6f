"""Sessions and their messages, as every transport shows them."""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.events import Status


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation. ``model`` null: the server's default, resolved for each turn; ``connections``: joined in this process.

    The model is given the newest whole turns that fit in ``max_context_chars``.
    """

    session_id: str
    model: str | None
    message_count: int
    user_messages: int
    model_messages: int
    created_at: float
    last_activity_at: float
    running_turn_id: str | None
    last_turn_id: str | None
    connections: int = 0
    max_context_chars: int = 0


class SessionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; ``next_cursor`` is null on the last page; ``active_sessions`` counts all used within SESSION_ACTIVE_S."""

    sessions: list[Session]
    next_cursor: str | None
    active_sessions: int


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message, in order; ``status`` is its turn's."""

    message_id: str
    turn_id: str
    role: Literal["user", "model"]
    text: str
    status: Status
    image_id: str | None
    created_at: float


class ModelInfo(msgspec.Struct, frozen=True):
    """A model id one may ask for."""

    model: str
    default: bool


class SessionUpdate(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="session_update"
):
    """A hint to the other connections of a session: at most once, without a seq."""

    session_id: str
    update_type: Literal["user_typing", "message_added", "session_cleared", "session_deleted"]
    typing: bool | None = None
    message_count: int | None = None


class TurnBegan(msgspec.Struct, frozen=True):
    """A turn started in a joined session, here or in another process."""

    session_id: str
    turn_id: str
