"""The messages on a held connection, both ways: the WebSocket's JSON objects by these names, and gRPC's ``Chat`` in its ``oneof``.

The events themselves stand in ``events.py``.
"""

from __future__ import annotations

import msgspec

from shared.events import Status
from shared.session import SessionUpdate


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    pass


class _Asked(_Message, frozen=True, kw_only=True):
    """What a client sends. Any of it may bear a ``request_id``, which an ``error`` repeats; of a turn it is also the key."""

    request_id: str | None = None


class Chat(_Asked, frozen=True, kw_only=True, tag="chat"):
    """Ask; without ``session_id`` in the joined session, or in a new one that is joined then.

    ``new_session``: in a new one whatever is joined, and that stays as it is.
    """

    message: str
    session_id: str | None = None
    model_id: str | None = None
    new_session: bool = False


class Image(_Asked, frozen=True, kw_only=True, tag="image"):
    """Ask for a picture; outside any session when ``session_id`` is absent."""

    prompt: str
    size: str | None = None
    session_id: str | None = None


class CreateSession(_Asked, frozen=True, kw_only=True, tag="create_session"):
    """Make a session and join it."""

    model_id: str | None = None


class JoinSession(_Asked, frozen=True, kw_only=True, tag="join_session"):
    """Get the events of every turn that starts in the session from now on."""

    session_id: str


class Resume(_Asked, frozen=True, kw_only=True, tag="resume"):
    """Read a turn from a cursor; replaces its live subscription on this connection."""

    turn_id: str
    after: int


class Cancel(_Asked, frozen=True, kw_only=True, tag="cancel"):
    """Stop a turn; answered with ``resumed``, which tells its state, when it has stopped."""

    turn_id: str


class TypingStart(_Asked, frozen=True, kw_only=True, tag="typing_start"):
    """Someone types."""


class TypingStop(_Asked, frozen=True, kw_only=True, tag="typing_stop"):
    """Someone stopped typing."""


class Ping(_Asked, frozen=True, kw_only=True, tag="ping"):
    """Asks for a ``pong``."""


class Auth(_Asked, frozen=True, kw_only=True, tag="auth"):
    """A browser's first message where a key is wanted: a ticket."""

    ticket: str


ClientMessage = Chat | Image | CreateSession | JoinSession | Resume | Cancel | TypingStart | TypingStop | Ping | Auth


class ServerInfo(msgspec.Struct, frozen=True):
    """Which server this is."""

    provider: str
    model: str
    framework: str


class Connected(_Message, frozen=True, kw_only=True, tag="connected"):
    """The first message of every connection."""

    connection_id: str
    server_info: ServerInfo


class SessionCreated(_Message, frozen=True, kw_only=True, tag="session_created"):
    """The session was made and joined."""

    session_id: str
    model: str | None


class SessionJoined(_Message, frozen=True, kw_only=True, tag="session_joined"):
    """The session was joined; ``running_turn_id`` can be resumed."""

    session_id: str
    model: str | None
    message_count: int
    running_turn_id: str | None


class Resumed(_Message, frozen=True, kw_only=True, tag="resumed"):
    """Before the events of every resume: what there is. Also the answer to ``cancel``, with ``after`` = ``last_seq``."""

    turn_id: str
    after: int
    last_seq: int
    status: Status


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """The answer to ``ping``."""


class Error(_Message, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """A refusal; the connection stays open. ``request_id`` names the refused request where it had one."""

    code: str
    message: str
    retryable: bool
    request_id: str | None = None


ServerMessage = Connected | SessionCreated | SessionJoined | Resumed | Pong | Error | SessionUpdate
