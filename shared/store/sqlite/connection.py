"""Opening a database of the SQLite store, with one sentence for the operator when the file cannot be used."""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from shared.store.sqlite.rows import is_shared
from shared.store.sqlite.schema import APPLICATION_ID, VERSION, make_tables

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_MS = 5000
# A commit that finds so many pages in the write-ahead log writes them into the database, and waits for the disk: 1 MiB takes 2 to
# 3 ms there where SQLite's own 4 MiB take 5 to 8, and what it takes in all is the same.
_CHECKPOINT_PAGES = 256
# A checkpoint cuts the write-ahead log to this size.
WAL_BYTES = 16 * 1024 * 1024
# A database in memory is a file of SQLite's memdb VFS. ":memory:" would keep every page in the page cache, and each commit that
# moves pages walks through the whole cache (pcache1TruncateUnsafe): after 14,000 turns that was a fifth of the server's time. A
# name without a slash at its beginning makes the database private to its connection.
_IN_MEMORY = "file:chat?vfs=memdb"
# SQLite keeps such a file in one allocation, and allocates no more than 2 GiB at once. What makes room may take the reserve.
MEMORY_BYTES = 2**31 - 2**25
_RESERVE_BYTES = 2**24

_OTHER_FILE = "set STORE_URL to another file"
_SAVE = (
    "`python -m protocols store check` says where, `python -m protocols store export` saves what can be read;"
    f" then {_OTHER_FILE}"
)
# The words for an error. The first kind that fits counts.
_WORDS: tuple[tuple[type[apsw.Error], str], ...] = (
    (apsw.NotADBError, f"is not a SQLite database; {_OTHER_FILE}"),
    (apsw.CorruptError, f"is damaged; {_SAVE}"),
    (apsw.SQLError, f"has other tables than this program makes; {_OTHER_FILE}"),
    (apsw.BusyError, "is locked by another program; end that program, then start again"),
    (apsw.LockedError, "is locked by another program; end that program, then start again"),
    (apsw.FullError, "cannot be written, because the disk is full; make room, then start again"),
    (apsw.ReadOnlyError, "cannot be written by this user; change its owner or its mode, or set STORE_URL"),
    (apsw.CantOpenError, "cannot be opened by this user; change the owner or the mode of its folder, or set STORE_URL"),
    (apsw.IOError, "cannot be read or written, because the disk fails or is full; make room, or set STORE_URL"),
)


def connect(path: str) -> apsw.Connection:
    """Open a database in a file, and make the tables in a new one.

    Raises ValueError, with one sentence for the operator, when the file cannot be used.
    """
    file = Path(path).expanduser()
    try:
        if file.exists() and not file.is_file():
            raise ValueError(f"STORE_URL: {file} is a folder, a pipe or a device and no file; {_OTHER_FILE}")
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = apsw.Connection(str(file))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        refuse_foreign(connection, file)
        _use_wal(connection)
        connection.execute(f"PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = {WAL_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        _make_tables(connection)
    except apsw.Error as error:
        raise ValueError(why_not(file, error)) from error
    except OSError as error:
        raise ValueError(f"STORE_URL: the folder of {file} cannot be made ({error.strerror}); set STORE_URL") from error
    return connection


def connect_in_memory() -> apsw.Connection:
    """Make a database that lives as long as its connection, and that no other connection sees.

    When MEMORY_BYTES are full, a statement that needs more raises apsw.FullError.
    """
    connection = apsw.Connection(_IN_MEMORY, flags=apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE)
    limit = ctypes.c_int64(MEMORY_BYTES + _RESERVE_BYTES)
    connection.file_control("main", apsw.SQLITE_FCNTL_SIZE_LIMIT, ctypes.addressof(limit))
    # The size limit is noticed only when pages are written. This limit refuses the statement that needs another page.
    _limit(connection, MEMORY_BYTES)
    connection.pragma("locking_mode", "exclusive")
    _make_tables(connection)
    return connection


def _limit(connection: apsw.Connection, max_bytes: int) -> None:
    connection.pragma("max_page_count", max_bytes // connection.pragma("page_size"))


def makes_room(step: Callable[Concatenate[apsw.Connection, P], T]) -> Callable[Concatenate[apsw.Connection, P], T]:
    """Let a step take the reserve of a full database in memory: it needs some pages before it frees others."""

    @functools.wraps(step)
    def run(connection: apsw.Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if is_shared(connection):
            return step(connection, *args, **kwargs)
        _limit(connection, MEMORY_BYTES + _RESERVE_BYTES)
        try:
            return step(connection, *args, **kwargs)
        finally:
            _limit(connection, MEMORY_BYTES)

    return run


def _make_tables(connection: apsw.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # The version is read with the lock: another server that starts may have made the tables meanwhile.
    make_tables(connection)
    connection.execute("COMMIT")


def why_not(path: Path, error: apsw.Error) -> str:
    """One sentence that says why a database cannot be used, and what to do."""
    words = next((words for kind, words in _WORDS if isinstance(error, kind)), f"cannot be used; {_OTHER_FILE}")
    return f"STORE_URL: the database {path} {words} ({type(error).__name__})"


def refuse_foreign(connection: apsw.Connection, path: Path) -> None:
    """Raise ValueError for a database of another program or of a newer version, before anything in it is changed."""
    # All is read in one transaction: another server that starts may make the tables between two of these statements.
    connection.execute("BEGIN")
    application_id, version = connection.pragma("application_id"), connection.pragma("user_version")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.execute("COMMIT")
    if version > VERSION and application_id in (0, APPLICATION_ID):
        raise ValueError(
            f"STORE_URL: the database {path} is of another version of this program (its version is {version}, this"
            f" program knows {VERSION}); run the newer program, or {_OTHER_FILE}"
        )
    ours = {"turns", "segments"} <= tables if version else not tables
    if application_id not in (0, APPLICATION_ID) or not ours:
        raise ValueError(f"STORE_URL: the database {path} belongs to another program; {_OTHER_FILE}")


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
