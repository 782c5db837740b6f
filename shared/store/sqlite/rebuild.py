"""Writing a damaged database anew: where a new turn meets a damaged page, new tables get everything that can be read.

SQLite finds a row by way of the pages above the row, so one damaged page may cost every new row of a table. The damaged database
is kept in a file beside the new one, for ``python -m protocols store export``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import apsw

from shared.events import TERMINAL_STATUS, event_type
from shared.reply import Fold
from shared.store.protocol import Damaged
from shared.store.sqlite.journal import begin_journal
from shared.store.sqlite.logs import read_log
from shared.store.sqlite.rows import last_signal
from shared.store.sqlite.schema import make_tables

Row = dict[str, Any]
# apsw raises one of these errors for a row that lies on a damaged page.
_UNREADABLE = (apsw.CorruptError, apsw.IOError, UnicodeDecodeError)
# A session that lies on a damaged page is made again from its turns. It has the server's default model from now on.
_MAKE_LOST_SESSIONS = """
INSERT OR IGNORE INTO sessions
SELECT session_id, NULL, min(created_at), max(coalesce(ended_at, created_at)) FROM turns
WHERE session_id IS NOT NULL AND cleared = 0 GROUP BY session_id
"""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table that is copied row by row: the column that names a row, and the indexes that have this column of many rows."""

    name: str
    key: str
    kind: type[int | str]
    indexes: Sequence[str] = ()


_SESSIONS = _Table("sessions", "session_id", str, ("sessions_by_age",))
_IDS_OF_TURNS = "sqlite_autoindex_turns_1"
_TURNS = _Table("turns", "number", int, ("turns_by_end WHERE ended_at IS NOT NULL", _IDS_OF_TURNS))
_IMAGES = _Table("images", "rowid", int, ("images_of_turn",))
_SIGNALS = _Table("signals", "signal_id", int)
_DOOMED = _Table("doomed", "turn_id", str)
_JOURNAL = _Table("journal", "number", int)


def rebuild(connection: apsw.Connection, schema_version: int, now: float) -> str:
    """Write the database of ``connection`` anew; ``now`` is epoch ms. Returns a sentence for the operator.

    No other process writes meanwhile, and every process that has the database open goes on with the new tables. Changes
    nothing, and returns an empty text, where the schema is not that of ``schema_version`` any more: another process has
    written the database anew. Changes nothing, and raises apsw.Error, where no turn can be read.
    """
    with (
        closing(apsw.Connection(connection.filename, flags=apsw.SQLITE_OPEN_READONLY)) as old,
        closing(apsw.Connection("")) as new,
    ):
        new.pragma("page_size", old.pragma("page_size"))
        make_tables(new)
        with connection.backup("main", new, "main") as backup:
            # A step of no page locks the database. The last step replaces everything in it at once.
            backup.step(0)
            if old.pragma("schema_version") != schema_version:
                return ""
            with new:
                lost_turns, lost_logs = _copy(old, new, now)
            kept = _keep(old, connection.filename)
            backup.step()
    return (
        f"the database was written anew, because a new turn met a damaged page in it; {lost_turns} turns lay on damaged pages and"
        f" are missing, and the events of {lost_logs} turns cannot be replayed; the damaged database is kept as {kept}, and"
        f" `python -m protocols store export --file {kept}` saves what else can be read"
    )


def _copy(old: apsw.Connection, new: apsw.Connection, now: float) -> tuple[int, int]:
    """Copy what can be read. Returns how many turns cannot, and how many logs of the other turns."""
    _copy_rows(old, new, _SESSIONS)
    lost_turns = _copy_rows(old, new, _TURNS, _turns_of_logs(old))
    turn_ids = [str(turn_id) for (turn_id,) in new.execute("SELECT turn_id FROM turns WHERE expired = 0")]
    if not turn_ids:
        raise apsw.CorruptError("no turn can be read")
    new.execute(_MAKE_LOST_SESSIONS)
    for table in (_IMAGES, _SIGNALS, _DOOMED, _JOURNAL):
        _copy_rows(old, new, table)
    begin_journal(new)
    _continue_signals(old, new, now)
    return lost_turns, sum(not _copy_log(old, new, turn_id) for turn_id in turn_ids)


def _copy_rows(
    old: apsw.Connection, new: apsw.Connection, table: _Table, instead: Callable[[Any], Row | None] = lambda key: None
) -> int:
    """Copy the rows of a table in the order of their keys, each alone. Returns how many rows are missing.

    ``instead`` makes a row that cannot be read from elsewhere, if it can.
    """
    columns = [str(name) for (_, name, *_) in new.execute(f"PRAGMA table_info({table.name})")]
    select = f"SELECT {', '.join(columns)} FROM {table.name} WHERE {table.key} = ?"
    insert = f"INSERT OR IGNORE INTO {table.name} ({', '.join(columns)}) VALUES (:{', :'.join(columns)})"
    missing = 0
    for key in sorted(_keys(old, table)):
        try:
            values = old.execute(select, (key,)).fetchone()
            row = dict(zip(columns, values, strict=True)) if values else instead(key)
        except _UNREADABLE:
            row = instead(key)
        if row is not None:
            new.execute(insert, row)
        missing += row is None or not new.changes()
    return missing


def _keys(old: apsw.Connection, table: _Table) -> set[Any]:
    """The keys of a table, as far as the table from either end or one of its indexes has them."""
    ends = (f"NOT INDEXED ORDER BY {table.key} {order}" for order in ("ASC", "DESC"))
    ways = (*ends, *(f"INDEXED BY {index}" for index in table.indexes))
    found = {key for way in ways for (key,) in _readable(old, f"SELECT {table.key} FROM {table.name} {way}")}
    return {key for key in found if isinstance(key, table.kind)}


def _readable(connection: apsw.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, up to the first damaged page."""
    with suppress(*_UNREADABLE):
        yield from connection.execute(query)


def _turns_of_logs(old: apsw.Connection) -> Callable[[int], Row | None]:
    """Makes the row of a turn from the turn's log, by the number of the turn; None where the log cannot be read either."""
    turn_ids: dict[int, str] = {}
    cleared: set[int] = set()

    def turn_of_log(number: int) -> Row | None:
        if not turn_ids:
            turn_ids.update(_readable(old, f"SELECT number, turn_id FROM turns INDEXED BY {_IDS_OF_TURNS}"))
            query = "SELECT number FROM turns INDEXED BY turns_cleared WHERE cleared = 1"
            cleared.update(number for (number,) in _readable(old, query))
        fold = Fold()
        try:
            records = read_log(old, turn_ids.get(number, ""), 0)
        except (*_UNREADABLE, Damaged):
            return None
        for record in records:
            if record.type != "image_chunk":
                fold.add(record.event)
        started, end = fold.started, fold.terminal
        if started is None:
            return None
        return {
            "number": number,
            "turn_id": started.turn_id,
            "session_id": started.session_id,
            "cleared": int(number in cleared),
            "kind": started.kind,
            "input": started.input,
            # The hash of the request is not in the log, and without the hash a key cannot be compared.
            "request_id": None,
            "request_hash": None,
            "status": TERMINAL_STATUS[event_type(end)] if end else "running",
            "last_seq": len(records),
            # A running turn has no owner, so any process ends it.
            "owner": "",
            "lease_until": 0.0,
            "last_read_at": 0.0,
            "created_at": started.at,
            "ended_at": end.at if end else None,
            "text": fold.text if end else "",
            "image_id": fold.completed.image_id if fold.completed and end else None,
            "expired": 0,
            "cancel": 0,
            "epoch": records[-1].epoch,
        }

    return turn_of_log


def _copy_log(old: apsw.Connection, new: apsw.Connection, turn_id: str) -> bool:
    """Copy the log of a turn; False where a part of the log cannot be read."""
    try:
        segments = old.execute("SELECT * FROM segments WHERE turn_id = ?", (turn_id,)).fetchall()
    except _UNREADABLE:
        return False
    new.executemany("INSERT OR IGNORE INTO segments VALUES (?, ?, ?, ?)", segments)
    return bool(segments)


def _continue_signals(old: apsw.Connection, new: apsw.Connection, now: float) -> None:
    """Number the next signals above all that other processes have read."""
    try:
        last = last_signal(old)
    except _UNREADABLE:
        # More milliseconds have passed since 1970 than there are signals.
        last = int(now)
    new.execute("DELETE FROM sqlite_sequence")
    new.execute("INSERT INTO sqlite_sequence VALUES ('signals', ?)", (last,))


def _keep(old: apsw.Connection, path: str) -> Path:
    """Copy the damaged database, page by page, into a file beside it. Returns the file's name."""
    kept = next(name for number in count(1) if not (name := Path(f"{path}.damaged-{number}")).exists())
    try:
        with closing(apsw.Connection(str(kept))) as copy, copy.backup("main", old, "main") as backup:
            backup.step()
    except apsw.Error:
        kept.unlink(missing_ok=True)
        raise
    return kept
