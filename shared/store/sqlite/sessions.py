"""Sessions and their messages: pages, clearing, deleting."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing, suppress
from itertools import islice

import apsw

from shared.errors import ChatError
from shared.session import Message, Session
from shared.store.protocol import refuse_missing
from shared.store.sqlite.connection import makes_room
from shared.store.sqlite.rows import (
    SELECT_SESSION,
    SELECT_UNTITLED_SESSION,
    insert_signal,
    snapshot,
    to_message,
    to_session,
    turns_of_session,
)
from shared.store.sqlite.schema import HAS_REPLY, INTERVAL_MS
from shared.store.sqlite.turns import refuse_running
from shared.store.texts import MAX_TEXT_BYTES


def select_session(connection: apsw.Connection, session_id: str) -> Session | None:
    """The session, if there is one."""
    where = "WHERE s.session_id = ?"
    try:
        row = connection.execute(SELECT_SESSION + where, (session_id,)).fetchone()
    except apsw.CorruptError:
        row = connection.execute(SELECT_UNTITLED_SESSION + where, (session_id,)).fetchone()
    return to_session(row) if row else None


def select_sessions(
    connection: apsw.Connection, limit: int, before: tuple[float, str] | None, active_since: float
) -> tuple[list[Session], int]:
    """A page, newest first by (created_at, session_id), and how many sessions were used since ``active_since``.

    A session that lies on a damaged page is left out; where its first message lies there, it has no title.
    """
    where = "WHERE (s.created_at, s.session_id) < (?, ?) ORDER BY s.created_at DESC, s.session_id DESC LIMIT ?"
    bounds = (*(before or (math.inf, "")), limit)
    try:
        rows = connection.execute(f"{SELECT_SESSION} {where}", bounds).fetchall()
        page = [to_session(row) for row in rows]
    except apsw.CorruptError:
        page = []
        for (session_id,) in connection.execute(f"SELECT s.session_id FROM sessions s {where}", bounds).fetchall():
            with suppress(apsw.CorruptError):
                session = select_session(connection, str(session_id))
                page += [session] if session is not None else []
    return page, count_active(connection, active_since)


def count_active(connection: apsw.Connection, since: float) -> int:
    """How many sessions were used since this time: the counts of whole intervals, and the rest of the first interval."""
    interval = int(since // INTERVAL_MS)
    row = connection.execute(
        "SELECT (SELECT coalesce(sum(sessions), 0) FROM activity WHERE interval > ?)"
        " + (SELECT count(*) FROM sessions WHERE last_activity_at >= ? AND last_activity_at < ?)",
        (interval, since, (interval + 1) * INTERVAL_MS),
    ).fetchone()
    return int(row[0]) if row else 0


def select_messages(
    connection: apsw.Connection, session_id: str, limit: int, after: str | None
) -> tuple[list[Message], bool]:
    """A page of messages, and whether there are more; see the protocol."""
    page: list[Message] = []
    page_bytes = 0
    with snapshot(connection):
        refuse_missing(connection.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,)).fetchone())
        number, skip = _position(connection, session_id, after) if after is not None else (0, 0)
        with closing(_messages_from(connection, session_id, number)) as messages:
            for message in islice(messages, skip, None):
                page_bytes += len(message.text.encode())
                if len(page) == limit or (page and page_bytes > MAX_TEXT_BYTES):
                    return page, True
                page.append(message)
    return page, False


def _position(connection: apsw.Connection, session_id: str, message_id: str) -> tuple[int, int]:
    """The number of the turn with which a page after a message begins, and how many of that turn's messages to skip."""
    turn_id, _, role = message_id.rpartition(":")
    row = connection.execute(
        "SELECT number FROM turns WHERE turn_id = ? AND session_id = ? AND cleared = 0", (turn_id, session_id)
    ).fetchone()
    if row is None or role not in ("user", "model"):
        raise ChatError(
            "invalid_request", "cursor is not a cursor of this session's messages; read from the first page."
        )
    return (row[0], 1) if role == "user" else (row[0] + 1, 0)


def _messages_from(connection: apsw.Connection, session_id: str, number: int) -> Generator[Message, None, None]:
    """The messages of a session from the turn with this number on, in order, without turns on damaged pages."""
    columns = f"turn_id, input, status, text, image_id, created_at, ended_at, {HAS_REPLY}"
    with closing(turns_of_session(connection, session_id, columns, number)) as turns:
        for turn_id, text_in, status, text, image_id, created, ended, has_reply in turns:
            yield to_message(turn_id, "user", text_in, status, None, created)
            if has_reply:
                yield to_message(turn_id, "model", text, status, image_id, ended)


def clear_session(connection: apsw.Connection, session_id: str, origin: str, now: float) -> None:
    """Drop the messages and keep the logs. Raises ``session_not_found``, ``turn_in_progress``."""
    refuse_running(connection, session_id)
    # A turn whose log has expired before loses its picture now, because no session shows it any more.
    connection.execute(
        "INSERT OR IGNORE INTO doomed SELECT turn_id FROM turns WHERE session_id = ? AND cleared = 0 AND expired > 0",
        (session_id,),
    )
    connection.execute("DELETE FROM session_counts WHERE session_id = ?", (session_id,))
    connection.execute("UPDATE turns SET cleared = 1 WHERE session_id = ? AND cleared = 0", (session_id,))
    connection.execute("UPDATE sessions SET last_activity_at = ? WHERE session_id = ?", (now, session_id))
    insert_signal(connection, now, origin, "session_cleared", session_id)


@makes_room
def delete_session(connection: apsw.Connection, session_id: str, origin: str, now: float) -> None:
    """Drop the session, its turns and their pictures at once, and the logs in the next steps of the purge.

    Raises ``session_not_found``, ``turn_in_progress``.
    """
    refuse_running(connection, session_id)
    for shown in ("cleared = 0", "cleared = 1"):
        turn_ids = f"SELECT turn_id FROM turns WHERE session_id = ? AND {shown}"
        connection.execute(f"INSERT OR IGNORE INTO doomed {turn_ids}", (session_id,))
        connection.execute(f"DELETE FROM images WHERE turn_id IN ({turn_ids})", (session_id,))
        connection.execute(f"DELETE FROM turns WHERE session_id = ? AND {shown}", (session_id,))
    connection.execute("DELETE FROM session_counts WHERE session_id = ?", (session_id,))
    connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
    insert_signal(connection, now, origin, "session_deleted", session_id)
