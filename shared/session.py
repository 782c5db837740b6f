"""Sessions and their messages, as every transport shows them."""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.events import Status

TITLE_CHARS = 60


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation. A null ``model`` is the server's default, resolved for each turn.

    ``connections`` counts the connections that are joined in this process. The model is given the newest turns that fit
    in ``max_context_chars``, each whole. ``title`` is the beginning of the first message, on one line.
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
    title: str = ""


class SessionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, newest first. ``next_cursor`` is null on the last page.

    ``active_sessions`` counts those used within SESSION_ACTIVE_S.
    """

    sessions: list[Session]
    next_cursor: str | None
    active_sessions: int


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a session; ``status`` is the status of the message's turn.

    ``truncated``, which is absent in JSON when it is false: the text was cut at 3 MiB, and the turn's log has all of it.
    """

    message_id: str
    turn_id: str
    role: Literal["user", "model"]
    text: str
    status: Status
    image_id: str | None
    created_at: float
    truncated: bool = False


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Messages in order. A page ends before its texts pass 3 MiB; ``next_cursor`` is null on the last page."""

    messages: list[Message]
    next_cursor: str | None


class ModelInfo(msgspec.Struct, frozen=True):
    """A model id that a request may name."""

    model: str
    default: bool


class SessionUpdate(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="session_update"
):
    """A hint to the other connections of a session; it comes at most once and has no seq."""

    session_id: str
    update_type: Literal["user_typing", "message_added", "session_cleared", "session_deleted"]
    typing: bool | None = None
    message_count: int | None = None


class TurnBegan(msgspec.Struct, frozen=True):
    """A turn started in a joined session, in this process or in another one."""

    session_id: str
    turn_id: str


def title_of(first_message: str) -> str:
    """The title of a session that begins with this message: its first words, at most ``TITLE_CHARS`` characters."""
    words = " ".join(first_message[: 8 * TITLE_CHARS].split())
    return words if len(words) <= TITLE_CHARS else f"{words[: TITLE_CHARS - 1].rstrip()}…"


def short(identifier: str | None) -> str:
    """The first eight characters of an id, as logs and clients show sessions and connections; ``-`` for none."""
    return identifier[:8] if identifier else "-"


def short_turn(turn_id: str | None) -> str:
    """The last eight characters of a turn's id, as logs and clients show turns; ``-`` for none.

    The first eight are the same for all turns of a minute.
    """
    return turn_id[-8:] if turn_id else "-"
