"""Starting, appending to and ending a turn: what happens inside the store's transactions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import apsw

from shared.errors import ChatError
from shared.events import TurnInterrupted
from shared.llm.model import ContextMessage
from shared.reply import text_sha256
from shared.store.protocol import Append, Appended, Damaged, End, NewTurn, Started, refuse_missing
from shared.store.record import Record
from shared.store.sqlite.connection import makes_room
from shared.store.sqlite.journal import Row, insert_segment, last_journaled, move, read_journal, read_unmoved, rows_of
from shared.store.sqlite.leases import Orphan
from shared.store.sqlite.logs import read_log, read_texts
from shared.store.sqlite.rows import count_messages, insert_signal, is_shared, select_turn, turns_of_session
from shared.store.starting import started_turn

Context = tuple[ContextMessage, ...]
_IN_CONTEXT = frozenset({"completed", "cancelled", "interrupted"})
_APPEND = (
    "UPDATE turns SET last_seq = ?, lease_until = ? WHERE turn_id = ? AND owner = ? AND status = 'running'"
    " AND last_seq = ? RETURNING cancel, session_id"
)
_APPEND_THE_END = _APPEND.replace(" WHERE", ", status = ?, ended_at = ?, text = ?, image_id = ? WHERE")


def insert_session(connection: apsw.Connection, session_id: str, model_id: str | None, now: float) -> None:
    """Make a session."""
    connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (session_id, model_id, now, now))


def refuse_running(connection: apsw.Connection, session_id: str) -> None:
    """Raise ``session_not_found``, ``turn_in_progress``."""
    refuse_missing(connection.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,)).fetchone())
    running = "SELECT 1 FROM session_counts WHERE session_id = ? AND running_turn_id IS NOT NULL"
    if connection.execute(running, (session_id,)).fetchone():
        raise ChatError("turn_in_progress")


def read_context(connection: apsw.Connection, session_id: str, max_chars: int) -> Context:
    """What the model is told of a session: the newest turns that fit in ``max_chars``, oldest first, both messages of
    each.

    A failed turn is left out, and so is a turn whose reply has no text: providers refuse an empty message.
    """
    said: list[tuple[str, str]] = []
    chars = 0
    columns = "input, text, kind, status"
    with closing(turns_of_session(connection, session_id, columns, newest_first=True)) as turns:
        for text_in, text, kind, status in turns:
            if kind != "chat" or status not in _IN_CONTEXT or not text.strip():
                continue
            chars += len(text_in) + len(text)
            if chars > max_chars:
                break
            said.append((text_in, text))
    return tuple(
        message
        for text_in, text in reversed(said)
        for message in (ContextMessage("user", text_in), ContextMessage("model", text))
    )


def start_turn(
    connection: apsw.Connection, new: NewTurn, now: float, lease_until: float, context: Context | None = None
) -> Started:
    """Check, record the turn with its first event, and collect the context if it is not given; see the protocol."""
    if new.request_id is not None:
        row = connection.execute(
            "SELECT turn_id, request_hash FROM turns WHERE request_id = ?", (new.request_id,)
        ).fetchone()
        if row is not None:
            if row[1] != new.request_hash:
                raise ChatError("idempotency_key_reused")
            turn = select_turn(connection, row[0], now)
            if turn is not None:
                return Started(turn=turn, joined=True)
    session_id = new.session_id
    session_model: str | None = None
    if session_id is not None:
        row = connection.execute("SELECT model_id FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        refuse_missing(row)
        session_model = row[0] if row else None
        refuse_running(connection, session_id)
        if new.kind == "chat" and context is None:
            context = read_context(connection, session_id, new.max_context_chars)
    elif new.new_session_id is not None:
        session_id = new.new_session_id
        insert_session(connection, session_id, new.model_id, now)
    started = started_turn(new, session_id, session_model, context or (), now)
    assert started.first is not None
    connection.execute(
        "INSERT INTO turns (turn_id, session_id, kind, input, request_id, request_hash, status, last_seq, owner,"
        " lease_until, last_read_at, created_at) VALUES (?, ?, ?, ?, ?, ?, 'running', 1, ?, ?, ?, ?)",
        (
            new.turn_id,
            session_id,
            new.kind,
            new.input,
            new.request_id,
            new.request_hash if new.request_id is not None else None,
            new.owner,
            lease_until,
            now,
            now,
        ),
    )
    insert_segment(connection, new.turn_id, rows_of([started.first]))
    count: int | None = None
    if session_id is not None:
        count = 1
        if new.session_id is not None:
            connection.execute("UPDATE sessions SET last_activity_at = ? WHERE session_id = ?", (now, session_id))
            count = count_messages(connection, session_id)
        insert_signal(connection, now, new.owner, "turn_started", session_id, new.turn_id, count)
    return replace(started, message_count=count)


def append(
    connection: apsw.Connection, entry: Append, lease_until: float, before: Sequence[Row] | None = None
) -> Appended:
    """Append to one log; nothing is written when the entry is refused.

    ``before`` stands in the journal and goes to the log first. Where it is not given, the journal is read for it.
    """
    first, last, end = entry.records[0].seq, entry.records[-1].seq, entry.end
    if before is None:
        before = read_unmoved(connection, entry.turn_id)
        if before and before[-1].last_seq != first - 1:
            return _refusal(connection, entry, lease_until)
    # The fence: only the owner of a running turn appends, and only what follows the last record.
    fence = (entry.turn_id, entry.owner, (before[0].first_seq if before else first) - 1)
    values: tuple[object, ...] = (last, lease_until, *fence)
    if end is not None:
        values = (last, lease_until, end.status, end.ended_at, end.text, end.image_id, *fence)
    row = connection.execute(_APPEND if end is None else _APPEND_THE_END, values).fetchone()
    if row is None:
        return _refusal(connection, entry, lease_until)
    insert_segment(connection, entry.turn_id, [*before, *rows_of(entry.records)])
    for image in entry.images:
        connection.execute(
            "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                image.image_id,
                image.turn_id,
                image.mime_type,
                image.width,
                image.height,
                image.sha256,
                int(image.preview),
                image.revised_prompt,
                image.data,
            ),
        )
    cancel, session_id = row
    if end is not None and session_id is not None:
        _tell_the_end(connection, entry, end, session_id)
    return Appended(True, last, cancel=bool(cancel))


def _refusal(connection: apsw.Connection, entry: Append, lease_until: float) -> Appended:
    """Why an entry was not appended; one that is in the log already is done."""
    row = connection.execute(
        "SELECT owner, status, last_seq, cancel FROM turns WHERE turn_id = ?", (entry.turn_id,)
    ).fetchone()
    if row is None:
        return Appended(False, 0, "gone")
    owner, status, last_seq, cancel = row
    running = status == "running"
    if running:
        last_seq = last_journaled(connection, entry.turn_id, last_seq)
    first = entry.records[0].seq
    if owner == entry.owner and _has(connection, entry, running=running):
        move(connection, entry.turn_id, owner, None, lease_until)
        return Appended(True, last_seq, cancel=bool(cancel))
    behind = owner == entry.owner and running and last_seq < first - 1
    return Appended(False, last_seq, "behind" if behind else "fenced")


def _has(connection: apsw.Connection, entry: Append, *, running: bool) -> bool:
    """Whether the log has the records of an entry."""
    lines = [record.stored for record in entry.records]
    try:
        found = read_log(connection, entry.turn_id, entry.records[0].seq - 1, running=running)
    except Damaged:
        return False
    return [record.stored for record in found[: len(lines)]] == lines


def standing(connection: apsw.Connection, owner: str, turn_id: str, journaled_seq: int) -> tuple[Appended, float]:
    """Where a turn that ``owner`` generates stands, and when it last had a reader by the clock of the reader's process.

    ``journaled_seq`` is the seq of the newest event in the journal; where it is 0, the journal is read for it.
    """
    row = connection.execute(
        "SELECT owner, status, last_seq, cancel, last_read_at FROM turns WHERE turn_id = ?", (turn_id,)
    ).fetchone()
    if row is None:
        return Appended(False, 0, "gone"), 0.0
    owned = row[0] == owner and row[1] == "running"
    last_seq = row[2]
    if owned:
        last_seq = max(last_seq, journaled_seq) if journaled_seq else last_journaled(connection, turn_id, last_seq)
    return Appended(owned, last_seq, "" if owned else "fenced", bool(row[3])), row[4]


def _tell_the_end(connection: apsw.Connection, entry: Append, end: End, session_id: str) -> None:
    """Note in the session that its turn has ended, and tell the other processes of the reply."""
    connection.execute("UPDATE sessions SET last_activity_at = ? WHERE session_id = ?", (end.ended_at, session_id))
    if is_shared(connection) and (end.text or end.image_id or end.status == "completed"):
        count = count_messages(connection, session_id)
        insert_signal(connection, end.ended_at, entry.owner, "message_added", session_id, entry.turn_id, count)


@makes_room
def interrupt(
    connection: apsw.Connection, orphan: Orphan, shown: tuple[list[str], int], now: float, *, with_event: bool
) -> bool:
    """End a turn whose process is gone, with what was shown of it; False when the process has renewed meanwhile.

    ``shown`` are the texts that were read of it, and the seq up to which it was read. What is in the journal goes to the log.
    Without ``with_event`` the turn gets no terminal event, because its log is damaged. It ends all the same.
    """
    row = connection.execute(
        "SELECT kind, last_seq FROM turns WHERE turn_id = ? AND owner = ? AND status = 'running' AND lease_until <= ?",
        orphan,
    ).fetchone()
    if row is None:
        return False
    turn_id, (kind, last_seq), (texts, reached) = orphan.turn_id, row, shown
    rows: list[Row] = []
    image_query = "SELECT image_id, sha256 FROM images WHERE turn_id = ? AND preview = 0"
    image_id, image_sha256 = connection.execute(image_query, (turn_id,)).fetchone() or (None, None)
    if with_event:
        # The process of the turn may have appended events after the turn was read.
        rows = read_journal(connection, turn_id, last_seq)
        texts = texts + read_texts(connection, turn_id, reached, journal=rows)[0]
        last_seq = (rows[-1].last_seq if rows else last_seq) + 1
    text = "".join(texts)
    if with_event:
        event = TurnInterrupted(
            turn_id=turn_id,
            seq=last_seq,
            at=now,
            chunks=len(texts),
            sha256=text_sha256(text) if kind == "chat" else image_sha256,
            epoch=1,
        )
        insert_segment(connection, turn_id, [*rows, *rows_of([Record.of(event)])])
    connection.execute(
        "UPDATE turns SET status = 'interrupted', last_seq = ?, ended_at = ?, text = ?, image_id = ?, epoch = 1"
        " WHERE turn_id = ?",
        (last_seq, now, text, image_id, turn_id),
    )
    return True
