"""An SQLite store with many ended turns, inserted by SQL: the oldest are due to be dropped, the newest have their logs."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec

from shared.ids import ordered_id

DAYS = 9.0
_HOUR_MS = 3_600_000.0
DAY_MS = 24 * _HOUR_MS
# The newest turns that the purge has to drop are so much older than its limits.
_OVERDUE_MS = 2 * _HOUR_MS
_TEXT = "x" * 200
_TURN = (
    "INSERT INTO turns (turn_id, session_id, kind, input, status, last_seq, owner, lease_until, last_read_at, created_at,"
    " ended_at, text, expired) VALUES (?, ?, 'chat', 'hello', 'completed', 3, 'past', 0, ?, ?, ?, ?, ?)"
)


def fill(store: Path, turns: int, sessions: int, days: float = DAYS) -> list[str]:
    """Insert ``turns`` ended turns of the last ``days`` into an SQLite store that has its tables. Returns the ids of the sessions.

    The newest turn is the first of its session; the turns go round the sessions.
    """
    session_ids = [str(uuid.uuid4()) for _ in range(sessions)]
    now_ms = time.time() * 1000
    connection = apsw.Connection(str(store))
    try:
        connection.execute("PRAGMA synchronous = OFF")
        with connection:
            rows = ((one, None, now_ms - number * 10, now_ms - number * 10) for number, one in enumerate(session_ids))
            connection.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?)", rows)
            connection.executemany(_TURN, _turn_rows(turns, session_ids, now_ms, days))
            recent = "SELECT turn_id, session_id, created_at FROM turns WHERE expired = 0"
            logs = ((turn_id, 1, 3, _log(turn_id, *rest)) for turn_id, *rest in connection.execute(recent))
            connection.executemany("INSERT INTO segments VALUES (?, ?, ?, ?)", logs)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    # The first server to open the file would otherwise wait until the disk has all of it.
    with store.open("rb+") as file:
        os.fsync(file.fileno())
    return session_ids


def _turn_rows(turns: int, session_ids: list[str], now_ms: float, days: float) -> Iterator[tuple[Any, ...]]:
    for number in range(turns):
        age_ms = number / turns * days * DAY_MS
        at = now_ms - age_ms
        kept, seen = age_ms < DAY_MS + _OVERDUE_MS, age_ms < 8 * DAY_MS + _OVERDUE_MS
        yield (
            ordered_id(at),
            session_ids[number % len(session_ids)],
            at,
            at,
            at,
            _TEXT,
            0 if kept else 1 if seen else 2,
        )


def _log(turn_id: str, session_id: str, at: float) -> bytes:
    event = {"turn_id": turn_id, "at": at}
    events = (
        {
            "type": "turn_started",
            **event,
            "seq": 1,
            "session_id": session_id,
            "kind": "chat",
            "input": "hello",
            "model": "m",
        }
        | {"context_messages": 0, "request_id": None},
        {"type": "chunk", **event, "seq": 2, "text": _TEXT},
        {
            "type": "turn_completed",
            **event,
            "seq": 3,
            "finish_reason": "stop",
            "usage": {},
            "chunks": 1,
            "message_count": 2,
        }
        | {"elapsed_ms": 1.0, "sha256": hashlib.sha256(_TEXT.encode()).hexdigest()},
    )
    return b"\n".join(msgspec.json.encode(one) for one in events)
