"""The protocol of a store, where sessions, turns and their logs live.

"Committed" on SQLite means: in the write-ahead log with ``synchronous=NORMAL``. A committed event survives the death of
the process (kill -9). After the death of the machine the newest commits may be missing, and never a part of one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from shared.errors import ChatError
from shared.events import Kind, Status
from shared.llm.model import ContextMessage
from shared.session import Message, Session
from shared.store.record import Record

SignalKind = Literal["turn_started", "cancel", "message_added", "session_cleared", "session_deleted", "user_typing"]
_WEEK_S = 7 * 24 * 3600.0


class Damaged(ChatError):
    """``internal`` because a part of the store is damaged and cannot be read; another try changes nothing."""

    def __init__(self) -> None:
        super().__init__(
            "internal",
            "A part of the store is damaged; start a new session. The server's operator runs `python -m protocols store check`.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a store is used. ``lease_s``: the process that owns a turn is gone when it has not renewed for so long.

    The log of an ended turn is kept for ``retention_s``; then the turn is ``expired`` for ``tombstone_s``. ``password``
    and ``ack_replicas`` are for stores on other machines.
    """

    lease_s: float = 3.0
    retention_s: float = 24 * 3600.0
    tombstone_s: float = _WEEK_S
    password: str | None = None
    ack_replicas: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A turn to be recorded; ``owner`` is the id of the generating process.

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
    max_context_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """A turn as the store has it.

    ``epoch`` is 1 when another process ended the turn for its owner, else 0. ``unread_ms``: how long no process has had
    a reader of the turn, by the store's clock. ``lease`` is a number that changes each time the owner renews its lease.
    """

    turn_id: str
    kind: Kind
    session_id: str | None
    status: Status
    last_seq: int
    owner: str
    epoch: int
    unread_ms: float
    lease: float
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


# Not frozen: one is made for nearly every event, and a frozen one takes three times as long to make.
@dataclass(slots=True, kw_only=True)
class Append:
    """Records to be appended to one log, in order, by the process that owns the turn.

    ``session_id`` and ``request_id`` are those with which the turn was started.
    """

    turn_id: str
    session_id: str | None
    request_id: str | None
    owner: str
    records: list[Record]
    images: list[StoredImage] = field(default_factory=list)
    end: End | None = None


class Appended(NamedTuple):
    """What became of one ``Append``, or where a running turn stands.

    ``done``: its records are in the store now; they may have been there before, after an attempt whose answer was lost.
    Otherwise ``why`` says what is wrong: ``fenced``, the owner does not own the running turn any more; ``behind``, the
    store has lost what it had acknowledged and the records from ``last_seq`` + 1 are wanted again; ``gone``, the turn
    does not exist any more; ``damaged``, the store will never take the records, and another try changes nothing.
    ``cancel``: somebody asks for the end of the turn.
    """

    done: bool
    last_seq: int
    why: Literal["", "fenced", "behind", "gone", "damaged"] = ""
    cancel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A notice from one process to the others, such as a cancel. A process that is away misses it.

    ``signal_id`` grows with each signal; it is 0 for ``user_typing``, which is not counted.
    """

    signal_id: int
    origin: str
    kind: SignalKind
    session_id: str | None
    turn_id: str | None
    message_count: int | None
    typing: bool | None = None


class Pushed(NamedTuple):
    """What was committed to a turn that this process follows: the stored JSON of the events from ``first_seq`` on."""

    turn_id: str
    first_seq: int
    lines: list[bytes]


class Moved(NamedTuple):
    """A turn that this process follows has changed, and its events are not pushed: read the turn."""

    turn_id: str


class NewsLost(NamedTuple):
    """Some news may have been lost: read every followed turn and joined session once."""


News = Signal | Pushed | Moved | NewsLost


class Store(Protocol):
    """Everything that outlives a process. Times are epoch ms.

    Every method may raise ChatError ``storage_unavailable``, besides the codes that its docstring names. Leases and
    last reads are by the store's clock; ``clock_offset_ms`` moves it in tests, for this store object alone.
    ``committed`` says in one line what a committed event survives. ``goes_back``: the store can lose what it has
    acknowledged while this process lives, because it runs on another machine. ``notice`` is what the operator should know
    of the store as it was found, or an empty text.
    """

    clock_offset_ms: float
    committed: str
    goes_back: bool
    notice: str

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

        The first event's ``at`` is the time of this transaction. Raises ``idempotency_key_reused``,
        ``session_not_found``, ``turn_in_progress``; then nothing is recorded.
        """
        ...

    async def append(self, batch: Sequence[Append]) -> list[Appended]:
        """Append to several logs in one commit. Returns the outcome of each entry.

        A repeated entry is appended once. An entry is appended whole or not at all, also when another entry is refused.
        Raises only when the store accepts nothing at all.
        """
        ...

    async def get_turn(self, turn_id: str) -> TurnRow | None:
        """The turn, or None."""
        ...

    async def read(self, turn_id: str, after: int) -> tuple[TurnRow, list[Record]] | None:
        """The turn and the records after seq ``after``, from one snapshot; None when there is no such turn.

        Raises Damaged when the log of this turn cannot be read.
        """
        ...

    async def read_text(self, turn_id: str) -> tuple[TurnRow, str] | None:
        """The turn and its text so far; None when there is no such turn."""
        ...

    async def get_image(self, image_id: str) -> StoredImage | None:
        """The picture, or None."""
        ...

    async def cancel(self, turn_id: str, origin: str) -> None:
        """Ask for the end of a running turn. The store keeps that with the turn, and a signal wakes the owner earlier."""
        ...

    def keep_leases(self, owner: str) -> None:
        """Renew the leases of ``owner``'s running turns from a thread, for as long as this process lives.

        A process whose event loop is busy for seconds keeps its turns. A process that is stopped or dead loses them.
        """
        ...

    async def renew(
        self, owner: str, running: Sequence[str], read: Sequence[str], dropped: Sequence[str] = ()
    ) -> list[Appended]:
        """Renew the leases of ``owner``'s running turns, and say where each turn of ``running`` stands.

        The leases of the turns in ``dropped`` end now. The turns in ``read`` have a reader in this process now; the
        store notes the time.
        """
        ...

    async def owned(self, owner: str) -> list[str]:
        """The ids of the running turns that belong to ``owner``."""
        ...

    async def reap(self) -> list[str]:
        """Interrupt the running turns whose leases are over (``turn_interrupted`` with epoch 1), and return their ids.

        No clock of another process decides: a lease is over when this process has seen it unchanged for ``lease_s``, or
        by the clock of a store on another machine. Nothing is interrupted until this process has been in contact with
        the store for a while, because nobody can renew a lease while the store is away. A log that cannot be read does
        not affect the other turns.
        """
        ...

    async def follow(self, turn_id: str) -> None:
        """Have ``news`` tell what is committed to a turn from now on. Follow first, then read: then nothing is missed."""
        ...

    def unfollow(self, turn_id: str) -> None:
        """Stop following a turn."""
        ...

    def news(self, wanted: Callable[[], bool]) -> AsyncIterator[News]:
        """What happens in the store, for one task of this process, until it stops. An outage ends with ``NewsLost``.

        A store that has to look for news looks only while ``wanted()``.
        """
        ...

    async def last_signal(self) -> int:
        """The id of the newest signal; 0 when there is none."""
        ...

    async def typing(self, session_id: str, origin: str, typing: bool) -> None:
        """Tell the other processes that somebody types, or stopped. A store that has no way to push does nothing."""
        ...

    async def purge(self) -> bool:
        """Take one short step in dropping what has been kept for long enough. Returns whether there is more.

        A store that drops old data by itself has nothing to do.
        """
        ...

    async def check_write(self) -> None:
        """Write something small, in the places where a new turn is written. Raises ``storage_unavailable``."""
        ...

    async def close(self) -> None:
        """Finish the operations that wait, and close."""
        ...


def refuse_missing(session: object | None) -> None:
    """Raise ``session_not_found`` for None."""
    if session is None:
        raise ChatError("session_not_found")
