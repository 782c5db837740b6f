"""Every step of the SQLite store that runs beside the others, once: list, start, append, snapshot, reap, purge, clear, delete."""

from __future__ import annotations

import apsw

from shared.store.protocol import NewTurn
from shared.store.sqlite import journal, purge, sessions, turns
from shared.store.sqlite.leases import select_leases, select_orphans
from shared.store.sqlite.logs import read_log, read_texts
from shared.store.sqlite.rows import last_signal, select_image, select_signals, select_turn
from tests.store.suite import asked, entry
from tests.store.suite import chunks as chunk_records


def run_steps(connection: apsw.Connection, session_id: str, turn_id: str, purge_times: dict[str, float]) -> None:
    """Run each step once; ``turn_id`` is an ended turn of the session ``session_id``, which is deleted in the end.

    ``purge_times``: see ``purge.drop_old``.
    """
    new: NewTurn = asked("two", session_id=session_id, request_id="k")
    running = turns.start_turn(connection, new, 1.0, 2.0)
    turns.append(connection, entry(running, chunk_records(new.turn_id, 2, "a")), 3.0)
    small = [entry(running, chunk_records(new.turn_id, seq, "b")) for seq in (3, 4)]
    fence = journal.Fence()
    assert all(fence.add(connection, small))
    assert [row.first_seq for row in journal.read_journal(connection, new.turn_id, 2)] == [3, 4]
    assert journal.move(connection, new.turn_id, "me", journal.rows_of(small[0].records), 3.0)
    assert len(read_log(connection, new.turn_id, 0, running=True)) == 4
    fence.trim(connection, 2)
    turns.standing(connection, "me", new.turn_id, 0)
    select_leases(connection)
    for orphan in select_orphans(connection, {"me": 9.0}, 10):
        shown = read_texts(connection, orphan.turn_id, 0)
        assert shown == (["a", "b", "b"], 4)
        assert turns.interrupt(connection, orphan, shown, 4.0, with_event=True)
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
            connection.execute(statement, {**purge_times, "limit": purge.MAX_ROWS})
    purge.drop_journaled(connection, journal.newest(connection))
    purge.select_doomed(connection)
    purge.drop_doomed(connection, turn_id)
    sessions.clear_session(connection, session_id, "me", 5.0)
    sessions.delete_session(connection, session_id, "me", 6.0)
