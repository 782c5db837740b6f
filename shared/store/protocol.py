"""The protocol of a store, where sessions, turns and their logs live.

"Committed" on SQLite means: in the write-ahead log with ``synchronous=NORMAL``. A committed event survives the death of
the process (kill -9). After the death of the machine the newest commits may be missing, and never a part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from shared.errors import ChatError
from shared.events import Kind, Status
from shared.llm.model import ContextMessage
from shared.session import Message, Session
from shared.store.record import Record

SignalKind = Literal["turn_started", "cancel", "message_added", "session_cleared", "session_deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A turn to be recorded. Times are epoch ms; ``owner`` is the id of the generating process.

    ``model_id`` is the model that the request names, if any. ``max_context_chars`` bounds the context: the newest turns
    that fit are given to the model, each whole.
    """

    turn_id: str
    kind: Kind
    input: str
    session_id: str | None
    new_session_id: str | None
    model_id: str | None
    default_model: str
    request_id: str | None
    request_hash: str
    owner: str
    now: float
    lease_until: float
    max_context_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """A turn as the store has it."""

    turn_id: str
    kind: Kind
    session_id: str | None
    status: Status
    last_seq: int
    owner: str
    lease_until: float
    last_read_at: float
    ended_at: float | None
    expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The outcome of ``start_turn``. ``joined``: the key was known, so ``turn`` is an earlier turn and nothing was
    started.

    ``message_count`` counts the session's messages with the new one, and is null without a session.
    """

    turn: TurnRow
    joined: bool
    model: str = ""
    context: tuple[ContextMessage, ...] = ()
    first: Record | None = None
    message_count: int | None = None
    made_session: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """A whole picture; ``sha256`` in hex."""

    image_id: str
    turn_id: str
    mime_type: str
    width: int
    height: int
    sha256: str
    preview: bool
    revised_prompt: str | None
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a turn ends with its terminal event; ``text`` is the reply that the session's messages keep."""

    status: Status
    text: str
    image_id: str | None
    ended_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Records to be appended to one log, in order, by the process that owns the turn."""

    turn_id: str
    owner: str
    lease_until: float
    records: list[Record]
    images: list[StoredImage] = field(default_factory=list)
    end: End | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A notice from one process to the others, such as a cancel; a store keeps it for a minute."""

    signal_id: int
    origin: str
    kind: SignalKind
    session_id: str | None
    turn_id: str | None
    message_count: int | None


class Store(Protocol):
    """Everything that outlives a process. Times are epoch ms.

    Every method may raise ChatError ``storage_unavailable``, besides the codes that its docstring names.
    """

    async def create_session(self, session_id: str, model_id: str | None, now: float) -> None:
        """Make a session."""
        ...

    async def get_session(self, session_id: str) -> Session | None:
        """The session, or None."""
        ...

    async def list_sessions(
        self, limit: int, before: tuple[float, str] | None, active_since: float
    ) -> tuple[list[Session], int]:
        """A page, newest first by (created_at, session_id), and how many sessions were used since ``active_since``."""
        ...

    async def list_messages(self, session_id: str, limit: int, after: str | None) -> tuple[list[Message], bool]:
        """Messages in order, after the message id ``after``; and whether there are more.

        The page ends before its texts pass 3 MiB, but holds at least one message; a longer text is cut. Raises
        ``session_not_found``, and ``invalid_request`` when the session does not show the message ``after`` any more.
        """
        ...

    async def clear_session(self, session_id: str, origin: str, now: float) -> None:
        """Drop the messages and keep the logs. Raises ``session_not_found``, ``turn_in_progress``."""
        ...

    async def delete_session(self, session_id: str, origin: str, now: float) -> None:
        """Drop the session, its turns and their logs. Raises ``session_not_found``, ``turn_in_progress``."""
        ...

    async def start_turn(self, new: NewTurn) -> Started:
        """Check, record the turn with its first event, and collect the context: one transaction.

        Raises ``idempotency_key_reused``, ``session_not_found``, ``turn_in_progress``; then nothing is recorded.
        """
        ...

    async def append(self, batch: Sequence[Append]) -> list[bool]:
        """Append to several logs in one commit; for each entry whether it was appended.

        An entry is not appended when its owner does not own the running turn any more, or when its seq does not follow
        the log's.
        """
        ...

    async def get_turn(self, turn_id: str) -> TurnRow | None:
        """The turn, or None."""
        ...

    async def read(self, turn_id: str, after: int) -> tuple[TurnRow, list[Record]] | None:
        """The turn and the records after seq ``after``, from one snapshot; None when there is no such turn."""
        ...

    async def read_text(self, turn_id: str) -> tuple[TurnRow, str] | None:
        """The turn and its text so far; None when there is no such turn."""
        ...

    async def get_image(self, image_id: str) -> StoredImage | None:
        """The picture, or None."""
        ...

    def keep_leases(self, owner: str, lease_s: float) -> None:
        """Renew the leases of ``owner``'s running turns from a thread, for as long as this process lives.

        A process whose event loop is busy for seconds keeps its turns. A process that is stopped or dead loses them.
        """
        ...

    async def renew(
        self, owner: str, lease_until: float, read: Sequence[str], now: float, dropped: Sequence[str] = ()
    ) -> None:
        """Renew the leases of ``owner``'s running turns. The leases of the turns in ``dropped`` end now.

        The turns in ``read`` have a reader in this process now; the store notes the time.
        """
        ...

    async def reap(self, now: float) -> list[str]:
        """Interrupt every running turn whose lease is over (``turn_interrupted``); their ids."""
        ...

    async def signal(
        self, origin: str, kind: SignalKind, now: float, *, session_id: str | None = None, turn_id: str | None = None
    ) -> None:
        """Send a signal to the other processes."""
        ...

    async def changes(self, after: int) -> list[Signal] | None:
        """None when no other connection has written since the last call; else the signals after id ``after``."""
        ...

    async def last_signal(self) -> int:
        """The id of the newest signal; 0 when there is none."""
        ...

    async def purge(self, logs_before: float, turns_before: float, signals_before: float) -> None:
        """Drop the logs of turns that ended before ``logs_before``, the tombstones before ``turns_before``, old signals."""
        ...

    async def close(self) -> None:
        """Finish the operations that wait, and close."""
        ...


def refuse_missing(session: object | None) -> None:
    """Raise ``session_not_found`` for None."""
    if session is None:
        raise ChatError("session_not_found")
