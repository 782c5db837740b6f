"""Leases on SQLite: which processes are gone.

A process renews the leases of its running turns three times in ``lease_s``. Another process declares the first one gone after
it has seen these leases unchanged for ``lease_s`` and could write itself in that time. So no clock of the other process matters,
and a lock that keeps every process from writing costs no turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import apsw

from shared.store.sqlite.rows import statement
from shared.store.sqlite.unchanged import Unchanged

_MIN_WRITES = 2
# While clocks differ by more than this, nothing is dropped for its age.
_CLOCKS_DIFFER_MS = 60_000.0
_RENEW = "UPDATE turns SET lease_until = ? WHERE {} = ? AND status = 'running' AND lease_until > 0"


class Lease(NamedTuple):
    """The leases of one process: the newest time to which it has renewed one, and whether it has given a turn up."""

    until: float
    has_released: bool


class Orphan(NamedTuple):
    """A running turn whose process has given it up or is gone; its lease ends no later than ``lease_until``."""

    turn_id: str
    owner: str
    lease_until: float


class LeaseWatch:
    """What this process has seen of the leases of the others; times are milliseconds of its own clock.

    ``suspects`` are the processes that have not renewed for longer than a living one takes: before ``gone`` names one
    of them, this process writes, to see that it can.
    """

    def __init__(self, lease_ms: float) -> None:
        self.suspects: set[str] = set()
        self.clocks_differ = False
        self._lease_ms = lease_ms
        self._leases = Unchanged()
        self._looked_at = 0.0
        self._quick_writes = 0
        self._lock_trouble_at = 0.0

    def look(self, leases: Mapping[str, Lease], now_ms: float, epoch_ms: float) -> None:
        """See the leases of all other processes as they are now; ``epoch_ms`` is the time of day here."""
        if now_ms - self._looked_at > self._lease_ms / 2:
            # This process was stopped or too busy to look. The others may have been stopped with it.
            self._leases.restart(now_ms)
        self._looked_at = now_ms
        renewed = self._leases.look({owner: lease.until for owner, lease in leases.items()}, now_ms)
        if renewed:
            differences_ms = [abs(leases[owner].until - self._lease_ms - epoch_ms) for owner in renewed]
            self.clocks_differ = max(differences_ms) > _CLOCKS_DIFFER_MS
        self.suspects = self._not_renewed_for(self._lease_ms / 2)
        if not self.suspects:
            self._quick_writes = 0

    def wrote(self, lock_trouble_at: float) -> None:
        """This process has written; ``lock_trouble_at`` tells when it last could not write, or had to wait long."""
        if lock_trouble_at == self._lock_trouble_at:
            self._quick_writes += 1
            return
        self._lock_trouble_at = lock_trouble_at
        self._quick_writes = 0
        self._leases.restart(self._looked_at)

    def gone(self) -> set[str]:
        """The processes that have not renewed for a whole lease, while this process could write."""
        return self._not_renewed_for(self._lease_ms) if self._quick_writes >= _MIN_WRITES else set()

    def _not_renewed_for(self, ms: float) -> set[str]:
        unchanged_ms = self._leases.unchanged_ms(self._looked_at)
        return {owner for owner, same_ms in unchanged_ms.items() if same_ms >= ms}


def renew_leases(connection: apsw.Connection, owner: str, until: float) -> None:
    """Renew the leases of the running turns of ``owner``, but of those that it has given up.

    Renews none, and raises apsw.CorruptError, where one of these turns lies on a damaged page.
    """
    connection.execute(_RENEW.format("owner"), (until, owner))


def renewals(connection: apsw.Connection, owner: str, until: float) -> list[Callable[[apsw.Connection], object]]:
    """What renews each running turn of ``owner`` that can be read, where ``renew_leases`` fails.

    Each needs a transaction of its own: in a transaction that has met a damaged page SQLite writes nothing more.
    """
    return [
        statement(_RENEW.format("turn_id"), until, turn.turn_id)
        for turn in _readable_turns(connection)
        if turn.owner == owner
    ]


def select_leases(connection: apsw.Connection) -> dict[str, Lease]:
    """The leases of every process that has running turns."""
    query = "SELECT owner, max(lease_until), min(lease_until) = 0 FROM turns WHERE status = 'running' GROUP BY owner"
    try:
        rows: list[Any] = connection.execute(query).fetchall()
        return {owner: Lease(until, bool(has_released)) for owner, until, has_released in rows}
    except apsw.CorruptError:
        leases: dict[str, Lease] = {}
        for _, owner, until in _readable_turns(connection):
            newest, has_released = leases.get(owner, Lease(0.0, False))
            leases[owner] = Lease(max(newest, until), has_released or until == 0)
        return leases


def select_owned(connection: apsw.Connection, owner: str) -> list[str]:
    """The ids of the running turns of ``owner``."""
    query = "SELECT turn_id FROM turns WHERE status = 'running' AND owner = ?"
    try:
        return [str(turn_id) for (turn_id,) in connection.execute(query, (owner,))]
    except apsw.CorruptError:
        return [turn.turn_id for turn in _readable_turns(connection) if turn.owner == owner]


def select_orphans(connection: apsw.Connection, overdue: Mapping[str, float], limit: int) -> list[Orphan]:
    """Running turns whose leases end no later than ``overdue`` says for their owner; at most ``limit``."""
    found: list[Orphan] = []
    query = "SELECT turn_id FROM turns WHERE status = 'running' AND owner = ? AND lease_until <= ? LIMIT ?"
    for owner, until in overdue.items():
        try:
            rows = connection.execute(query, (owner, until, limit - len(found))).fetchall()
            turn_ids = [str(turn_id) for (turn_id,) in rows]
        except apsw.CorruptError:
            turns = _readable_turns(connection)
            turn_ids = [turn.turn_id for turn in turns if turn.owner == owner and turn.lease_until <= until]
        # A negative LIMIT is none, so no owner may add more than what is left.
        found += [Orphan(turn_id, owner, until) for turn_id in turn_ids[: limit - len(found)]]
    return found


def _readable_turns(connection: apsw.Connection) -> list[Orphan]:
    """The running turns that do not lie on a damaged page, each read alone; the index of the running turns names them."""
    numbers = connection.execute(
        "SELECT number FROM turns INDEXED BY turns_running WHERE status = 'running'"
    ).fetchall()
    turns: list[Orphan] = []
    for (number,) in numbers:
        with suppress(apsw.CorruptError):
            query = "SELECT turn_id, owner, lease_until FROM turns WHERE number = ?"
            turns += [Orphan(*row) for row in connection.execute(query, (number,))]
    return turns
