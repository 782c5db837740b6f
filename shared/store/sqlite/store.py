"""The Store protocol on SQLite: each method is one operation on one of two threads, one that writes and one that reads.

The SQLite is apsw's own, because versions before 3.51.3 have a race between several writers on a WAL.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import apsw

from shared.errors import ChatError
from shared.session import Message, Session
from shared.store.protocol import Append, Appended, Damaged, News, NewTurn, Options, Started, StoredImage, TurnRow
from shared.store.record import Record
from shared.store.sqlite import journal, logs, rows, sessions, turns
from shared.store.sqlite import purge as purging
from shared.store.sqlite.appending import Appending
from shared.store.sqlite.connection import BUSY_TIMEOUT_MS, WAL_BYTES, connect, why_not
from shared.store.sqlite.leases import (
    LeaseWatch,
    Orphan,
    renew_leases,
    renewals,
    select_leases,
    select_orphans,
    select_owned,
)
from shared.store.sqlite.news import NewsWatch
from shared.store.sqlite.rebuild import rebuild
from shared.store.sqlite.running_texts import RunningTexts
from shared.store.sqlite.unchanged import Unchanged
from shared.store.sqlite.worker import InlineWorker, Operation, Outcome, Worker
from shared.store.sqlite.write_check import TRIES, check_write

_SIGNAL_KEPT_MS = 60_000
_MAX_REAPED = 200
_ENDED_AT_ONCE = 20
_CHECKPOINT_WAIT_MS = 200
# A row of the journal is left over when it is still there after so long and its turn has ended.
_JOURNAL_OLD_S = 30.0


class SqliteStore:
    """The Store protocol on SQLite; ``path`` None keeps everything in memory, for this process only.

    Raises ValueError, with one sentence for the operator, when the file cannot be used.
    """

    goes_back = False

    def __init__(self, path: str | None, options: Options | None = None) -> None:
        self.clock_offset_ms = 0.0
        self.committed = (
            "in SQLite's write-ahead log: survives the death of this process; after a power cut the newest may be missing"
            if path
            else "in memory: lost with this process"
        )
        self._options = options or Options()
        self.notice = _made_usable(path, self._options) if path is not None else ""
        lease_s = self._options.lease_s
        self._path = Path(path).expanduser() if path else None
        self._writer: Worker | InlineWorker = Worker(path, lease_s) if path else InlineWorker()
        self._reader: Worker | InlineWorker = Worker(path, lease_s) if path else self._writer
        self._news = NewsWatch(self._reader, shared=self._path is not None)
        self._running_texts = RunningTexts(self._reader)
        self._appending = Appending(self._writer, self._reader, self._run_each)
        # The newest row of the journal at the last look, with its time, and the one at the look before.
        self._journal_seen = (0, -_JOURNAL_OLD_S)
        self._journal_before = 0
        self._owner = ""
        self._leases = LeaseWatch(lease_s * 1000)
        self._last_reads = Unchanged()

    def _clock_ms(self) -> float:
        """The time of day, in epoch ms."""
        return time.time() * 1000 + self.clock_offset_ms

    def _elapsed_ms(self) -> float:
        """A clock that never goes back, for how long something takes."""
        return time.monotonic() * 1000 + self.clock_offset_ms

    def _lease_until(self) -> float:
        return self._clock_ms() + self._options.lease_s * 1000

    async def create_session(self, session_id: str, model_id: str | None, now: float) -> None:
        await self._writer.run(lambda c: turns.insert_session(c, session_id, model_id, now), write=True)

    async def get_session(self, session_id: str) -> Session | None:
        return await self._reader.run(lambda c: sessions.select_session(c, session_id))

    async def list_sessions(
        self, limit: int, before: tuple[float, str] | None, active_since: float
    ) -> tuple[list[Session], int]:
        return await self._reader.run(lambda c: sessions.select_sessions(c, limit, before, active_since))

    async def list_messages(self, session_id: str, limit: int, after: str | None) -> tuple[list[Message], bool]:
        return await self._reader.run(lambda c: sessions.select_messages(c, session_id, limit, after))

    async def clear_session(self, session_id: str, origin: str, now: float) -> None:
        await self._writer.run(lambda c: sessions.clear_session(c, session_id, origin, now), write=True)

    async def delete_session(self, session_id: str, origin: str, now: float) -> None:
        await self._writer.run(lambda c: sessions.delete_session(c, session_id, origin, now), write=True)

    async def start_turn(self, new: NewTurn) -> Started:
        def start(connection: apsw.Connection, context: turns.Context | None = None) -> Started:
            return turns.start_turn(connection, new, self._clock_ms(), self._lease_until(), context)

        try:
            started = await self._writer.run(start, write=True)
        except Damaged:
            if new.session_id is None:
                raise
            # A transaction that has met a damaged page of the session's messages writes nothing more.
            read = partial(turns.read_context, session_id=new.session_id, max_chars=new.max_context_chars)
            context = await self._reader.run(read)
            started = await self._writer.run(partial(start, context=context), write=True)
        if not started.joined:
            self._appending.tails.begin(new.turn_id, new.owner)
        return started

    async def append(self, batch: Sequence[Append]) -> list[Appended]:
        return await self._appending.append(batch, self._elapsed_ms(), self._lease_until())

    async def get_turn(self, turn_id: str) -> TurnRow | None:
        known_seq = self._appending.tails.last_seq(turn_id) or None

        def select(connection: apsw.Connection) -> TurnRow | None:
            # The row and the journal must be of one moment.
            with rows.snapshot(connection) if known_seq is None else contextlib.nullcontext():
                return rows.select_turn(connection, turn_id, self._clock_ms(), known_seq)

        turn = await self._reader.run(select)
        unread_ms = self._last_reads.unchanged_ms(self._elapsed_ms()).get(turn_id)
        return turn if turn is None or unread_ms is None else replace(turn, unread_ms=unread_ms)

    async def read(self, turn_id: str, after: int) -> tuple[TurnRow, list[Record]] | None:
        def read_snapshot(connection: apsw.Connection) -> tuple[TurnRow, list[Record]] | None:
            with rows.snapshot(connection):
                turn = rows.select_turn(connection, turn_id, self._clock_ms(), 0)
                if turn is None or turn.expired:
                    return (turn, []) if turn is not None else None
                running = turn.status == "running"
                records = logs.read_log(connection, turn_id, after, running=running)
                if after + len(records) < turn.last_seq:
                    raise Damaged
                if running:
                    last = records[-1].seq if records else journal.last_journaled(connection, turn_id, turn.last_seq)
                    turn = replace(turn, last_seq=last)
                return turn, records

        found = await self._reader.run(read_snapshot)
        if found is not None:
            self._news.has_read(turn_id, found[0].last_seq)
        return found

    async def read_text(self, turn_id: str) -> tuple[TurnRow, str] | None:
        return await self._running_texts.read(turn_id, self._clock_ms())

    async def get_image(self, image_id: str) -> StoredImage | None:
        return await self._reader.run(lambda c: rows.select_image(c, image_id))

    async def cancel(self, turn_id: str, origin: str) -> None:
        def note_cancel(connection: apsw.Connection) -> None:
            self._appending.fence.forget()
            connection.execute("UPDATE turns SET cancel = 1 WHERE turn_id = ? AND status = 'running'", (turn_id,))
            rows.insert_signal(connection, self._clock_ms(), origin, "cancel", None, turn_id)

        await self._writer.run(note_cancel, write=True)

    def keep_leases(self, owner: str) -> None:
        self._owner = owner
        self._writer.keep_leases(owner, self._options.lease_s)

    async def renew(
        self, owner: str, running: Sequence[str], read: Sequence[str], dropped: Sequence[str] = ()
    ) -> list[Appended]:
        with contextlib.suppress(ChatError):
            await self._appending.move_old(self._elapsed_ms(), self._lease_until())
        until = self._lease_until()
        give_up = "UPDATE turns SET lease_until = 0 WHERE turn_id = ? AND owner = ?"
        note_read = "UPDATE turns SET last_read_at = ? WHERE turn_id = ? AND status = 'running'"
        outcomes = await self._run_each(
            [
                partial(renew_leases, owner=owner, until=until),
                *(rows.statement(give_up, turn_id, owner) for turn_id in dropped),
                *(rows.statement(note_read, self._clock_ms(), turn_id) for turn_id in read),
                *(
                    partial(
                        turns.standing,
                        owner=owner,
                        turn_id=turn_id,
                        journaled_seq=self._appending.tails.last_seq(turn_id),
                    )
                    for turn_id in running
                ),
            ]
        )
        self._appending.tails.keep(running)
        if outcomes[0][1] is not None:
            # One of the turns lies on a damaged page.
            await self._run_each(await self._reader.run(lambda c: renewals(c, owner, until)))
        standings = [
            standing if error is None else (Appended(False, 0, "damaged"), 0.0)
            for standing, error in outcomes[len(outcomes) - len(running) :]
        ]
        last_reads = {turn_id: last_read for turn_id, (_, last_read) in zip(running, standings, strict=True)}
        self._last_reads.look(last_reads, self._elapsed_ms())
        return [standing for standing, _ in standings]

    async def _run_each(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Run operations that write. What meets a damaged page fails alone; an outage of the whole store is raised."""
        outcomes = await self._writer.run_each(operations)
        for _, error in outcomes:
            if isinstance(error, ChatError) and not isinstance(error, Damaged):
                raise error
        return outcomes

    async def owned(self, owner: str) -> list[str]:
        return await self._reader.run(lambda connection: select_owned(connection, owner))

    async def reap(self) -> list[str]:
        # A read comes first: every process looks often, and there is hardly ever anything to write.
        leases = await self._reader.run(select_leases)
        others = {owner: lease for owner, lease in leases.items() if owner != self._owner}
        self._leases.look(others, self._elapsed_ms(), self._clock_ms())
        overdue = {owner: 0.0 for owner, lease in leases.items() if lease.has_released}
        if self._leases.suspects:
            await self.check_write()
            self._leases.wrote(self._writer.lock_trouble_at)
            overdue |= {owner: leases[owner].until for owner in self._leases.gone()}
        if not overdue:
            return []
        orphans = await self._reader.run(lambda c: select_orphans(c, overdue, _MAX_REAPED))
        ended, damaged = await self._interrupt(orphans, with_event=True)
        if damaged and await self._appending.mend(self._lease_until()):
            # The events that only the damaged page had are lost.
            again, damaged = await self._interrupt(damaged, with_event=True)
            ended += again
        # A turn whose log cannot be written is ended without a terminal event.
        return ended + (await self._interrupt(damaged, with_event=False))[0]

    async def _interrupt(self, orphans: Sequence[Orphan], *, with_event: bool) -> tuple[list[str], list[Orphan]]:
        """End turns, each in a transaction of its own. Returns their ids, and the turns whose logs are damaged."""
        decided_at = time.monotonic()

        def interrupt(orphan: Orphan, shown: tuple[list[str], int], connection: apsw.Connection) -> bool:
            self._appending.fence.forget()
            if self._writer.lock_trouble_at > decided_at:
                # This process had to wait for the lock. So had the others, and they could not renew meanwhile.
                return False
            return turns.interrupt(connection, orphan, shown, self._clock_ms(), with_event=with_event)

        operations = []
        for orphan in orphans:
            operations.append(partial(interrupt, orphan, await self._reader.run(partial(_shown, orphan.turn_id))))
        outcomes: list[tuple[Orphan, Outcome]] = []
        for first in range(0, len(orphans), _ENDED_AT_ONCE):
            # Each of them reads the journal, and no other process writes meanwhile.
            some = slice(first, first + _ENDED_AT_ONCE)
            outcomes += zip(orphans[some], await self._writer.run_each(operations[some]), strict=True)
        ended = [orphan.turn_id for orphan, (done, _) in outcomes if done]
        return ended, [orphan for orphan, (_, error) in outcomes if isinstance(error, Damaged)]

    async def follow(self, turn_id: str) -> None:
        self._news.follow(turn_id)

    def unfollow(self, turn_id: str) -> None:
        self._news.unfollow(turn_id)

    def news(self, wanted: Callable[[], bool]) -> AsyncIterator[News]:
        return self._news.news(wanted)

    async def last_signal(self) -> int:
        return await self._reader.run(rows.last_signal)

    async def typing(self, session_id: str, origin: str, typing: bool) -> None:
        """SQLite keeps what is committed, and typing is not: it reaches the connections of this process alone."""

    async def purge(self) -> bool:
        if self._leases.clocks_differ:
            # Another process that lives now has another time of day. What is old by a clock that is wrong may be new.
            return False
        times = _old_before(self._options, self._clock_ms())
        if await self._writer.run(lambda c: purging.drop_old(c, times), write=True) or await self._drop_journaled():
            return True
        doomed = await self._reader.run(purging.select_doomed)
        for turn_id in doomed:
            try:
                await self._writer.run(partial(purging.drop_doomed, turn_id=turn_id), write=True)
            except Damaged:
                # A damaged log stays where it is, so that it does not keep the others from being dropped.
                await self._writer.run(partial(purging.forget_doomed, turn_id=turn_id), write=True)
        if not doomed:
            await self._writer.run(self._bound_wal)
        return bool(doomed)

    async def _drop_journaled(self) -> bool:
        """Drop what processes that are gone have left in the journal. Those that live drop their own rows with their commits."""
        now = time.monotonic()
        try:
            if now - self._journal_seen[1] >= _JOURNAL_OLD_S:
                self._journal_before = self._journal_seen[0]
                self._journal_seen = (await self._reader.run(journal.newest), now)
            return await self._writer.run(lambda c: purging.drop_journaled(c, self._journal_before), write=True)
        except Damaged:
            await self._appending.mend(self._lease_until())
            return False

    def _bound_wal(self, connection: apsw.Connection) -> None:
        """Empty a write-ahead log that readers have kept from being emptied, as soon as there is a moment without readers."""
        wal = Path(f"{self._path}-wal")
        if self._path is None or connection.in_transaction or not wal.exists() or wal.stat().st_size <= 4 * WAL_BYTES:
            return
        connection.set_busy_timeout(_CHECKPOINT_WAIT_MS)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)

    async def check_write(self) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                again = tries_left < TRIES - 1
                return await self._writer.run(partial(check_write, now=self._clock_ms(), again=again), write=True)
            except Damaged:
                if not tries_left:
                    raise
        return None

    async def close(self) -> None:
        await self._writer.close()
        if self._reader is not self._writer:
            await self._reader.close()


def _shown(turn_id: str, connection: apsw.Connection) -> tuple[list[str], int]:
    """The texts of a turn that were shown, and the last seq. Its log and the journal are of one moment."""
    with rows.snapshot(connection):
        return logs.read_texts(connection, turn_id, 0)


def _old_before(options: Options, now: float) -> dict[str, float]:
    """The times before which signals, logs and turns are dropped; ``now`` is epoch ms."""
    logs_before = now - options.retention_s * 1000
    return {
        "signals_before": now - _SIGNAL_KEPT_MS,
        "logs_before": logs_before,
        "turns_before": logs_before - options.tombstone_s * 1000,
    }


def _made_usable(path: str, options: Options) -> str:
    """Write a database anew in which a new turn meets a damaged page, and return what the operator should know of that.

    Returns an empty text for a database that is used as it is. Raises ValueError, with one sentence for the operator, for a
    database in which no turn could be recorded.
    """
    connection = connect(path)
    try:
        schema_version = connection.pragma("schema_version")
        refused = _refused_turns(connection, options)
        if not refused:
            return ""
        try:
            return rebuild(connection, schema_version, time.time() * 1000)
        except apsw.CorruptError:
            # Where some new turns can be recorded, the server starts, and gives a refused turn another id.
            if refused == TRIES:
                raise
            return ""
    except apsw.Error as error:
        raise ValueError(why_not(Path(path).expanduser(), error)) from error
    finally:
        connection.close()


def _refused_turns(connection: apsw.Connection, options: Options) -> int:
    """How many of ``TRIES`` new turns meet a damaged page. It is all of them where the housekeeping of a server would."""
    try:
        select_leases(connection)
        rows.last_signal(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            # A rehearsal: what is too old is dropped later, by housekeeping.
            purging.drop_old(connection, _old_before(options, time.time() * 1000), all_groups=True)
        finally:
            connection.execute("ROLLBACK")
    except apsw.CorruptError:
        return TRIES
    refused = 0
    for _ in range(TRIES):
        try:
            with connection:
                check_write(connection, time.time() * 1000, again=bool(refused))
        except apsw.CorruptError:
            refused += 1
        else:
            if not refused:
                break
    return refused
