"""The threads of the SQLite store: each has a connection, and runs what waits for it in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import apsw

from shared.errors import ChatError
from shared.store.protocol import Damaged
from shared.store.sqlite.connection import connect, connect_in_memory
from shared.store.sqlite.leases import renew_leases, renewals

T = TypeVar("T")
Operation = Callable[[apsw.Connection], Any]
Outcome = tuple[Any, Exception | None]

_MAX_GROUP = 256
_LOOK_S = 0.25
# These concern the whole database and not one operation, so another try of each operation alone would fail too.
_OUTAGES = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
    apsw.SQLError,
)


@dataclass(frozen=True, slots=True)
class _Job:
    """Operations of one caller, and the future that gets an outcome for each."""

    operations: Sequence[Operation]
    write: bool
    future: asyncio.Future[list[Outcome]]


class Worker:
    """A thread with a connection of its own.

    What waits is run together, in one ``BEGIN IMMEDIATE`` transaction when any of it writes. What arrives meanwhile is the
    next group. ``lock_trouble_at`` is time.monotonic() when a transaction last failed to begin, or last waited long for
    the lock that another process had.
    """

    def __init__(self, path: str, lease_s: float) -> None:
        self.lock_trouble_at = 0.0
        self._long_wait_s = lease_s / 3
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._path = Path(path).expanduser()
        self._connection = connect(path)
        self._file = self._path.stat()
        self._lease: tuple[str, float] | None = None
        self._renewed_at = 0.0
        self._thread = threading.Thread(target=self._work, name="sqlite", daemon=True)
        self._thread.start()

    def keep_leases(self, owner: str, lease_s: float) -> None:
        """Renew the leases of ``owner`` three times in ``lease_s``, from now on."""
        self._lease = (owner, lease_s)

    async def run(self, operation: Callable[[apsw.Connection], T], *, write: bool = False) -> T:
        """Run an operation on the thread; it goes on to its end when the caller is cancelled.

        Raises ``storage_unavailable``, and what the operation raises. An operation that raises has changed nothing, and
        does not affect the others of its group.
        """
        ((result, error),) = await self._submit([operation], write)
        if error is not None:
            raise error
        done: T = result
        return done

    async def run_each(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Run operations that write, in one transaction where possible. Returns a result or an exception for each."""
        return await self._submit(operations, True)

    async def _submit(self, operations: Sequence[Operation], write: bool) -> list[Outcome]:
        future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._queue.put(_Job(operations, write, future))
        return await future

    async def close(self) -> None:
        """Run what waits, then end the thread and close the connection."""
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
                while len(group) < _MAX_GROUP:
                    job = self._queue.get_nowait()
                    if job is None:
                        stop = True
                        break
                    group.append(job)
            self._run(group)
            if stop:
                return

    def _run(self, group: list[_Job]) -> None:
        operations = [operation for job in group for operation in job.operations]
        write = any(job.write for job in group)
        outcomes = run_group(self._connection, operations, self._begin if write else None)
        # The event loop may be closed already; then there is no caller to tell.
        with contextlib.suppress(RuntimeError):
            group[0].future.get_loop().call_soon_threadsafe(_resolve, group, outcomes)

    def _begin(self) -> None:
        """Begin to write. What is written into a deleted or replaced file would be lost with this process."""
        begun_at = time.monotonic()
        try:
            self._check_file()
            self._connection.execute("BEGIN IMMEDIATE")
        except (apsw.Error, ChatError):
            self.lock_trouble_at = time.monotonic()
            raise
        if time.monotonic() - begun_at > self._long_wait_s:
            self.lock_trouble_at = time.monotonic()

    def _check_file(self) -> None:
        try:
            now = self._path.stat()
        except OSError:
            now = None
        if now is None or (now.st_dev, now.st_ino) != (self._file.st_dev, self._file.st_ino):
            raise ChatError("storage_unavailable", "The store's file was deleted or replaced; restart the server.")

    def _renew_leases(self) -> None:
        now = time.monotonic()
        if self._lease is None or now - self._renewed_at < self._lease[1] / 3:
            return
        owner, lease_s = self._lease
        self._renewed_at = now
        with contextlib.suppress(apsw.Error):
            running = "SELECT 1 FROM turns INDEXED BY turns_running WHERE owner = ? AND status = 'running'"
            if self._connection.execute(running, (owner,)).fetchone():
                until = (time.time() + lease_s) * 1000
                ((_, error),) = run_group(self._connection, [lambda c: renew_leases(c, owner, until)], self._begin)
                if isinstance(error, Damaged):
                    run_group(self._connection, renewals(self._connection, owner, until), self._begin)


class InlineWorker:
    """The same without a thread, for a database in memory: there is no disk to wait for."""

    lock_trouble_at = 0.0

    def __init__(self) -> None:
        self._connection = connect_in_memory()

    async def run(self, operation: Callable[[apsw.Connection], T], *, write: bool = False) -> T:
        """Run an operation at once."""
        ((result, error),) = run_group(self._connection, [operation], self._begin if write else None)
        if error is not None:
            raise error
        done: T = result
        return done

    async def run_each(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Run operations that write, at once. Returns a result or an exception for each."""
        return run_group(self._connection, operations, self._begin)

    def keep_leases(self, owner: str, lease_s: float) -> None:
        """Do nothing, because no other process sees this database."""

    async def close(self) -> None:
        """Close the connection, which drops the database."""
        self._connection.close()

    def _begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")


def run_group(
    connection: apsw.Connection, operations: Sequence[Operation], begin: Callable[[], None] | None
) -> list[Outcome]:
    """Run operations, in one transaction when ``begin`` is given. Returns a result or an exception for each.

    An operation that refuses (ChatError) has written nothing. When one fails otherwise, the transaction is undone and each
    operation is run again in a transaction of its own, so that the other operations succeed.
    """
    if begin is None:
        return [_attempt(connection, operation) for operation in operations]
    try:
        return _transaction(connection, operations, begin)
    except Exception as error:  # noqa: BLE001 - the callers get it
        if len(operations) == 1 or isinstance(error, (*_OUTAGES, ChatError)):
            return [(None, _translated(error))] * len(operations)
    outcomes: list[Outcome] = []
    for operation in operations:
        try:
            outcomes += _transaction(connection, [operation], begin)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            outcomes.append((None, _translated(error)))
    return outcomes


def _transaction(
    connection: apsw.Connection, operations: Sequence[Operation], begin: Callable[[], None]
) -> list[Outcome]:
    begin()
    try:
        outcomes: list[Outcome] = []
        for operation in operations:
            try:
                outcomes.append((operation(connection), None))
            except ChatError as refusal:
                outcomes.append((None, refusal))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(apsw.Error):
                connection.execute("ROLLBACK")
        raise
    return outcomes


def _attempt(connection: apsw.Connection, operation: Operation) -> Outcome:
    try:
        return operation(connection), None
    except Exception as error:  # noqa: BLE001 - the caller gets it
        return None, _translated(error)


def _translated(error: Exception) -> Exception:
    """SQLite's error as ``storage_unavailable``, or Damaged where another try fails too; another exception as it is."""
    if not isinstance(error, apsw.Error):
        return error
    translated = ChatError("storage_unavailable") if isinstance(error, _OUTAGES) else Damaged()
    translated.__cause__ = error
    return translated


def _resolve(group: list[_Job], outcomes: list[Outcome]) -> None:
    for job in group:
        own, outcomes = outcomes[: len(job.operations)], outcomes[len(job.operations) :]
        if not job.future.done():
            job.future.set_result(own)
