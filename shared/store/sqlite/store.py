"""The Store protocol on SQLite: each method is one operation on one of two threads, the one that writes or the one that
reads.

The SQLite is apsw's own, because versions before 3.51.3 have a race between several writers on a WAL.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

import apsw

from shared.session import Message, Session
from shared.store.protocol import Append, Appended, News, NewTurn, Options, Started, StoredImage, TurnRow
from shared.store.record import Record, partial
from shared.store.sqlite import logs, rows, sessions, turns
from shared.store.sqlite import purge as purging
from shared.store.sqlite.news import NewsWatch
from shared.store.sqlite.worker import InlineWorker, Worker

_SIGNAL_KEPT_MS = 60_000


class SqliteStore:
    """The Store protocol on SQLite; ``path`` None keeps everything in memory, for this process only."""

    def __init__(self, path: str | None, options: Options | None = None) -> None:
        self.clock_offset_ms = 0.0
        self.committed = (
            "in SQLite's write-ahead log: survives the death of this process; the death of the machine may cost the newest"
            if path
            else "in memory: lost with this process"
        )
        self._options = options or Options()
        self._writer: Worker | InlineWorker = Worker(path) if path else InlineWorker()
        self._reader: Worker | InlineWorker = Worker(path) if path else self._writer
        self._news = NewsWatch(self._reader)

    def _clock_ms(self) -> float:
        """The clock of the store is the clock of the machine, because every process that uses the file runs there."""
        return time.time() * 1000 + self.clock_offset_ms

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
        await self._writer.run(
            lambda c: sessions.clear_session(c, session_id, origin, now, self._clock_ms()), write=True
        )

    async def delete_session(self, session_id: str, origin: str, now: float) -> None:
        await self._writer.run(
            lambda c: sessions.delete_session(c, session_id, origin, now, self._clock_ms()), write=True
        )

    async def start_turn(self, new: NewTurn) -> Started:
        lease_ms = self._options.lease_s * 1000
        return await self._writer.run(lambda c: turns.start_turn(c, new, self._clock_ms(), lease_ms), write=True)

    async def append(self, batch: Sequence[Append]) -> list[Appended]:
        def append_all(connection: apsw.Connection) -> list[Appended]:
            lease_until = self._lease_until()
            return [turns.append(connection, entry, lease_until) for entry in batch]

        return await self._writer.run(append_all, write=True)

    async def get_turn(self, turn_id: str) -> TurnRow | None:
        return await self._reader.run(lambda c: rows.select_turn(c, turn_id, self._clock_ms()))

    async def read(self, turn_id: str, after: int) -> tuple[TurnRow, list[Record]] | None:
        def read_snapshot(connection: apsw.Connection) -> tuple[TurnRow, list[Record]] | None:
            with rows.snapshot(connection):
                turn = rows.select_turn(connection, turn_id, self._clock_ms())
                return None if turn is None else (turn, logs.read_log(connection, turn_id, after))

        found = await self._reader.run(read_snapshot)
        if found is not None:
            self._news.has_read(turn_id, found[0].last_seq)
        return found

    async def read_text(self, turn_id: str) -> tuple[TurnRow, str] | None:
        def read_snapshot(connection: apsw.Connection) -> tuple[TurnRow, str] | None:
            with rows.snapshot(connection):
                turn = rows.select_turn(connection, turn_id, self._clock_ms())
                if turn is None:
                    return None
                if turn.status == "running":
                    return turn, partial(record.event for record in logs.read_log(connection, turn_id, 0))[0]
                row = connection.execute("SELECT text FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
                return turn, row[0] if row else ""

        return await self._reader.run(read_snapshot)

    async def get_image(self, image_id: str) -> StoredImage | None:
        return await self._reader.run(lambda c: rows.select_image(c, image_id))

    async def cancel(self, turn_id: str, origin: str) -> None:
        def note_cancel(connection: apsw.Connection) -> None:
            connection.execute("UPDATE turns SET cancel = 1 WHERE turn_id = ? AND status = 'running'", (turn_id,))
            rows.insert_signal(connection, self._clock_ms(), origin, "cancel", None, turn_id)

        await self._writer.run(note_cancel, write=True)

    def keep_leases(self, owner: str) -> None:
        self._writer.keep_leases(owner, self._options.lease_s)

    async def renew(
        self, owner: str, running: Sequence[str], read: Sequence[str], dropped: Sequence[str] = ()
    ) -> list[Appended]:
        def update_leases(connection: apsw.Connection) -> list[Appended]:
            connection.execute(
                "UPDATE turns SET lease_until = ? WHERE owner = ? AND status = 'running' AND lease_until > 0",
                (self._lease_until(), owner),
            )
            for turn_id in dropped:
                connection.execute("UPDATE turns SET lease_until = 0 WHERE turn_id = ? AND owner = ?", (turn_id, owner))
            for turn_id in read:
                connection.execute(
                    "UPDATE turns SET last_read_at = ? WHERE turn_id = ? AND status = 'running'",
                    (self._clock_ms(), turn_id),
                )
            return [turns.standing(connection, owner, turn_id) for turn_id in running]

        return await self._writer.run(update_leases, write=True)

    async def reap(self) -> list[str]:
        overdue = "SELECT turn_id FROM turns WHERE status = 'running' AND lease_until < ?"
        # A read comes first: every process looks often, and there is hardly ever anything to write.
        if not await self._reader.run(lambda c: c.execute(overdue, (self._clock_ms(),)).fetchone()):
            return []

        def interrupt_all(connection: apsw.Connection) -> list[str]:
            now = self._clock_ms()
            ids = [str(row[0]) for row in connection.execute(overdue, (now,)).fetchall()]
            for turn_id in ids:
                turns.interrupt(connection, turn_id, now)
            return ids

        return await self._writer.run(interrupt_all, write=True)

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

    async def purge(self) -> None:
        def drop_old(connection: apsw.Connection) -> None:
            now = self._clock_ms()
            logs_before = now - self._options.retention_s * 1000
            turns_before = logs_before - self._options.tombstone_s * 1000
            purging.purge(connection, logs_before, turns_before, now - _SIGNAL_KEPT_MS)

        await self._writer.run(drop_old, write=True)

    async def close(self) -> None:
        await self._writer.close()
        if self._reader is not self._writer:
            await self._reader.close()
