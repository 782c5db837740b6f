"""The messages of a conversation in both directions: JSON objects on the WebSocket, a ``oneof`` in gRPC's ``Chat``.

The events of turns, which the server sends between its messages, are in ``events.py``.
"""

from __future__ import annotations

import msgspec

from shared.events import Status
from shared.session import SessionUpdate


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    pass


class _Asked(_Message, frozen=True, kw_only=True):
    """A message of the client. Its ``request_id`` is repeated in an ``error``; where a turn starts it is also the key."""

    request_id: str | None = None


class Chat(_Asked, frozen=True, kw_only=True, tag="chat"):
    """Start a chat in the named session, else in the joined one, else in a new session, which is joined then.

    ``new_session`` starts the chat in a new session. The joined session stays joined.
    """

    message: str
    session_id: str | None = None
    model_id: str | None = None
    new_session: bool = False


class Image(_Asked, frozen=True, kw_only=True, tag="image"):
    """Start a picture; without ``session_id`` it belongs to no session."""

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
    """Read a turn from a cursor, in place of the events of this turn that this connection is being sent.

    ``epoch``: that of the terminal event that the client has read; None is 0.
    """

    turn_id: str
    after: int
    epoch: int | None = None


class Cancel(_Asked, frozen=True, kw_only=True, tag="cancel"):
    """Stop a turn; the answer is ``resumed`` with the turn's state, when the turn has stopped."""

    turn_id: str


class TypingStart(_Asked, frozen=True, kw_only=True, tag="typing_start"):
    """The user types."""


class TypingStop(_Asked, frozen=True, kw_only=True, tag="typing_stop"):
    """The user stopped typing."""


class Ping(_Asked, frozen=True, kw_only=True, tag="ping"):
    """Ask for a ``pong``."""


class Auth(_Asked, frozen=True, kw_only=True, tag="auth"):
    """A ticket: the first message of a browser where the server wants a key."""

    ticket: str


ClientMessage = Chat | Image | CreateSession | JoinSession | Resume | Cancel | TypingStart | TypingStop | Ping | Auth


class ServerInfo(msgspec.Struct, frozen=True):
    """The provider, the model and the framework of a server."""

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
    """The session was joined; a turn that runs in it (``running_turn_id``) can be resumed."""

    session_id: str
    model: str | None
    message_count: int
    running_turn_id: str | None


class Resumed(_Message, frozen=True, kw_only=True, tag="resumed", omit_defaults=True):
    """The state of a turn, before the events of every resume.

    The answer to ``cancel`` too, with ``after`` = ``last_seq``. ``lost``, which is absent in JSON when it is false: the
    store has lost events that this client was sent. ``after`` is 0 then, the client drops what it shows of the turn,
    and all events follow. The server sends such a message also without a request.
    """

    turn_id: str
    after: int
    last_seq: int
    status: Status
    lost: bool = False


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """The answer to ``ping``."""


class Error(_Message, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """A refusal; the connection stays open. ``request_id`` is the one of the refused message, if it had one."""

    code: str
    message: str
    retryable: bool
    request_id: str | None = None


class Heartbeat(_Message, frozen=True, kw_only=True, tag="heartbeat"):
    """On gRPC's ``Chat`` only, after a silence. A WebSocket has pings of its own for this (RFC 6455, section 5.5.2)."""


ServerMessage = Connected | SessionCreated | SessionJoined | Resumed | Pong | Error | Heartbeat | SessionUpdate
