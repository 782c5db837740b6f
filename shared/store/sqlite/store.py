"""The Store protocol on SQLite: each method is one operation on one of two threads, the one that writes or the one that
reads.

The SQLite is apsw's own, because versions before 3.51.3 have a race between several writers on a WAL.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from shared.session import Message, Session
from shared.store.protocol import Append, NewTurn, Signal, SignalKind, Started, StoredImage, TurnRow
from shared.store.record import Record, partial
from shared.store.sqlite import logs, rows, sessions, turns
from shared.store.sqlite import purge as purging
from shared.store.sqlite.worker import InlineWorker, Worker


class SqliteStore:
    """The Store protocol on SQLite; ``path`` None keeps everything in memory, for this process only."""

    def __init__(self, path: str | None) -> None:
        self._writer: Worker | InlineWorker = Worker(path) if path else InlineWorker()
        self._reader: Worker | InlineWorker = Worker(path) if path else self._writer
        self._data_version = -1

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
        return await self._writer.run(lambda c: turns.start_turn(c, new), write=True)

    async def append(self, batch: Sequence[Append]) -> list[bool]:
        return await self._writer.run(lambda c: [turns.append(c, entry) for entry in batch], write=True)

    async def get_turn(self, turn_id: str) -> TurnRow | None:
        return await self._reader.run(lambda c: rows.select_turn(c, turn_id))

    async def read(self, turn_id: str, after: int) -> tuple[TurnRow, list[Record]] | None:
        def read_snapshot(connection: apsw.Connection) -> tuple[TurnRow, list[Record]] | None:
            with rows.snapshot(connection):
                turn = rows.select_turn(connection, turn_id)
                return None if turn is None else (turn, logs.read_log(connection, turn_id, after))

        return await self._reader.run(read_snapshot)

    async def read_text(self, turn_id: str) -> tuple[TurnRow, str] | None:
        def read_snapshot(connection: apsw.Connection) -> tuple[TurnRow, str] | None:
            with rows.snapshot(connection):
                turn = rows.select_turn(connection, turn_id)
                if turn is None:
                    return None
                if turn.status == "running":
                    return turn, partial(record.event for record in logs.read_log(connection, turn_id, 0))[0]
                row = connection.execute("SELECT text FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
                return turn, row[0] if row else ""

        return await self._reader.run(read_snapshot)

    async def get_image(self, image_id: str) -> StoredImage | None:
        return await self._reader.run(lambda c: rows.select_image(c, image_id))

    def keep_leases(self, owner: str, lease_s: float) -> None:
        self._writer.keep_leases(owner, lease_s)

    async def renew(
        self, owner: str, lease_until: float, read: Sequence[str], now: float, dropped: Sequence[str] = ()
    ) -> None:
        def update_leases(connection: apsw.Connection) -> None:
            connection.execute(
                "UPDATE turns SET lease_until = ? WHERE owner = ? AND status = 'running' AND lease_until > 0",
                (lease_until, owner),
            )
            for turn_id in dropped:
                connection.execute("UPDATE turns SET lease_until = 0 WHERE turn_id = ? AND owner = ?", (turn_id, owner))
            for turn_id in read:
                connection.execute("UPDATE turns SET last_read_at = ? WHERE turn_id = ?", (now, turn_id))

        await self._writer.run(update_leases, write=True)

    async def reap(self, now: float) -> list[str]:
        overdue = "SELECT turn_id FROM turns WHERE status = 'running' AND lease_until < ?"
        # A read comes first: every process looks often, and there is hardly ever anything to write.
        if not await self._reader.run(lambda c: c.execute(overdue, (now,)).fetchone()):
            return []

        def interrupt_all(connection: apsw.Connection) -> list[str]:
            ids = [str(row[0]) for row in connection.execute(overdue, (now,)).fetchall()]
            for turn_id in ids:
                turns.interrupt(connection, turn_id, now)
            return ids

        return await self._writer.run(interrupt_all, write=True)

    async def signal(
        self, origin: str, kind: SignalKind, now: float, *, session_id: str | None = None, turn_id: str | None = None
    ) -> None:
        await self._writer.run(lambda c: rows.insert_signal(c, now, origin, kind, session_id, turn_id), write=True)

    async def changes(self, after: int) -> list[Signal] | None:
        def select_changes(connection: apsw.Connection) -> list[Signal] | None:
            version = int(connection.pragma("data_version"))
            if version == self._data_version:
                return None
            self._data_version = version
            return rows.select_signals(connection, after)

        return await self._reader.run(select_changes)

    async def last_signal(self) -> int:
        # AUTOINCREMENT remembers the highest id in sqlite_sequence, also when the signals themselves are purged.
        row = await self._reader.run(
            lambda c: c.execute("SELECT seq FROM sqlite_sequence WHERE name = 'signals'").fetchone()
        )
        return int(row[0]) if row else 0

    async def purge(self, logs_before: float, turns_before: float, signals_before: float) -> None:
        await self._writer.run(lambda c: purging.purge(c, logs_before, turns_before, signals_before), write=True)

    async def close(self) -> None:
        await self._writer.close()
        if self._reader is not self._writer:
            await self._reader.close()
