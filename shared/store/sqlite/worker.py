"""The threads of the SQLite store: each has a connection, and runs what waits for it in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw

from shared.errors import ChatError
from shared.store.sqlite.schema import connect

T = TypeVar("T")
_Operation = Callable[[apsw.Connection], Any]
# An operation, whether it writes, and the future that gets its result.
_Item = tuple[_Operation, bool, asyncio.Future[Any]]
_Outcome = tuple[Any, Exception | None]

_MAX_GROUP = 256
_LOOK_S = 0.25


class Worker:
    """A thread with a connection of its own.

    What waits is run together, in one ``BEGIN IMMEDIATE`` transaction when any of it writes. What arrives meanwhile is
    the next group.
    """

    def __init__(self, path: str) -> None:
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._connection = connect(path)
        self._lease: tuple[str, float] | None = None
        self._renewed_s = 0.0
        self._thread = threading.Thread(target=self._work, name="sqlite", daemon=True)
        self._thread.start()

    def keep_leases(self, owner: str, lease_s: float) -> None:
        """Renew the leases of ``owner`` three times in ``lease_s``, from now on."""
        self._lease = (owner, lease_s)

    async def run(self, operation: Callable[[apsw.Connection], T], *, write: bool = False) -> T:
        """Run an operation on the thread; it goes on to its end when the caller is cancelled.

        An operation that writes may raise ChatError before it has written anything. Any other exception undoes the
        whole group.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((operation, write, future))
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
                    item = self._queue.get_nowait()
                    if item is None:
                        stop = True
                        break
                    group.append(item)
            outcomes = run_group(self._connection, [(operation, write) for operation, write, _ in group])
            # The event loop may be closed already; then there is no caller to tell.
            with contextlib.suppress(RuntimeError):
                group[0][2].get_loop().call_soon_threadsafe(_resolve, group, outcomes)
            if stop:
                return

    def _renew_leases(self) -> None:
        now = time.monotonic()
        if self._lease is None or now - self._renewed_s < self._lease[1] / 3:
            return
        owner, lease_s = self._lease
        self._renewed_s = now
        with contextlib.suppress(apsw.Error):
            running = "owner = ? AND status = 'running' AND lease_until > 0"
            if self._connection.execute(f"SELECT 1 FROM turns WHERE {running}", (owner,)).fetchone():
                lease_until = (time.time() + lease_s) * 1000
                self._connection.execute(f"UPDATE turns SET lease_until = ? WHERE {running}", (lease_until, owner))


class InlineWorker:
    """The same without a thread, for a database in memory: there is no disk to wait for."""

    def __init__(self) -> None:
        self._connection = connect(None)

    async def run(self, operation: Callable[[apsw.Connection], T], *, write: bool = False) -> T:
        """Run an operation at once."""
        ((result, error),) = run_group(self._connection, [(operation, write)])
        if error is not None:
            raise error
        done: T = result
        return done

    def keep_leases(self, owner: str, lease_s: float) -> None:
        """Do nothing, because no other process sees this database."""

    async def close(self) -> None:
        """Close the connection, which drops the database."""
        self._connection.close()


def run_group(connection: apsw.Connection, group: Sequence[tuple[_Operation, bool]]) -> list[_Outcome]:
    """Run a group of operations, in one transaction when any of it writes; a result or an exception for each."""
    writes = any(write for _, write in group)
    outcomes: list[_Outcome] = []
    try:
        if writes:
            connection.execute("BEGIN IMMEDIATE")
        for operation, _ in group:
            try:
                outcomes.append((operation(connection), None))
            except ChatError as refusal:
                outcomes.append((None, refusal))
        if writes:
            connection.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - every caller of the group gets it
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
