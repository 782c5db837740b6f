"""A table of logs that is so damaged that no new turn could be recorded: a new table takes its place.

SQLite finds a row by way of the pages above the row, so one damaged page of a small table may cost every log. The old table stays
in the file under another name, for ``python -m protocols store export``. Sessions, messages and pictures are in other tables.
"""

from __future__ import annotations

from contextlib import closing, suppress

import apsw

from shared.store.sqlite.schema import SEGMENTS
from shared.store.sqlite.write_check import check_write

_PREFIX = "damaged_segments_"


def tables_of_logs(connection: apsw.Connection) -> list[str]:
    """The tables that hold logs: ``segments``, and the damaged ones that were replaced before."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB ?"
    return ["segments", *(str(name) for (name,) in connection.execute(names, (f"{_PREFIX}*",)))]


def replace_damaged_logs(connection: apsw.Connection, now: float) -> str:
    """Put a new table in the place of a damaged one, with every log that can still be read whole.

    Returns a sentence for the operator; empty where another process has replaced the table meanwhile. Changes nothing, and
    raises apsw.Error, where something else than the table of logs is damaged.
    """
    tables = tables_of_logs(connection)
    # A transaction in which a statement has met a damaged page cannot be committed, so another connection reads the old table.
    with closing(apsw.Connection(connection.filename, flags=apsw.SQLITE_OPEN_READONLY)) as old:
        connection.execute("BEGIN IMMEDIATE")
        try:
            notice = _replace(connection, old, now) if tables_of_logs(connection) == tables else ""
            connection.execute("COMMIT")
        except BaseException:
            with suppress(apsw.Error):
                connection.execute("ROLLBACK")
            raise
    return notice


def _replace(connection: apsw.Connection, old: apsw.Connection, now: float) -> str:
    name = f"{_PREFIX}{len(tables_of_logs(connection))}"
    connection.execute(f"ALTER TABLE segments RENAME TO {name}; {SEGMENTS}")
    # Whether the table of logs was the damaged part.
    check_write(connection, now)
    lost = 0
    for (turn_id,) in old.execute("SELECT turn_id FROM turns WHERE expired = 0").fetchall():
        try:
            rows = old.execute("SELECT * FROM segments WHERE turn_id = ?", (turn_id,)).fetchall()
        except apsw.CorruptError:
            lost += 1
        else:
            connection.executemany("INSERT INTO segments VALUES (?, ?, ?, ?)", rows)
    return (
        f"the events of {lost} turns lay on damaged pages and cannot be replayed; their sessions go on; the damaged table is"
        f" kept as {name}, and `python -m protocols store export` saves what can be read of it"
    )
