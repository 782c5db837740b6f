"""Dropping what is too old: signals, then the logs of ended turns, then turns that no session shows."""

from __future__ import annotations

import apsw

_MAX_LOGS = 500


def purge(connection: apsw.Connection, logs_before: float, turns_before: float, signals_before: float) -> None:
    """Drop what ended before these times; see the protocol."""
    connection.execute("DELETE FROM signals WHERE at < ?", (signals_before,))
    old = connection.execute(
        "SELECT turn_id FROM turns WHERE ended_at < ? AND expired = 0 LIMIT ?", (logs_before, _MAX_LOGS)
    ).fetchall()
    for (turn_id,) in old:
        connection.execute("DELETE FROM segments WHERE turn_id = ?", (turn_id,))
        connection.execute("DELETE FROM images WHERE turn_id = ? AND preview = 1", (turn_id,))
        connection.execute(
            "UPDATE turns SET expired = 1, request_id = NULL, request_hash = NULL WHERE turn_id = ?", (turn_id,)
        )
    # A turn that no session shows takes its picture with it, also when the session was cleared after the log had
    # expired.
    unseen = "ended_at < ? AND expired >= ? AND (session_id IS NULL OR cleared = 1)"
    connection.execute(
        f"DELETE FROM images WHERE turn_id IN (SELECT turn_id FROM images JOIN turns USING (turn_id) WHERE {unseen})",
        (logs_before, 1),
    )
    connection.execute("UPDATE turns SET expired = 2 WHERE ended_at < ? AND expired = 1", (turns_before,))
    connection.execute(f"DELETE FROM turns WHERE {unseen}", (turns_before, 2))
