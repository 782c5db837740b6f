"""SQLite as the store: one file in WAL mode, shared by any number of server processes on one machine.

All writes of a process go through one thread that commits whatever is waiting in one ``BEGIN IMMEDIATE`` transaction; what arrives
meanwhile goes into the next one. A log is kept in segments: one row for what one commit added to one turn, its events as JSON
lines. The SQLite is apsw's own, because versions before 3.51.3 have a race between several writers on a WAL.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from shared.errors import ChatError
from shared.events import Status, TurnInterrupted, TurnStarted
from shared.llm.model import ContextMessage
from shared.session import Message, Session
from shared.store.protocol import Append, NewTurn, Signal, SignalKind, Started, StoredImage, TurnRow, refuse_missing
from shared.store.record import Record, partial

T = TypeVar("T")
_Op = Callable[[apsw.Connection], Any]
_Item = tuple[_Op, bool, asyncio.Future[Any]]
_Outcome = tuple[Any, Exception | None]

_VERSION = 1
_BUSY_TIMEOUT_MS = 5000
_GROUP = 256
_LOOK_S = 0.25

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
  expired INTEGER NOT NULL DEFAULT 0     -- 1: log dropped; 2: no longer found
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

# A reply counts as a message once its turn has ended and it has something in it, or completed.
_HAS_REPLY = "(status <> 'running' AND (text <> '' OR image_id IS NOT NULL OR status = 'completed'))"
_SESSION = f"""
SELECT s.session_id, s.model_id, s.created_at, s.last_activity_at,
  (SELECT count(*) FROM turns t WHERE t.session_id = s.session_id AND t.cleared = 0),
  (SELECT count(*) FROM turns t WHERE t.session_id = s.session_id AND t.cleared = 0 AND {_HAS_REPLY}),
  (SELECT turn_id FROM turns t WHERE t.session_id = s.session_id AND t.cleared = 0 AND t.status = 'running'),
  (SELECT turn_id FROM turns t WHERE t.session_id = s.session_id AND t.cleared = 0 ORDER BY number DESC LIMIT 1)
FROM sessions s
"""
_TURN = (
    "SELECT turn_id, kind, session_id, status, last_seq, owner, lease_until, last_read_at, ended_at, expired FROM turns"
)


class _Worker:
    """A thread with a connection of its own; what waits is run together, writes in one transaction."""

    def __init__(self, path: str) -> None:
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._connection = _connect(path)
        self._lease: tuple[str, float] | None = None
        self._renewed = 0.0
        self._thread = threading.Thread(target=self._work, name="sqlite", daemon=True)
        self._thread.start()

    def keep_leases(self, owner: str, lease_s: float) -> None:
        """From now on renew the leases of ``owner`` three times in ``lease_s``."""
        self._lease = (owner, lease_s)

    async def run(self, op: Callable[[apsw.Connection], T], *, write: bool = False) -> T:
        """Run ``op`` on the thread, to its end also when the caller is cancelled.

        A writing op raises ChatError only before it has written anything; any other exception undoes the whole group.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((op, write, future))
        return await future

    async def close(self) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _work(self) -> None:
        while True:
            self._renew_leases()
            try:
                first = self._queue.get(timeout=min(_LOOK_S, self._lease[1] / 6) if self._lease else _LOOK_S)
            except queue.Empty:
                continue
            if first is None:
                return
            group = [first]
            stop = False
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP:
                    item = self._queue.get_nowait()
                    if item is None:
                        stop = True
                        break
                    group.append(item)
            outcomes = _run_group(self._connection, [(op, write) for op, write, _ in group])
            # A loop that is gone has nobody left to tell.
            with contextlib.suppress(RuntimeError):
                group[0][2].get_loop().call_soon_threadsafe(_resolve, group, outcomes)
            if stop:
                return

    def _renew_leases(self) -> None:
        now = time.monotonic()
        if self._lease is None or now - self._renewed < self._lease[1] / 3:
            return
        owner, lease_s = self._lease
        self._renewed = now
        with contextlib.suppress(apsw.Error):
            running = "owner = ? AND status = 'running' AND lease_until > 0"
            if self._connection.execute(f"SELECT 1 FROM turns WHERE {running}", (owner,)).fetchone():
                lease_until = (time.time() + lease_s) * 1000
                self._connection.execute(f"UPDATE turns SET lease_until = ? WHERE {running}", (lease_until, owner))


class _Inline:
    """The same without a thread, for a database in memory: there is no disk to wait for."""

    def __init__(self) -> None:
        self._connection = _connect(None)

    async def run(self, op: Callable[[apsw.Connection], T], *, write: bool = False) -> T:
        ((result, error),) = _run_group(self._connection, [(op, write)])
        if error is not None:
            raise error
        done: T = result
        return done

    def keep_leases(self, owner: str, lease_s: float) -> None:
        """Nothing to do: no other process sees this database."""

    async def close(self) -> None:
        self._connection.close()


def _run_group(connection: apsw.Connection, group: Sequence[tuple[_Op, bool]]) -> list[_Outcome]:
    """Run what waits, in one transaction when anything of it writes; a result or an exception for each."""
    writes = any(write for _, write in group)
    outcomes: list[_Outcome] = []
    try:
        if writes:
            connection.execute("BEGIN IMMEDIATE")
        for op, _ in group:
            try:
                outcomes.append((op(connection), None))
            except ChatError as refusal:
                outcomes.append((None, refusal))
        if writes:
            connection.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - it is handed to every caller of the group
        if connection.in_transaction:
            with contextlib.suppress(apsw.Error):
                connection.execute("ROLLBACK")
        failure = ChatError("storage_unavailable") if isinstance(error, apsw.Error) else error
        failure.__cause__ = error if failure is not error else None
        return [(None, failure)] * len(group)
    return outcomes


def _resolve(group: list[_Item], outcomes: list[_Outcome]) -> None:
    for (_, _, future), (result, error) in zip(group, outcomes, strict=True):
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


def _connect(path: str | None) -> apsw.Connection:
    """Open and, when new, set up the database. Raises ValueError when it is not ours to use."""
    if path is not None:
        Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        connection = apsw.Connection(str(Path(path).expanduser()) if path else ":memory:")
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
        while True:
            # Several servers that start together may race for the switch to WAL, which does not wait for a lock.
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone() or (0,)
        if version == 0:
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except apsw.Error as error:
        raise ValueError(f"STORE_URL: the database {path} cannot be opened ({type(error).__name__})") from error
    if version not in (0, _VERSION):
        raise ValueError(f"STORE_URL: the database {path} is of another version of this program; use another file")
    return connection


class SqliteStore:
    """The Store protocol on SQLite; ``path`` None keeps everything in memory, for this process only."""

    def __init__(self, path: str | None) -> None:
        self._writer: _Worker | _Inline = _Worker(path) if path else _Inline()
        self._reader: _Worker | _Inline = _Worker(path) if path else self._writer
        self._data_version = -1

    async def create_session(self, session_id: str, model_id: str | None, now: float) -> None:
        await self._writer.run(lambda c: _insert_session(c, session_id, model_id, now), write=True)

    async def get_session(self, session_id: str) -> Session | None:
        def op(c: apsw.Connection) -> Session | None:
            row = c.execute(_SESSION + "WHERE s.session_id = ?", (session_id,)).fetchone()
            return _session(row) if row else None

        return await self._reader.run(op)

    async def list_sessions(
        self, limit: int, before: tuple[float, str] | None, active_since: float
    ) -> tuple[list[Session], int]:
        def op(c: apsw.Connection) -> tuple[list[Session], int]:
            where = "WHERE (s.created_at, s.session_id) < (?, ?)" if before else ""
            rows = c.execute(
                f"{_SESSION} {where} ORDER BY s.created_at DESC, s.session_id DESC LIMIT ?", (*(before or ()), limit)
            ).fetchall()
            active = c.execute("SELECT count(*) FROM sessions WHERE last_activity_at >= ?", (active_since,)).fetchone()
            return [_session(row) for row in rows], int(active[0]) if active else 0

        return await self._reader.run(op)

    async def list_messages(self, session_id: str) -> list[Message]:
        def op(c: apsw.Connection) -> list[Message]:
            refuse_missing(c.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,)).fetchone())
            messages = []
            for turn_id, text_in, status, text, image_id, created, ended, has_reply in c.execute(
                f"SELECT turn_id, input, status, text, image_id, created_at, ended_at, {_HAS_REPLY} FROM turns"
                " WHERE session_id = ? AND cleared = 0 ORDER BY number",
                (session_id,),
            ):
                messages.append(_message(turn_id, "user", text_in, status, None, created))
                if has_reply:
                    messages.append(_message(turn_id, "model", text, status, image_id, ended))
            return messages

        return await self._reader.run(op)

    async def clear_session(self, session_id: str, origin: str, now: float) -> None:
        def op(c: apsw.Connection) -> None:
            _refuse_running(c, session_id, now)
            c.execute("UPDATE turns SET cleared = 1 WHERE session_id = ? AND cleared = 0", (session_id,))
            c.execute("UPDATE sessions SET last_activity_at = ? WHERE session_id = ?", (now, session_id))
            _signal(c, now, origin, "session_cleared", session_id)

        await self._writer.run(op, write=True)

    async def delete_session(self, session_id: str, origin: str, now: float) -> None:
        def op(c: apsw.Connection) -> None:
            _refuse_running(c, session_id, now)
            of_session = "(SELECT turn_id FROM turns WHERE session_id = ?)"
            c.execute(f"DELETE FROM segments WHERE turn_id IN {of_session}", (session_id,))
            c.execute(f"DELETE FROM images WHERE turn_id IN {of_session}", (session_id,))
            c.execute("DELETE FROM turns WHERE session_id = ?", (session_id,))
            c.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
            _signal(c, now, origin, "session_deleted", session_id)

        await self._writer.run(op, write=True)

    async def start_turn(self, new: NewTurn) -> Started:
        return await self._writer.run(lambda c: _start_turn(c, new), write=True)

    async def append(self, batch: Sequence[Append]) -> list[bool]:
        return await self._writer.run(lambda c: [_append(c, entry) for entry in batch], write=True)

    async def get_turn(self, turn_id: str) -> TurnRow | None:
        return await self._reader.run(lambda c: _get_turn(c, turn_id))

    async def read(self, turn_id: str, after: int) -> tuple[TurnRow, list[Record]] | None:
        def op(c: apsw.Connection) -> tuple[TurnRow, list[Record]] | None:
            with _snapshot(c):
                turn = _get_turn(c, turn_id)
                return None if turn is None else (turn, _read_log(c, turn_id, after))

        return await self._reader.run(op)

    async def read_text(self, turn_id: str) -> tuple[TurnRow, str] | None:
        def op(c: apsw.Connection) -> tuple[TurnRow, str] | None:
            with _snapshot(c):
                turn = _get_turn(c, turn_id)
                if turn is None:
                    return None
                if turn.status == "running":
                    return turn, partial(record.event for record in _read_log(c, turn_id, 0))[0]
                row = c.execute("SELECT text FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
                return turn, row[0] if row else ""

        return await self._reader.run(op)

    async def get_image(self, image_id: str) -> StoredImage | None:
        def op(c: apsw.Connection) -> StoredImage | None:
            row = c.execute(
                "SELECT image_id, turn_id, mime_type, width, height, sha256, preview, revised_prompt, data FROM images"
                " WHERE image_id = ?",
                (image_id,),
            ).fetchone()
            if row is None:
                return None
            return StoredImage(
                image_id=row[0],
                turn_id=row[1],
                mime_type=row[2],
                width=row[3],
                height=row[4],
                sha256=row[5],
                preview=bool(row[6]),
                revised_prompt=row[7],
                data=row[8],
            )

        return await self._reader.run(op)

    def keep_leases(self, owner: str, lease_s: float) -> None:
        self._writer.keep_leases(owner, lease_s)

    async def renew(
        self, owner: str, lease_until: float, read: Sequence[str], now: float, dropped: Sequence[str] = ()
    ) -> None:
        def op(c: apsw.Connection) -> None:
            c.execute(
                "UPDATE turns SET lease_until = ? WHERE owner = ? AND status = 'running' AND lease_until > 0",
                (lease_until, owner),
            )
            for turn_id in dropped:
                c.execute("UPDATE turns SET lease_until = 0 WHERE turn_id = ? AND owner = ?", (turn_id, owner))
            for turn_id in read:
                c.execute("UPDATE turns SET last_read_at = ? WHERE turn_id = ?", (now, turn_id))

        await self._writer.run(op, write=True)

    async def reap(self, now: float) -> list[str]:
        overdue = "SELECT turn_id FROM turns WHERE status = 'running' AND lease_until < ?"
        # Asked with a read first: every process looks often, and hardly ever is there anything to write.
        if not await self._reader.run(lambda c: c.execute(overdue, (now,)).fetchone()):
            return []

        def op(c: apsw.Connection) -> list[str]:
            ids = [str(row[0]) for row in c.execute(overdue, (now,)).fetchall()]
            for turn_id in ids:
                _interrupt(c, turn_id, now)
            return ids

        return await self._writer.run(op, write=True)

    async def signal(
        self, origin: str, kind: SignalKind, now: float, *, session_id: str | None = None, turn_id: str | None = None
    ) -> None:
        await self._writer.run(lambda c: _signal(c, now, origin, kind, session_id, turn_id), write=True)

    async def changes(self, after: int) -> list[Signal] | None:
        def op(c: apsw.Connection) -> list[Signal] | None:
            version = int(c.pragma("data_version"))
            if version == self._data_version:
                return None
            self._data_version = version
            rows = c.execute(
                "SELECT signal_id, origin, kind, session_id, turn_id, message_count FROM signals WHERE signal_id > ?"
                " ORDER BY signal_id",
                (after,),
            )
            return [
                Signal(
                    signal_id=row[0],
                    origin=row[1],
                    kind=row[2],
                    session_id=row[3],
                    turn_id=row[4],
                    message_count=row[5],
                )
                for row in rows
            ]

        return await self._reader.run(op)

    async def last_signal(self) -> int:
        # AUTOINCREMENT remembers the highest id in sqlite_sequence, also when the signals themselves are purged.
        row = await self._reader.run(
            lambda c: c.execute("SELECT seq FROM sqlite_sequence WHERE name = 'signals'").fetchone()
        )
        return int(row[0]) if row else 0

    async def purge(self, logs_before: float, turns_before: float, signals_before: float) -> None:
        def op(c: apsw.Connection) -> None:
            c.execute("DELETE FROM signals WHERE at < ?", (signals_before,))
            old = [
                row[0]
                for row in c.execute(
                    "SELECT turn_id FROM turns WHERE ended_at < ? AND expired = 0 LIMIT 500", (logs_before,)
                )
            ]
            for turn_id in old:
                c.execute("DELETE FROM segments WHERE turn_id = ?", (turn_id,))
                c.execute("DELETE FROM images WHERE turn_id = ? AND preview = 1", (turn_id,))
                c.execute(
                    "UPDATE turns SET expired = 1, request_id = NULL, request_hash = NULL WHERE turn_id = ?", (turn_id,)
                )
            # What no session shows takes its picture with it, also when it was cleared after its log had expired.
            unseen = "ended_at < ? AND expired >= ? AND (session_id IS NULL OR cleared = 1)"
            c.execute(
                "DELETE FROM images WHERE turn_id IN"
                f" (SELECT turn_id FROM images JOIN turns USING (turn_id) WHERE {unseen})",
                (logs_before, 1),
            )
            c.execute("UPDATE turns SET expired = 2 WHERE ended_at < ? AND expired = 1", (turns_before,))
            c.execute(f"DELETE FROM turns WHERE {unseen}", (turns_before, 2))

        await self._writer.run(op, write=True)

    async def close(self) -> None:
        await self._writer.close()
        if self._reader is not self._writer:
            await self._reader.close()


@contextlib.contextmanager
def _snapshot(c: apsw.Connection) -> Any:
    """Several reads of one state; inside a group's transaction there is one already."""
    if c.in_transaction:
        yield
        return
    c.execute("BEGIN")
    try:
        yield
    finally:
        c.execute("COMMIT")


def _insert_session(c: apsw.Connection, session_id: str, model_id: str | None, now: float) -> None:
    c.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (session_id, model_id, now, now))


def _session(row: Any) -> Session:
    return Session(
        session_id=row[0],
        model=row[1],
        created_at=row[2],
        last_activity_at=row[3],
        message_count=row[4] + row[5],
        user_messages=row[4],
        model_messages=row[5],
        running_turn_id=row[6],
        last_turn_id=row[7],
    )


def _message(turn_id: str, role: Any, text: str, status: Status, image_id: str | None, created_at: float) -> Message:
    return Message(
        message_id=f"{turn_id}:{role}",
        turn_id=turn_id,
        role=role,
        text=text,
        status=status,
        image_id=image_id,
        created_at=created_at,
    )


def _get_turn(c: apsw.Connection, turn_id: str) -> TurnRow | None:
    row = c.execute(_TURN + " WHERE turn_id = ? AND expired < 2", (turn_id,)).fetchone()
    return _turn_row(row) if row else None


def _turn_row(row: Any) -> TurnRow:
    return TurnRow(
        turn_id=row[0],
        kind=row[1],
        session_id=row[2],
        status=row[3],
        last_seq=row[4],
        owner=row[5],
        lease_until=row[6],
        last_read_at=row[7],
        ended_at=row[8],
        expired=bool(row[9]),
    )


def _read_log(c: apsw.Connection, turn_id: str, after: int) -> list[Record]:
    images: dict[str, memoryview] = {}

    def image(image_id: str) -> memoryview:
        if image_id not in images:
            row = c.execute("SELECT data FROM images WHERE image_id = ?", (image_id,)).fetchone()
            images[image_id] = memoryview(row[0] if row else b"")
        return images[image_id]

    records = []
    for first_seq, lines in c.execute(
        "SELECT first_seq, lines FROM segments WHERE turn_id = ? AND last_seq > ? ORDER BY first_seq", (turn_id, after)
    ):
        for seq, line in enumerate(lines.split(b"\n"), first_seq):
            if seq > after:
                records.append(Record.load(turn_id, seq, line, image))
    return records


def _insert_segment(c: apsw.Connection, turn_id: str, records: list[Record]) -> None:
    c.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?)",
        (turn_id, records[0].seq, records[-1].seq, b"\n".join([record.stored for record in records])),
    )


def _signal(
    c: apsw.Connection,
    now: float,
    origin: str,
    kind: SignalKind,
    session_id: str | None,
    turn_id: str | None = None,
    message_count: int | None = None,
) -> None:
    c.execute(
        "INSERT INTO signals (at, origin, kind, session_id, turn_id, message_count) VALUES (?, ?, ?, ?, ?, ?)",
        (now, origin, kind, session_id, turn_id, message_count),
    )


def _message_count(c: apsw.Connection, session_id: str) -> int:
    row = c.execute(
        f"SELECT count(*) + coalesce(sum({_HAS_REPLY}), 0) FROM turns WHERE session_id = ? AND cleared = 0",
        (session_id,),
    ).fetchone()
    return int(row[0]) if row else 0


def _refuse_running(c: apsw.Connection, session_id: str, now: float) -> None:
    """Raise when the session is missing or busy; a turn whose owner is gone is ended here instead."""
    refuse_missing(c.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,)).fetchone())
    row = c.execute(
        "SELECT turn_id, lease_until FROM turns WHERE session_id = ? AND cleared = 0 AND status = 'running'",
        (session_id,),
    ).fetchone()
    if row is None:
        return
    if row[1] >= now:
        raise ChatError("turn_in_progress")
    _interrupt(c, row[0], now)


def _interrupt(c: apsw.Connection, turn_id: str, now: float) -> None:
    """End a turn whose owner is gone: what was shown is kept."""
    turn = _get_turn(c, turn_id)
    if turn is None or turn.status != "running":
        return
    text, chunks, sha256 = partial(record.event for record in _read_log(c, turn_id, 0))
    event = TurnInterrupted(turn_id=turn_id, seq=turn.last_seq + 1, at=now, chunks=chunks, sha256=sha256)
    _insert_segment(c, turn_id, [Record.of(event)])
    image = c.execute("SELECT image_id FROM images WHERE turn_id = ? AND preview = 0", (turn_id,)).fetchone()
    c.execute(
        "UPDATE turns SET status = 'interrupted', last_seq = ?, ended_at = ?, text = ?, image_id = ? WHERE turn_id = ?",
        (event.seq, now, text, image[0] if image else None, turn_id),
    )


def _context(c: apsw.Connection, session_id: str, max_chars: int) -> tuple[ContextMessage, ...]:
    """The newest turns whose texts fit in ``max_chars``, oldest first: completed, cancelled and interrupted ones.

    A turn without text in its reply is left out with its question, because providers refuse an empty message.
    """
    turns: list[tuple[str, str]] = []
    chars = 0
    for text_in, text in c.execute(
        "SELECT input, text FROM turns WHERE session_id = ? AND cleared = 0 AND kind = 'chat'"
        " AND status IN ('completed', 'cancelled', 'interrupted') AND text <> '' ORDER BY number DESC",
        (session_id,),
    ):
        if not text.strip():
            continue
        chars += len(text_in) + len(text)
        if chars > max_chars:
            break
        turns.append((text_in, text))
    return tuple(
        said
        for text_in, text in reversed(turns)
        for said in (ContextMessage("user", text_in), ContextMessage("model", text))
    )


def _start_turn(c: apsw.Connection, new: NewTurn) -> Started:
    if new.request_id is not None:
        row = c.execute("SELECT turn_id, request_hash FROM turns WHERE request_id = ?", (new.request_id,)).fetchone()
        if row is not None:
            if row[1] != new.request_hash:
                raise ChatError("idempotency_key_reused")
            turn = _get_turn(c, row[0])
            if turn is not None:
                return Started(turn=turn, joined=True)
    session_id = new.session_id
    session_model: str | None = None
    if session_id is not None:
        row = c.execute("SELECT model_id FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        refuse_missing(row)
        session_model = row[0] if row else None
        _refuse_running(c, session_id, new.now)
    elif new.new_session_id is not None:
        session_id = new.new_session_id
        _insert_session(c, session_id, new.model_id, new.now)
    context: tuple[ContextMessage, ...] = ()
    if new.kind == "chat" and session_id is not None:
        context = _context(c, session_id, new.max_context_chars)
    model = (new.model_id or session_model or new.default_model) if new.kind == "chat" else new.default_model
    event = TurnStarted(
        turn_id=new.turn_id,
        seq=1,
        at=new.now,
        session_id=session_id,
        kind=new.kind,
        input=new.input,
        model=model,
        context_messages=len(context),
        request_id=new.request_id,
    )
    first = Record.of(event)
    c.execute(
        "INSERT INTO turns (turn_id, session_id, kind, input, request_id, request_hash, status, last_seq, owner,"
        " lease_until, last_read_at, created_at) VALUES (?, ?, ?, ?, ?, ?, 'running', 1, ?, ?, ?, ?)",
        (
            new.turn_id,
            session_id,
            new.kind,
            new.input,
            new.request_id,
            new.request_hash if new.request_id is not None else None,
            new.owner,
            new.lease_until,
            new.now,
            new.now,
        ),
    )
    _insert_segment(c, new.turn_id, [first])
    count: int | None = None
    if session_id is not None:
        c.execute("UPDATE sessions SET last_activity_at = ? WHERE session_id = ?", (new.now, session_id))
        count = _message_count(c, session_id)
        _signal(c, new.now, new.owner, "turn_started", session_id, new.turn_id, count)
    return Started(
        turn=TurnRow(
            turn_id=new.turn_id,
            kind=new.kind,
            session_id=session_id,
            status="running",
            last_seq=1,
            owner=new.owner,
            lease_until=new.lease_until,
            last_read_at=new.now,
            ended_at=None,
            expired=False,
        ),
        joined=False,
        model=model,
        context=context,
        first=first,
        message_count=count,
        made_session=new.session_id is None and session_id is not None,
    )


def _append(c: apsw.Connection, entry: Append) -> bool:
    first, last = entry.records[0].seq, entry.records[-1].seq
    # The fence: only the owner of a running turn, and only the record that follows the last one.
    c.execute(
        "UPDATE turns SET last_seq = ?, lease_until = ? WHERE turn_id = ? AND owner = ? AND status = 'running'"
        " AND last_seq = ?",
        (last, entry.lease_until, entry.turn_id, entry.owner, first - 1),
    )
    if c.changes() != 1:
        return False
    _insert_segment(c, entry.turn_id, entry.records)
    for image in entry.images:
        c.execute(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                image.image_id,
                image.turn_id,
                image.mime_type,
                image.width,
                image.height,
                image.sha256,
                int(image.preview),
                image.revised_prompt,
                image.data,
            ),
        )
    if entry.end is not None:
        _end_turn(c, entry)
    return True


def _end_turn(c: apsw.Connection, entry: Append) -> None:
    end = entry.end
    assert end is not None
    c.execute(
        "UPDATE turns SET status = ?, ended_at = ?, text = ?, image_id = ? WHERE turn_id = ?",
        (end.status, end.ended_at, end.text, end.image_id, entry.turn_id),
    )
    row = c.execute("SELECT session_id FROM turns WHERE turn_id = ?", (entry.turn_id,)).fetchone()
    if row is not None and row[0] is not None:
        c.execute("UPDATE sessions SET last_activity_at = ? WHERE session_id = ?", (end.ended_at, row[0]))
        if end.text or end.image_id or end.status == "completed":
            _signal(c, end.ended_at, entry.owner, "message_added", row[0], entry.turn_id, _message_count(c, row[0]))
