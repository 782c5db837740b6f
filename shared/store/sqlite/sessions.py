"""Sessions and their messages: pages, clearing, deleting."""

from __future__ import annotations

import apsw

from shared.session import Message, Session
from shared.store.protocol import refuse_missing
from shared.store.sqlite.rows import HAS_REPLY, SELECT_SESSION, insert_signal, to_message, to_session
from shared.store.sqlite.turns import refuse_running


def select_session(connection: apsw.Connection, session_id: str) -> Session | None:
    """The session, if there is one."""
    row = connection.execute(SELECT_SESSION + "WHERE s.session_id = ?", (session_id,)).fetchone()
    return to_session(row) if row else None


def select_sessions(
    connection: apsw.Connection, limit: int, before: tuple[float, str] | None, active_since: float
) -> tuple[list[Session], int]:
    """A page, newest first by (created_at, session_id), and how many sessions were used since ``active_since``."""
    where = "WHERE (s.created_at, s.session_id) < (?, ?)" if before else ""
    rows = connection.execute(
        f"{SELECT_SESSION} {where} ORDER BY s.created_at DESC, s.session_id DESC LIMIT ?", (*(before or ()), limit)
    ).fetchall()
    active = connection.execute("SELECT count(*) FROM sessions WHERE last_activity_at >= ?", (active_since,)).fetchone()
    return [to_session(row) for row in rows], int(active[0]) if active else 0


def select_messages(connection: apsw.Connection, session_id: str) -> list[Message]:
    """All messages in order. Raises ``session_not_found``."""
    refuse_missing(connection.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,)).fetchone())
    messages = []
    for turn_id, text_in, status, text, image_id, created, ended, has_reply in connection.execute(
        f"SELECT turn_id, input, status, text, image_id, created_at, ended_at, {HAS_REPLY} FROM turns"
        " WHERE session_id = ? AND cleared = 0 ORDER BY number",
        (session_id,),
    ):
        messages.append(to_message(turn_id, "user", text_in, status, None, created))
        if has_reply:
            messages.append(to_message(turn_id, "model", text, status, image_id, ended))
    return messages


def clear_session(connection: apsw.Connection, session_id: str, origin: str, now: float) -> None:
    """Drop the messages and keep the logs. Raises ``session_not_found``, ``turn_in_progress``."""
    refuse_running(connection, session_id, now)
    connection.execute("UPDATE turns SET cleared = 1 WHERE session_id = ? AND cleared = 0", (session_id,))
    connection.execute("UPDATE sessions SET last_activity_at = ? WHERE session_id = ?", (now, session_id))
    insert_signal(connection, now, origin, "session_cleared", session_id)


def delete_session(connection: apsw.Connection, session_id: str, origin: str, now: float) -> None:
    """Drop the session, its turns and their logs. Raises ``session_not_found``, ``turn_in_progress``."""
    refuse_running(connection, session_id, now)
    of_session = "(SELECT turn_id FROM turns WHERE session_id = ?)"
    connection.execute(f"DELETE FROM segments WHERE turn_id IN {of_session}", (session_id,))
    connection.execute(f"DELETE FROM images WHERE turn_id IN {of_session}", (session_id,))
    connection.execute("DELETE FROM turns WHERE session_id = ?", (session_id,))
    connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
    insert_signal(connection, now, origin, "session_deleted", session_id)
