"""No step of the store looks through a whole table, however many turns there are (EXPLAIN QUERY PLAN)."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from shared.store.protocol import NewTurn, Options
from shared.store.sqlite import purge, sessions, turns
from shared.store.sqlite.leases import select_leases, select_orphans
from shared.store.sqlite.logs import read_log, read_texts
from shared.store.sqlite.rows import last_signal, select_image, select_signals, select_turn
from shared.store.sqlite.store import SqliteStore
from tests.store.suite import asked, entry, new_session, talk
from tests.store.suite import chunks as chunk_records

TIMES = {"signals_before": 1.0, "logs_before": 1.0, "turns_before": 1.0}
# Read from one end, up to a limit that the same statement names; and a table of one row.
BOUNDED = ("SCAN doomed", "SCAN sqlite_sequence")


class Plans:
    """Asks SQLite for the plan of every statement that runs on a connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.scans: set[tuple[str, str]] = set()
        self._connection = connection
        self._explaining = False
        connection.exec_trace = self._explain

    def _explain(self, cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
        if not self._explaining and sql.lstrip().upper().startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
            self._explaining = True
            for row in self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings).fetchall():  # type: ignore[arg-type]
                step = str(row[3])
                if step.startswith("SCAN") and step not in ("SCAN CONSTANT ROW", *BOUNDED) and "counted" not in step:
                    self.scans.add((step, sql))
            self._explaining = False
        return True


async def test_no_step_scans_a_table(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "chat.db"), Options())
    session_id = await new_session(store)
    started = await talk(store, session_id, "one", "1")
    await store.close()
    connection = apsw.Connection(str(tmp_path / "chat.db"))
    plans = Plans(connection)
    turn_id = started.turn.turn_id
    new: NewTurn = asked("two", session_id=session_id, request_id="k")
    running = turns.start_turn(connection, new, 1.0, 2.0)
    turns.append(connection, entry(running, chunk_records(new.turn_id, 2, "a")), 3.0)
    turns.standing(connection, "me", new.turn_id)
    select_leases(connection)
    for orphan in select_orphans(connection, {"me": 9.0}, 10):
        texts, _ = read_texts(connection, orphan.turn_id, 0)
        assert turns.interrupt(connection, orphan, texts, 4.0, with_event=True)
    select_turn(connection, turn_id, 1.0)
    read_log(connection, turn_id, 0)
    select_image(connection, "none")
    select_signals(connection, 0)
    last_signal(connection)
    sessions.select_session(connection, session_id)
    sessions.select_sessions(connection, 50, None, 0.0)
    sessions.select_sessions(connection, 50, (1.0, "x"), 0.0)
    sessions.select_messages(connection, session_id, 10, None)
    for group in purge.GROUPS:
        for statement in group:
            connection.execute(statement, {**TIMES, "limit": 1})
    purge.select_doomed(connection)
    purge.drop_doomed(connection, turn_id)
    sessions.clear_session(connection, session_id, "me", 5.0)
    sessions.delete_session(connection, session_id, "me", 6.0)
    connection.exec_trace = None
    connection.close()
    # The running turns are few however many turns there are, and their index holds nothing else.
    assert not {scan for scan in plans.scans if "turns_running" not in scan[0]}


@pytest.mark.parametrize("limit", [purge.MAX_ROWS, purge.MAX_DOOMED])
def test_a_step_touches_few_rows(limit: int) -> None:
    assert limit <= 500
