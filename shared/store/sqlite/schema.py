"""The tables of the SQLite store, and opening a database that has them.

A log is kept in segments: one row for what one commit added to one turn, its events as JSON lines.
"""

from __future__ import annotations

import time
from pathlib import Path

import apsw

VERSION = 2
BUSY_TIMEOUT_MS = 5000

_SCHEMA = """
CREATE TABLE sessions (
  session_id TEXT PRIMARY KEY, model_id TEXT, created_at REAL NOT NULL, last_activity_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_by_age ON sessions (created_at, session_id);
CREATE INDEX sessions_by_use ON sessions (last_activity_at);
CREATE TABLE turns (
  number INTEGER PRIMARY KEY,            -- the order of turns in the whole store
  turn_id TEXT NOT NULL UNIQUE,
  session_id TEXT,                       -- null for an image outside a session
  cleared INTEGER NOT NULL DEFAULT 0,    -- 1: no longer among the session's messages
  kind TEXT NOT NULL, input TEXT NOT NULL,
  request_id TEXT UNIQUE, request_hash TEXT,
  status TEXT NOT NULL, last_seq INTEGER NOT NULL,
  owner TEXT NOT NULL, lease_until REAL NOT NULL, last_read_at REAL NOT NULL,
  created_at REAL NOT NULL, ended_at REAL,
  text TEXT NOT NULL DEFAULT '', image_id TEXT,
  expired INTEGER NOT NULL DEFAULT 0,    -- 1: log dropped; 2: no longer found
  cancel INTEGER NOT NULL DEFAULT 0,     -- 1: somebody asks for the end of the turn
  epoch INTEGER NOT NULL DEFAULT 0       -- 1: another process ended the turn for its owner
);
CREATE INDEX turns_of_session ON turns (session_id, number) WHERE session_id IS NOT NULL AND cleared = 0;
CREATE INDEX turns_running ON turns (owner, session_id) WHERE status = 'running';
CREATE INDEX turns_by_end ON turns (ended_at) WHERE expired < 2;
CREATE TABLE segments (
  turn_id TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, lines BLOB NOT NULL,
  PRIMARY KEY (turn_id, first_seq)
) WITHOUT ROWID;
CREATE TABLE images (
  image_id TEXT PRIMARY KEY, turn_id TEXT NOT NULL, mime_type TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
  sha256 TEXT NOT NULL, preview INTEGER NOT NULL, revised_prompt TEXT, data BLOB NOT NULL
);
CREATE INDEX images_of_turn ON images (turn_id);
CREATE TABLE signals (
  signal_id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, origin TEXT NOT NULL, kind TEXT NOT NULL,
  session_id TEXT, turn_id TEXT, message_count INTEGER
);
"""
# What a database of an older version lacks.
_UPGRADES = {
    1: """
ALTER TABLE turns ADD COLUMN cancel INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
"""
}


def connect(path: str | None) -> apsw.Connection:
    """Open a database, and make the tables in a new one; ``path`` None is a database in memory.

    Raises ValueError, with words for the operator, when the file cannot be used.
    """
    if path is not None:
        Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        connection = apsw.Connection(str(Path(path).expanduser()) if path else ":memory:")
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone() or (0,)
        if version == 0:
            connection.execute(_SCHEMA)
        elif version in _UPGRADES:
            connection.execute(_UPGRADES[version])
        if version < VERSION:
            connection.execute(f"PRAGMA user_version = {VERSION}")
            version = VERSION
        connection.execute("COMMIT")
    except apsw.Error as error:
        raise ValueError(f"STORE_URL: the database {path} cannot be opened ({type(error).__name__})") from error
    if version != VERSION:
        raise ValueError(f"STORE_URL: the database {path} is of another version of this program; use another file")
    return connection


def _use_wal(connection: apsw.Connection) -> None:
    """Switch to WAL. Several servers may start together, and the switch does not wait for a lock by itself."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
