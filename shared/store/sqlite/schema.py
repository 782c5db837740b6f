"""The tables of the SQLite store.

A log is kept in segments, rows of some events as JSON lines; the newest events of a running turn are in the journal. What a page
of sessions shows is counted by triggers, so that a page costs the same however many turns there are.
"""

from __future__ import annotations

import apsw

VERSION = 4
# Marks a database as one of this program (PRAGMA application_id); 0 before version 3.
APPLICATION_ID = 0x47454E43
# A session counts in the interval of so many milliseconds in which it was last used.
INTERVAL_MS = 10_000

SEGMENTS = """CREATE TABLE segments (
  turn_id TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, lines BLOB NOT NULL,
  PRIMARY KEY (turn_id, first_seq)
) WITHOUT ROWID;"""
_TABLES = f"""
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
{SEGMENTS}
CREATE TABLE images (
  image_id TEXT PRIMARY KEY, turn_id TEXT NOT NULL, mime_type TEXT NOT NULL,
  width INTEGER NOT NULL, height INTEGER NOT NULL,
  sha256 TEXT NOT NULL, preview INTEGER NOT NULL, revised_prompt TEXT, data BLOB NOT NULL
);
CREATE INDEX images_of_turn ON images (turn_id);
CREATE TABLE signals (
  signal_id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, origin TEXT NOT NULL, kind TEXT NOT NULL,
  session_id TEXT, turn_id TEXT, message_count INTEGER
);
"""

# A reply counts as a message once its turn has ended and it has something in it, or completed.
HAS_REPLY = "(status <> 'running' AND (text <> '' OR image_id IS NOT NULL OR status = 'completed'))"
_NEW_REPLIES = "(new.status <> 'running' AND (new.text <> '' OR new.image_id IS NOT NULL OR new.status = 'completed'))"
_INTERVAL = f"CAST(last_activity_at / {INTERVAL_MS} AS INTEGER)"
_NEW_INTERVAL = f"CAST(new.last_activity_at / {INTERVAL_MS} AS INTEGER)"
_OLD_INTERVAL = f"CAST(old.last_activity_at / {INTERVAL_MS} AS INTEGER)"

_SINCE_3 = f"""
CREATE INDEX turns_cleared ON turns (session_id) WHERE cleared = 1;
CREATE INDEX turns_by_end ON turns (expired, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX turns_unseen ON turns (expired, ended_at) WHERE session_id IS NULL OR cleared = 1;
CREATE TABLE doomed (turn_id TEXT PRIMARY KEY) WITHOUT ROWID;    -- turns whose logs and pictures are to be dropped
CREATE TABLE write_check (number INTEGER PRIMARY KEY, at REAL NOT NULL);

CREATE TABLE session_counts (
  session_id TEXT PRIMARY KEY, user_messages INTEGER NOT NULL, model_messages INTEGER NOT NULL,
  running_turn_id TEXT, last_turn_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER turn_counted AFTER INSERT ON turns
WHEN new.session_id IS NOT NULL AND new.cleared = 0 BEGIN
  INSERT INTO session_counts
  VALUES (new.session_id, 1, {_NEW_REPLIES}, iif(new.status = 'running', new.turn_id, NULL), new.turn_id)
  ON CONFLICT (session_id) DO UPDATE SET
    user_messages = user_messages + 1, model_messages = model_messages + excluded.model_messages,
    running_turn_id = coalesce(excluded.running_turn_id, running_turn_id), last_turn_id = excluded.last_turn_id;
END;
CREATE TRIGGER turn_end_counted AFTER UPDATE OF status ON turns
WHEN old.status = 'running' AND new.status <> 'running' AND new.session_id IS NOT NULL AND new.cleared = 0 BEGIN
  UPDATE session_counts SET model_messages = model_messages + {_NEW_REPLIES}, running_turn_id = NULL
  WHERE session_id = new.session_id;
END;

CREATE TABLE activity (interval INTEGER PRIMARY KEY, sessions INTEGER NOT NULL);
CREATE TRIGGER session_counted AFTER INSERT ON sessions BEGIN
  INSERT INTO activity VALUES ({_NEW_INTERVAL}, 1) ON CONFLICT (interval) DO UPDATE SET sessions = sessions + 1;
END;
CREATE TRIGGER session_use_counted AFTER UPDATE OF last_activity_at ON sessions
WHEN {_NEW_INTERVAL} <> {_OLD_INTERVAL} BEGIN
  UPDATE activity SET sessions = sessions - 1 WHERE interval = {_OLD_INTERVAL};
  DELETE FROM activity WHERE interval = {_OLD_INTERVAL} AND sessions <= 0;
  INSERT INTO activity VALUES ({_NEW_INTERVAL}, 1) ON CONFLICT (interval) DO UPDATE SET sessions = sessions + 1;
END;
CREATE TRIGGER session_end_counted AFTER DELETE ON sessions BEGIN
  UPDATE activity SET sessions = sessions - 1 WHERE interval = {_OLD_INTERVAL};
  DELETE FROM activity WHERE interval = {_OLD_INTERVAL} AND sessions <= 0;
END;
"""

JOURNAL = """CREATE TABLE journal (
  number INTEGER PRIMARY KEY, writer INTEGER NOT NULL,
  turn_id TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, lines BLOB NOT NULL
);"""
SCHEMA = _TABLES + _SINCE_3 + JOURNAL
# What a database of an older version lacks, by that version. A database of version 3 keeps its larger indexes: to make one anew
# reads the whole table, and a damaged page would stop the server.
UPGRADES = {
    1: """
ALTER TABLE turns ADD COLUMN cancel INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
""",
    2: f"""
DROP INDEX turns_by_end;
{_SINCE_3}
INSERT INTO session_counts
SELECT counted.session_id, user_messages, model_messages, running_turn_id, turns.turn_id
FROM (
  SELECT session_id, count(*) AS user_messages, sum({HAS_REPLY}) AS model_messages,
    max(iif(status = 'running', turn_id, NULL)) AS running_turn_id, max(number) AS last_number
  FROM turns WHERE session_id IS NOT NULL AND cleared = 0 GROUP BY session_id
) AS counted JOIN turns ON turns.number = counted.last_number;
INSERT INTO activity SELECT {_INTERVAL}, count(*) FROM sessions GROUP BY 1;
""",
    3: JOURNAL,
}


def make_tables(connection: apsw.Connection) -> None:
    """Make the tables in a new database, or what an older one lacks. Needs the lock for writing, or a database of its own."""
    version = connection.pragma("user_version")
    if version == 0:
        connection.execute(SCHEMA)
    else:
        for older in range(version, VERSION):
            connection.execute(UPGRADES[older])
    if version < VERSION:
        connection.execute(f"PRAGMA user_version = {VERSION}; PRAGMA application_id = {APPLICATION_ID}")
