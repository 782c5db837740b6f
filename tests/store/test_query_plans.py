"""No step of the store looks through a whole table, however many turns there are (EXPLAIN QUERY PLAN)."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from shared.store.protocol import Options
from shared.store.sqlite import purge
from shared.store.sqlite.store import SqliteStore
from tests.store.steps import run_steps
from tests.store.suite import new_session, talk

TIMES = {"signals_before": 1.0, "logs_before": 1.0, "turns_before": 1.0}
# Read from one end, up to a limit that the same statement names; a table of one row; and the journal, which keeps its rows for a
# second or two.
BOUNDED = ("SCAN doomed", "SCAN sqlite_sequence", "SCAN journal")


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
    run_steps(connection, session_id, started.turn.turn_id, TIMES)
    connection.exec_trace = None
    connection.close()
    # The running turns are few however many turns there are, and their index holds nothing else.
    assert not {scan for scan in plans.scans if "turns_running" not in scan[0]}


@pytest.mark.parametrize("limit", [purge.MAX_ROWS, purge.MAX_DOOMED])
def test_a_step_touches_few_rows(limit: int) -> None:
    assert limit <= 500
