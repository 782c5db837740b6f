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
CREATE TABLE segments (
  turn_id TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, lines BLOB NOT NULL,
  PRIMARY KEY (turn_id, first_seq)
) WITHOUT ROWID;
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

CREATE INDEX turns_cleared ON turns (session_id) WHERE cleared = 1;
CREATE INDEX turns_by_end ON turns (expired, ended_at);
CREATE INDEX turns_unseen ON turns (expired, ended_at) WHERE session_id IS NULL OR cleared = 1;
CREATE INDEX signals_by_age ON signals (at);
CREATE TABLE doomed (turn_id TEXT PRIMARY KEY) WITHOUT ROWID;    -- turns whose logs and pictures are to be dropped
CREATE TABLE write_check (number INTEGER PRIMARY KEY, at REAL NOT NULL);

CREATE TABLE session_counts (
  session_id TEXT PRIMARY KEY, user_messages INTEGER NOT NULL, model_messages INTEGER NOT NULL,
  running_turn_id TEXT, last_turn_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER turn_counted AFTER INSERT ON turns
WHEN new.session_id IS NOT NULL AND new.cleared = 0 BEGIN
  INSERT INTO session_counts
  VALUES (new.session_id, 1, (new.status <> 'running' AND (new.text <> '' OR new.image_id IS NOT NULL OR new.status = 'completed')), iif(new.status = 'running', new.turn_id, NULL), new.turn_id)
  ON CONFLICT (session_id) DO UPDATE SET
    user_messages = user_messages + 1, model_messages = model_messages + excluded.model_messages,
    running_turn_id = coalesce(excluded.running_turn_id, running_turn_id), last_turn_id = excluded.last_turn_id;
END;
CREATE TRIGGER turn_end_counted AFTER UPDATE OF status ON turns
WHEN old.status = 'running' AND new.status <> 'running' AND new.session_id IS NOT NULL AND new.cleared = 0 BEGIN
  UPDATE session_counts SET model_messages = model_messages + (new.status <> 'running' AND (new.text <> '' OR new.image_id IS NOT NULL OR new.status = 'completed')), running_turn_id = NULL
  WHERE session_id = new.session_id;
END;

CREATE TABLE activity (interval INTEGER PRIMARY KEY, sessions INTEGER NOT NULL);
CREATE TRIGGER session_counted AFTER INSERT ON sessions BEGIN
  INSERT INTO activity VALUES (CAST(new.last_activity_at / 10000 AS INTEGER), 1) ON CONFLICT (interval) DO UPDATE SET sessions = sessions + 1;
END;
CREATE TRIGGER session_use_counted AFTER UPDATE OF last_activity_at ON sessions
WHEN CAST(new.last_activity_at / 10000 AS INTEGER) <> CAST(old.last_activity_at / 10000 AS INTEGER) BEGIN
  UPDATE activity SET sessions = sessions - 1 WHERE interval = CAST(old.last_activity_at / 10000 AS INTEGER);
  DELETE FROM activity WHERE interval = CAST(old.last_activity_at / 10000 AS INTEGER) AND sessions <= 0;
  INSERT INTO activity VALUES (CAST(new.last_activity_at / 10000 AS INTEGER), 1) ON CONFLICT (interval) DO UPDATE SET sessions = sessions + 1;
END;
CREATE TRIGGER session_end_counted AFTER DELETE ON sessions BEGIN
  UPDATE activity SET sessions = sessions - 1 WHERE interval = CAST(old.last_activity_at / 10000 AS INTEGER);
  DELETE FROM activity WHERE interval = CAST(old.last_activity_at / 10000 AS INTEGER) AND sessions <= 0;
END;
PRAGMA user_version = 3;
PRAGMA application_id = 1195724355;

INSERT INTO sessions VALUES ('s1', NULL, 1000, 2000), ('s2', 'm', 25000, 26000), ('s3', NULL, 30000, 30000);
INSERT INTO turns (number, turn_id, session_id, cleared, kind, input, status, last_seq, owner, lease_until, last_read_at, created_at, ended_at, text) VALUES
  (1, 't1', 's1', 1, 'chat', 'cleared', 'completed', 3, 'gone', 0, 0, 1000, 1001, 'old'),
  (2, 't2', 's1', 0, 'chat', 'one', 'completed', 3, 'gone', 0, 0, 1100, 1200, '1'),
  (3, 't3', 's2', 0, 'chat', 'two', 'cancelled', 2, 'gone', 0, 0, 1300, 1400, ''),
  (4, 't4', 's1', 0, 'chat', 'three', 'running', 1, 'gone', 1500, 0, 1500, NULL, '');
INSERT INTO segments VALUES
  ('t4', 1, 1, CAST('{"type":"turn_started","turn_id":"t4","seq":1,"at":1500.0,"session_id":"s1","kind":"chat","input":"three","model":"m","context_messages":2,"request_id":null}' AS BLOB));
