"""Whether a new turn could be recorded: a short rehearsal, and a small write that is kept."""

from __future__ import annotations

import uuid

import apsw

from shared.ids import ordered_id, scattered_id

# A damaged page may lie where one turn id belongs. Another id may belong elsewhere, and then a new turn could be recorded.
TRIES = 20


def check_write(connection: apsw.Connection, now: float, *, again: bool) -> None:
    """Within a transaction: record a turn of a new session, end it, undo both, then write one row.

    ``again``: an earlier rehearsal met a damaged page, so this one takes a scattered id, as the service does.
    Raises apsw.Error when that fails. The rehearsal needs the tables as this program makes them, and the row needs room on the
    disk.
    """
    turn_id, session_id = scattered_id() if again else ordered_id(), str(uuid.uuid4())
    connection.execute("SAVEPOINT rehearsal")
    connection.execute("INSERT INTO sessions VALUES (?, NULL, ?, ?)", (session_id, now, now))
    connection.execute(
        "INSERT INTO turns (turn_id, session_id, kind, input, status, last_seq, owner, lease_until, last_read_at, created_at,"
        " cancel, epoch) VALUES (?, ?, 'chat', '', 'running', 1, ?, 0, ?, ?, 0, 0)",
        (turn_id, session_id, turn_id, now, now),
    )
    # So many bytes need pages of their own, from the list of free pages.
    connection.execute("INSERT INTO segments VALUES (?, 1, 1, zeroblob(9000))", (turn_id,))
    connection.execute("INSERT INTO signals (at, origin, kind) VALUES (?, '', 'cancel')", (now,))
    connection.execute("UPDATE turns SET status = 'completed', ended_at = ? WHERE turn_id = ?", (now, turn_id))
    connection.execute("ROLLBACK TO rehearsal; RELEASE rehearsal")
    connection.execute("INSERT OR REPLACE INTO write_check VALUES (1, ?)", (now,))
