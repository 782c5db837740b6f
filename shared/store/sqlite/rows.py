"""Rows of the tables as the objects that the store's protocol names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any, Literal

import apsw

from shared.events import Status
from shared.session import Message, Session, title_of
from shared.store.protocol import Signal, SignalKind, StoredImage, TurnRow
from shared.store.sqlite.journal import last_journaled
from shared.store.texts import cut_text

Role = Literal["user", "model"]
_SELECT_SESSION = """
SELECT s.session_id, s.model_id, s.created_at, s.last_activity_at,
  coalesce(c.user_messages, 0), coalesce(c.model_messages, 0), c.running_turn_id, c.last_turn_id, {}
FROM sessions s LEFT JOIN session_counts c USING (session_id)
"""
SELECT_SESSION = _SELECT_SESSION.format(
    "(SELECT substr(t.input, 1, 480) FROM turns t"
    " WHERE t.session_id = s.session_id AND t.cleared = 0 ORDER BY t.number LIMIT 1)"
)
# For a session whose first message lies on a damaged page.
SELECT_UNTITLED_SESSION = _SELECT_SESSION.format("''")
_SELECT_TURN = (
    "SELECT turn_id, kind, session_id, status, last_seq, owner, epoch, last_read_at, lease_until, ended_at, expired{}"
    " FROM turns WHERE turn_id = ? AND expired < 2"
)
_TURN = _SELECT_TURN.format("")
_TURN_AND_TEXT = _SELECT_TURN.format(", text")


def statement(sql: str, *values: object) -> Callable[[apsw.Connection], object]:
    """An operation that runs one statement."""
    return lambda connection: connection.execute(sql, values)


@contextlib.contextmanager
def snapshot(connection: apsw.Connection) -> Iterator[None]:
    """Several reads of one state of the database. Inside a transaction there is one already."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # SQLite refuses to commit a transaction that has met a damaged page, even one that has only read.
        connection.execute("ROLLBACK")


def to_session(row: Any) -> Session:
    """A row of ``SELECT_SESSION``."""
    return Session(
        session_id=row[0],
        model=row[1],
        created_at=row[2],
        last_activity_at=row[3],
        message_count=row[4] + row[5],
        user_messages=row[4],
        model_messages=row[5],
        running_turn_id=row[6],
        last_turn_id=row[7],
        title=title_of(row[8] or ""),
    )


def to_message(turn_id: str, role: Role, text: str, status: Status, image_id: str | None, created_at: float) -> Message:
    """One message of a turn, its text cut at 3 MiB."""
    text, truncated = cut_text(text)
    return Message(
        message_id=f"{turn_id}:{role}",
        turn_id=turn_id,
        role=role,
        text=text,
        status=status,
        image_id=image_id,
        created_at=created_at,
        truncated=truncated,
    )


def select_turn(
    connection: apsw.Connection, turn_id: str, now: float, journaled_seq: int | None = None
) -> TurnRow | None:
    """The turn, unless it is no longer found; ``now`` is epoch ms.

    ``journaled_seq`` is the seq of the newest event in the journal. Where it is not given, the journal is read for it.
    """
    row = connection.execute(_TURN, (turn_id,)).fetchone()
    if row is None:
        return None
    turn = _to_turn(row, now)
    if turn.status != "running":
        return turn
    if journaled_seq is None:
        journaled_seq = last_journaled(connection, turn_id, turn.last_seq)
    return replace(turn, last_seq=journaled_seq) if journaled_seq > turn.last_seq else turn


def select_turn_and_text(connection: apsw.Connection, turn_id: str, now: float) -> tuple[TurnRow, str] | None:
    """The turn and its text, unless it is no longer found. A running turn has no text here, and the last seq of its log."""
    row = connection.execute(_TURN_AND_TEXT, (turn_id,)).fetchone()
    return (_to_turn(row, now), row[-1]) if row is not None else None


def _to_turn(row: Any, now: float) -> TurnRow:
    return TurnRow(
        turn_id=row[0],
        kind=row[1],
        session_id=row[2],
        status=row[3],
        last_seq=row[4],
        owner=row[5],
        epoch=row[6],
        unread_ms=max(0.0, now - row[7]),
        lease=row[8],
        ended_at=row[9],
        expired=bool(row[10]),
    )


def turns_of_session(
    connection: apsw.Connection, session_id: str, columns: str, first: int = 0, *, newest_first: bool = False
) -> Generator[Any, None, None]:
    """Columns of the turns that a session shows, in order, from the turn with the number ``first`` on.

    Each row is read when it is asked for. A turn that lies on a damaged page is left out.
    """
    order = "DESC" if newest_first else "ASC"
    which = f"WHERE session_id = ? AND cleared = 0 AND number >= ? ORDER BY number {order}"
    done: set[int] = set()
    try:
        for number, *row in connection.execute(f"SELECT number, {columns} FROM turns {which}", (session_id, first)):
            done.add(number)
            yield row
    except apsw.CorruptError:
        query = f"SELECT number FROM turns INDEXED BY turns_of_session {which}"
        numbers = [number for (number,) in connection.execute(query, (session_id, first)) if number not in done]
    else:
        return
    for number in numbers:
        with contextlib.suppress(apsw.CorruptError):
            yield from connection.execute(f"SELECT {columns} FROM turns WHERE number = ?", (number,)).fetchall()


def count_messages(connection: apsw.Connection, session_id: str) -> int:
    """How many messages a session has: one for each turn, and one for each reply."""
    row = connection.execute(
        "SELECT user_messages + model_messages FROM session_counts WHERE session_id = ?", (session_id,)
    ).fetchone()
    return int(row[0]) if row else 0


def is_shared(connection: apsw.Connection) -> bool:
    """Whether another process can open the database: one in memory is seen by this process alone."""
    return bool(connection.filename)


def insert_signal(
    connection: apsw.Connection,
    now: float,
    origin: str,
    kind: SignalKind,
    session_id: str | None,
    turn_id: str | None = None,
    message_count: int | None = None,
) -> None:
    """Tell the other processes, with the transaction."""
    if not is_shared(connection):
        return
    connection.execute(
        "INSERT INTO signals (at, origin, kind, session_id, turn_id, message_count) VALUES (?, ?, ?, ?, ?, ?)",
        (now, origin, kind, session_id, turn_id, message_count),
    )


def select_signals(connection: apsw.Connection, after: int) -> list[Signal]:
    """The signals whose id is above ``after``, in order."""
    rows = connection.execute(
        "SELECT signal_id, origin, kind, session_id, turn_id, message_count FROM signals WHERE signal_id > ?"
        " ORDER BY signal_id",
        (after,),
    )
    return [
        Signal(signal_id=row[0], origin=row[1], kind=row[2], session_id=row[3], turn_id=row[4], message_count=row[5])
        for row in rows
    ]


def last_signal(connection: apsw.Connection) -> int:
    """The id of the newest signal. AUTOINCREMENT remembers it also when the signals themselves are purged."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'signals'").fetchone()
    return int(row[0]) if row else 0


def select_image(connection: apsw.Connection, image_id: str) -> StoredImage | None:
    """The picture with its bytes, if there is one."""
    row = connection.execute(
        "SELECT image_id, turn_id, mime_type, width, height, sha256, preview, revised_prompt, data FROM images"
        " WHERE image_id = ?",
        (image_id,),
    ).fetchone()
    if row is None:
        return None
    return StoredImage(
        image_id=row[0],
        turn_id=row[1],
        mime_type=row[2],
        width=row[3],
        height=row[4],
        sha256=row[5],
        preview=bool(row[6]),
        revised_prompt=row[7],
        data=row[8],
    )
