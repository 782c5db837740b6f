"""Dropping what is too old, in steps: signals, then the logs of ended turns, then turns that no session shows.

A step touches at most a few hundred rows, so that no turn has to wait for it. The log of a turn may have more rows than
that, so a turn is first marked and entered into ``doomed``, and its rows go in later steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from shared.store.sqlite.connection import makes_room

MAX_ROWS = 200
MAX_DOOMED = 50
_UNSEEN = "(session_id IS NULL OR cleared = 1)"
_OLD_LOGS = "FROM turns WHERE expired = 0 AND ended_at < :logs_before LIMIT :limit"

# What one step runs: the first of these groups that finds a row.
GROUPS = (
    (
        # A signal from an hour ahead comes from a clock that was wrong.
        "DELETE FROM signals WHERE (at < :signals_before OR at > :signals_before + 3600000)"
        " AND signal_id < (SELECT min(signal_id) FROM signals) + :limit",
    ),
    (
        f"INSERT OR IGNORE INTO doomed SELECT turn_id {_OLD_LOGS}",
        "UPDATE turns SET expired = 1, request_id = NULL, request_hash = NULL"
        f" WHERE number IN (SELECT number {_OLD_LOGS})",
    ),
    (
        "UPDATE turns SET expired = 2 WHERE number IN"
        " (SELECT number FROM turns WHERE expired = 1 AND ended_at < :turns_before LIMIT :limit)",
    ),
    (
        "DELETE FROM turns WHERE number IN"
        f" (SELECT number FROM turns WHERE {_UNSEEN} AND expired = 2 AND ended_at < :turns_before LIMIT :limit)",
    ),
)
# What a process that is gone has left in the journal: no server reads the journal for a turn that has ended. ``before`` is the
# newest row of some time ago, so the newest row stays, and numbers never begin again.
JOURNAL = (
    "DELETE FROM journal WHERE number IN (SELECT number FROM journal WHERE number < :before AND NOT EXISTS"
    " (SELECT 1 FROM turns WHERE turn_id = journal.turn_id AND status = 'running') LIMIT :limit)"
)
DOOMED = "SELECT turn_id FROM doomed LIMIT :limit"
SEGMENTS = (
    "DELETE FROM segments WHERE turn_id = :turn_id AND first_seq IN"
    " (SELECT first_seq FROM segments WHERE turn_id = :turn_id LIMIT :limit)"
)
IMAGES = "DELETE FROM images WHERE turn_id = :turn_id AND (preview = 1 OR :unseen)"


@makes_room
def drop_old(connection: apsw.Connection, times: Mapping[str, float], *, all_groups: bool = False) -> bool:
    """Run the first group that finds a row, or ``all_groups``. Returns whether there was such a group.

    ``times``: ``signals_before``, ``logs_before``, ``turns_before``.
    """
    for group in GROUPS:
        for statement in group:
            connection.execute(statement, {**times, "limit": MAX_ROWS})
        if connection.changes() and not all_groups:
            return True
    return False


def drop_journaled(connection: apsw.Connection, before: int) -> bool:
    """Drop rows of the journal that come before the row ``before`` and that nobody needs. Returns whether there were any."""
    connection.execute(JOURNAL, {"before": before, "limit": MAX_ROWS})
    return connection.changes() > 0


def select_doomed(connection: apsw.Connection) -> list[str]:
    """Some turns whose logs and pictures are to be dropped."""
    return [str(turn_id) for (turn_id,) in connection.execute(DOOMED, {"limit": MAX_DOOMED})]


@makes_room
def drop_doomed(connection: apsw.Connection, turn_id: str) -> None:
    """Drop rows of a doomed turn, and the turn from ``doomed`` with the last rows."""
    connection.execute(SEGMENTS, {"turn_id": turn_id, "limit": MAX_ROWS})
    if connection.changes() < MAX_ROWS:
        row = connection.execute(f"SELECT {_UNSEEN} FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
        connection.execute(IMAGES, {"turn_id": turn_id, "unseen": row is None or bool(row[0])})
        forget_doomed(connection, turn_id)


def forget_doomed(connection: apsw.Connection, turn_id: str) -> None:
    """Remove a turn from ``doomed``."""
    connection.execute("DELETE FROM doomed WHERE turn_id = ?", (turn_id,))
