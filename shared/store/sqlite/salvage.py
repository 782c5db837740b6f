"""Looking at a store's file without a server: whether it is whole, and saving what can be read of a damaged one.

The file is opened read-only and never changed. A table is read from both ends up to what cannot be read, the journal from its
beginning, and each log by its own turn, so that hardly more than what lies on a damaged page is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from shared.store.sqlite.journal import Row, journals, select_journal
from shared.store.sqlite.logs import select_segments

# Each table with its columns for the export and the columns that order it.
_TABLES = {
    "sessions": ("session_id, model_id, created_at, last_activity_at", "session_id"),
    "turns": (
        "turn_id, session_id, cleared, kind, input, status, created_at, ended_at, text, image_id, expired",
        "number",
    ),
    "images": ("image_id, turn_id, mime_type, width, height, sha256, preview, revised_prompt", "image_id"),
}


def open_read_only(path: Path) -> apsw.Connection:
    """Open a file as it is. Raises apsw.Error."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(5000)
    return connection


def problems(path: Path, most: int = 20) -> list[str]:
    """What SQLite finds wrong with a file, at most so many sentences; empty when it is whole."""
    try:
        connection = open_read_only(path)
        try:
            found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({most})")]
        finally:
            connection.close()
    except apsw.Error as error:
        return [f"{type(error).__name__}: {error}"]
    return [] if found == ["ok"] else [line for row in found for line in row.splitlines()]


def export(path: Path) -> Iterator[str]:
    """What can be read, as JSON lines: ``{"table": ..., ...}`` for sessions, turns and images, then the events of each turn.

    Raises apsw.Error for a file of which nothing can be read.
    """
    connection = open_read_only(path)
    try:
        # SQLite reads a file that has lost its end only with this setting. The connection cannot write.
        connection.execute("PRAGMA writable_schema = ON")
        connection.pragma("schema_version")
        turn_ids: dict[str, bool] = {}
        for table, (columns, order) in _TABLES.items():
            for row in _rows(connection, table, columns, order):
                fields = dict(zip(columns.split(", "), row, strict=True))
                if table == "turns":
                    turn_ids[str(fields["turn_id"])] = fields["status"] == "running"
                yield json.dumps({"table": table, **fields})
        journal = _journal(connection)
        for turn_id, running in turn_ids.items():
            yield from _events(connection, turn_id, journal.get(turn_id, ()) if running else ())
    finally:
        connection.close()


def _rows(connection: apsw.Connection, table: str, columns: str, order: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a table in order: up to the first that cannot be read, then from the other end."""
    seen: set[Any] = set()
    for direction in ("ASC", "DESC"):
        try:
            for key, *row in connection.execute(f"SELECT {order}, {columns} FROM {table} ORDER BY {order} {direction}"):
                if key in seen:
                    return
                seen.add(key)
                yield tuple(row)
        except apsw.Error:
            continue
        return


def _events(connection: apsw.Connection, turn_id: str, journal: Sequence[Row]) -> Iterator[str]:
    """The events of one turn that are whole JSON objects: those of its log, and those of the journal that come after it."""
    last_seq = 0
    with suppress(apsw.Error):
        for segment in select_segments(connection, turn_id, 0):
            last_seq = segment.last_seq
            yield from _objects(segment.lines)
    for row in journal:
        if row.first_seq > last_seq:
            last_seq = row.last_seq
            yield from _objects(row.lines)


def _objects(lines: bytes) -> Iterator[str]:
    for line in lines.split(b"\n"):
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield json.dumps(event)


def _journal(connection: apsw.Connection) -> dict[str, list[Row]]:
    """The rows of the journal by turn, in order, and those of journals that were put aside because a page was damaged."""
    rows: dict[str, list[Row]] = {}
    tables: list[str] = []
    with suppress(apsw.Error):
        tables = journals(connection)
    for table in tables:
        with suppress(apsw.Error):
            for _, turn_id, first_seq, last_seq, lines in select_journal(connection, 0, table):
                rows.setdefault(turn_id, []).append(Row(first_seq, last_seq, lines))
    return {turn_id: sorted(found) for turn_id, found in rows.items()}
