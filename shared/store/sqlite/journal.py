"""The journal: the newest events of running turns, in the order in which they were committed.

An event that goes to its log at once needs a page of its own for each running turn. Each page is written into the write-ahead log,
and a checkpoint writes it into the database again. In the journal the events of all turns of one commit are neighbours. They are
moved from there to the logs, all that one turn has in the journal as one segment: with a commit, or a renewal of the leases, after
the oldest of them is a second old, and with the end of the turn. A large entry goes to its log at once, and takes them along.

A log is its segments, and then the rows of the journal that follow the last segment without a gap. The newest row of the journal is
never dropped, so the numbers of the rows only grow: other processes ask for the rows after those that they have seen.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apsw

from shared.store.protocol import Append
from shared.store.record import Record
from shared.store.sqlite.schema import JOURNAL

_INSERT = "INSERT INTO journal (writer, turn_id, first_seq, last_seq, lines) VALUES (?, ?, ?, ?, ?)"
_TRIM = "DELETE FROM journal WHERE writer = ? AND number < ?"
_OWNED = "SELECT 1 FROM turns WHERE turn_id = ? AND owner = ? AND status = 'running' AND cancel = 0"
# A turn that was given up has no lease, and gets none here.
_MOVE = (
    "UPDATE turns SET last_seq = ?, lease_until = iif(lease_until > 0, ?, 0)"
    " WHERE turn_id = ? AND owner = ? AND status = 'running' AND last_seq = ?"
)
# Ended turns stay in the set of owned turns, so it is emptied at this size.
_MAX_OWNED = 10_000


_Numbered = tuple[int, int, str, int, int, bytes]


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


def read_journal(connection: apsw.Connection, turn_id: str, after: int, *, gaps: bool = False) -> list[Row]:
    """The rows of a running turn that follow seq ``after``; without ``gaps`` up to the first gap.

    What lies on a damaged page, and what follows it, is left out. The process that generates the turn still has these events,
    and adds them to the log.
    """
    found: list[Row] = []
    query = "SELECT first_seq, last_seq, lines FROM journal WHERE turn_id = ? AND last_seq > ? ORDER BY number"
    with contextlib.suppress(apsw.CorruptError):
        for first_seq, last_seq, lines in connection.execute(query, (turn_id, after)):
            if first_seq > after + 1 and not gaps:
                break
            found.append(Row(first_seq, last_seq, lines))
            after = last_seq
    return found


def read_unmoved(connection: apsw.Connection, turn_id: str) -> list[Row]:
    """The rows of a running turn that come after its log."""
    row = connection.execute("SELECT last_seq FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
    return read_journal(connection, turn_id, row[0]) if row else []


def last_journaled(connection: apsw.Connection, turn_id: str, after: int) -> int:
    """The seq of the newest event of a running turn whose log ends with seq ``after``."""
    rows = read_journal(connection, turn_id, after)
    return rows[-1].last_seq if rows else after


def select_journal(
    connection: apsw.Connection, after: int, table: str = "journal"
) -> Iterator[tuple[int, str, int, int, bytes]]:
    """The rows after a number: number, turn, first and last seq, lines. They end before a damaged page."""
    query = f"SELECT number, turn_id, first_seq, last_seq, lines FROM {table} WHERE number > ? ORDER BY number"
    with contextlib.suppress(apsw.CorruptError):
        yield from connection.execute(query, (after,))


def journals(connection: apsw.Connection) -> list[str]:
    """The names of the journal, and of the journals that were put aside."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'journal%'"
    return [str(name) for (name,) in connection.execute(query)]


def insert_segment(connection: apsw.Connection, turn_id: str, rows: Sequence[Row]) -> None:
    """Add events to a log, as one segment."""
    lines = b"\n".join([row.lines for row in rows])
    connection.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?)", (turn_id, rows[0].first_seq, rows[-1].last_seq, lines)
    )


def move(connection: apsw.Connection, turn_id: str, owner: str, rows: Sequence[Row] | None, lease_until: float) -> bool:
    """Move the events of a running turn to its log; False when ``owner`` does not own the turn any more.

    Without ``rows`` the journal is read for them. The lease of the turn is renewed (epoch ms).
    """
    if rows is None:
        rows = read_unmoved(connection, turn_id)
    if rows:
        connection.execute(_MOVE, (rows[-1].last_seq, lease_until, turn_id, owner, rows[0].first_seq - 1))
        if not connection.changes():
            return False
        insert_segment(connection, turn_id, rows)
    return True


def begin_journal(connection: apsw.Connection, newest_number: int = 0) -> None:
    """Have the numbers of the next rows be above all numbers that another process has seen; ``newest_number`` was seen here.

    More microseconds have passed since 1970 than there are rows.
    """
    number = max(time.time_ns() // 1000, newest_number + 1)
    connection.execute("INSERT INTO journal VALUES (?, 0, '', 0, 0, x'')", (number,))


def readable(connection: apsw.Connection) -> list[_Numbered]:
    """The rows of the journal that can be read from its two ends, in order."""
    found: dict[int, _Numbered] = {}
    for order in ("ASC", "DESC"):
        query = f"SELECT number, writer, turn_id, first_seq, last_seq, lines FROM journal ORDER BY number {order}"
        with contextlib.suppress(apsw.CorruptError):
            for row in connection.execute(query):
                if row[0] in found:
                    break
                found[row[0]] = row
    return [found[number] for number in sorted(found)]


def root(connection: apsw.Connection) -> int:
    """The first page of the journal. A journal that takes the place of another one has another first page."""
    row = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'journal'").fetchone()
    return row[0] if row else 0


def put_aside(
    connection: apsw.Connection, damaged_root: int, readable: Sequence[_Numbered], newest_number: int
) -> None:
    """Begin a new journal with the rows that can be read, and give the one with this first page another name."""
    if root(connection) != damaged_root:
        return
    names = journals(connection)
    kept = next(name for number in range(len(names)) if (name := f"journal_damaged_{number}") not in names)
    connection.execute(f"ALTER TABLE journal RENAME TO {kept}; {JOURNAL}")
    begin_journal(connection, max([newest_number, *(number for number, *_ in readable)]))
    connection.executemany(_INSERT, [row for _, *row in readable])


def newest(connection: apsw.Connection) -> int:
    """The number of the newest row, or 0."""
    row = connection.execute("SELECT max(number) FROM journal").fetchone()
    return row[0] or 0 if row else 0


def check_journal(connection: apsw.Connection) -> None:
    """Read the whole journal. Raises apsw.CorruptError for one that has a damaged page."""
    connection.execute("SELECT sum(length(lines)) FROM journal").fetchall()


class Fence:
    """The turns whose rows name this process as their owner. That holds until another connection writes, or ``forget``.

    For the thread that writes, within a transaction. ``writer`` marks the rows of this process in the journal.
    """

    def __init__(self) -> None:
        self.writer = secrets.randbits(62)
        self._owned: set[str] = set()
        self._data_version = -1

    def forget(self) -> None:
        """This connection is about to change who owns a turn, or to ask for its end."""
        self._owned.clear()

    def add(self, connection: apsw.Connection, entries: Sequence[Append]) -> list[int]:
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
            rows.append((self.writer, turn_id, records[0].seq, records[-1].seq, to_lines(records)))
            numbers.append(len(rows))
        connection.executemany(_INSERT, rows)
        before = connection.last_insert_rowid() - len(rows)
        return [before + number if number else 0 for number in numbers]

    def trim(self, connection: apsw.Connection, before: int) -> None:
        """Drop the rows of this process that come before a row."""
        connection.execute(_TRIM, (self.writer, before))
