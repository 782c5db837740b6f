"""The journal: the newest events of running turns, in the order in which they were committed.

An event that goes to its log at once needs a page of its own for each running turn, and every page is written twice, into the
write-ahead log and by the checkpoint into the database. In the journal the events of all turns of one commit are neighbours. Each
turn's events are moved from there to its log, as one segment, when the oldest of them is a second old, when the turn ends, and
when many come at once. So the journal is short.

A log is its segments, and then the rows of the journal that come after the last segment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apsw

from shared.store.protocol import Append
from shared.store.record import Record
from shared.store.sqlite.schema import JOURNAL

_INSERT = "INSERT INTO journal (writer, turn_id, first_seq, last_seq, lines) VALUES (?, ?, ?, ?, ?)"
_TRIM = "DELETE FROM journal WHERE writer = ? AND number < ?"
_OWNED = "SELECT 1 FROM turns WHERE turn_id = ? AND owner = ? AND status = 'running' AND cancel = 0"
_MOVE = "UPDATE turns SET last_seq = ? WHERE turn_id = ? AND owner = ? AND status = 'running' AND last_seq = ?"
# So many turns are remembered, those that have ended included.
_MAX_OWNED = 10_000
# Other processes may have added so many rows after the newest row that is known here.
_NUMBERS_LEFT_OUT = 1_000_000


class Row(NamedTuple):
    """What one commit added to one turn: JSON lines."""

    first_seq: int
    last_seq: int
    lines: bytes


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Records in the form in which they are read from the journal; none for no records."""
    return [Row(records[0].seq, records[-1].seq, to_lines(records))] if records else []


def to_lines(records: Sequence[Record]) -> bytes:
    """The records of one commit as JSON lines."""
    return b"\n".join([record.stored for record in records])


def read_journal(connection: apsw.Connection, turn_id: str, after: int) -> list[Row]:
    """The rows of a running turn whose events come after seq ``after``.

    What lies on a damaged page, and what follows it, is left out: a process that lives still has these events, and adds them
    to the log.
    """
    found: list[Row] = []
    query = "SELECT first_seq, last_seq, lines FROM journal WHERE turn_id = ? AND last_seq > ? ORDER BY number"
    with contextlib.suppress(apsw.CorruptError):
        found += (Row(*row) for row in connection.execute(query, (turn_id, after)))
    return found


def select_journal(connection: apsw.Connection, after: int) -> Iterator[tuple[int, str, int, int, bytes]]:
    """The rows after a number: number, turn, first and last seq, lines. They end before a damaged page."""
    query = "SELECT number, turn_id, first_seq, last_seq, lines FROM journal WHERE number > ? ORDER BY number"
    with contextlib.suppress(apsw.CorruptError):
        yield from connection.execute(query, (after,))


def last_journaled(connection: apsw.Connection, turn_id: str) -> int:
    """The seq of the newest event of a turn in the journal, or 0."""
    with contextlib.suppress(apsw.CorruptError):
        row = connection.execute("SELECT max(last_seq) FROM journal WHERE turn_id = ?", (turn_id,)).fetchone()
        return row[0] or 0 if row else 0
    return 0


def insert_segment(connection: apsw.Connection, turn_id: str, rows: Sequence[Row]) -> None:
    """Add events to a log, as one segment."""
    lines = rows[0].lines if len(rows) == 1 else b"\n".join([row.lines for row in rows])
    connection.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?)", (turn_id, rows[0].first_seq, rows[-1].last_seq, lines)
    )


def move(connection: apsw.Connection, turn_id: str, owner: str, rows: Sequence[Row] | None) -> bool:
    """Move the events of a running turn to its log; False when ``owner`` does not own the turn any more.

    Without ``rows`` the journal is read for them.
    """
    if rows is None:
        row = connection.execute("SELECT last_seq FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
        rows = read_journal(connection, turn_id, row[0]) if row else []
    if rows:
        connection.execute(_MOVE, (rows[-1].last_seq, turn_id, owner, rows[0].first_seq - 1))
        if not connection.changes():
            return False
        insert_segment(connection, turn_id, rows)
    return True


def put_aside(connection: apsw.Connection, newest: int) -> None:
    """Begin a new journal after the row ``newest``, because a page of the journal is damaged. The old one gets another name."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'journal%'")}
    kept = next(name for number in range(len(names) + 1) if (name := f"journal_damaged_{number}") not in names)
    connection.execute(f"ALTER TABLE journal RENAME TO {kept}; {JOURNAL}")
    # Processes that look for rows after those that they have seen find the next ones.
    connection.execute("INSERT INTO journal VALUES (?, 0, '', 0, 0, x'')", (newest + _NUMBERS_LEFT_OUT,))


def newest(connection: apsw.Connection) -> int:
    """The number of the newest row, or 0."""
    row = connection.execute("SELECT max(number) FROM journal").fetchone()
    return row[0] or 0 if row else 0


def check_journal(connection: apsw.Connection) -> None:
    """Read the whole journal. Raises apsw.CorruptError for one that has a damaged page."""
    connection.execute("SELECT sum(length(lines)) FROM journal").fetchall()


def trim(connection: apsw.Connection, writer: int, before: int) -> None:
    """Drop the rows of one writer that come before a row."""
    connection.execute(_TRIM, (writer, before))


class Fence:
    """Which turns this process was seen to own. That holds until another connection writes, or ``look_again``.

    For the thread that writes, within a transaction.
    """

    def __init__(self) -> None:
        self._owned: set[str] = set()
        self._data_version = -1

    def look_again(self) -> None:
        """Forget what was seen, because this connection has changed it."""
        self._owned.clear()

    def add(self, connection: apsw.Connection, writer: int, entries: Sequence[Append]) -> list[int]:
        """Add entries to the journal.

        Returns the number of each entry's row; 0 for an entry that was not added, because its turn has ended, has another
        owner, or is asked to end.
        """
        version = connection.pragma("data_version")
        if version != self._data_version or len(self._owned) > _MAX_OWNED:
            self._owned.clear()
            self._data_version = version
        numbers: list[int] = []
        rows: list[tuple[int, str, int, int, bytes]] = []
        for entry in entries:
            turn_id, records = entry.turn_id, entry.records
            if turn_id not in self._owned:
                if connection.execute(_OWNED, (turn_id, entry.owner)).fetchone() is None:
                    numbers.append(0)
                    continue
                self._owned.add(turn_id)
            lines = records[0].stored if len(records) == 1 else to_lines(records)
            rows.append((writer, turn_id, records[0].seq, records[-1].seq, lines))
            numbers.append(len(rows))
        connection.executemany(_INSERT, rows)
        before = connection.last_insert_rowid() - len(rows)
        return [before + number if number else 0 for number in numbers]
