"""A store with one million turns: no step of it scans a table or touches more than 500 rows, and nobody waits for it.

The turns are inserted by SQL: nine days of them, the newest with their logs, some of these old enough to be dropped at once.
Beside them one turn of 200,000 events runs, whose snapshot is asked for again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import apsw

from compare.measuring.lanes import LANES
from compare.measuring.stores.fill import DAY_MS, fill
from shared.client.protocol import Ask, ChatClient
from shared.store.sqlite import purge
from shared.store.sqlite.connection import WAL_BYTES
from tests.faults.harness import Plan, Totals, World, rows, timed, until
from tests.store.steps import run_steps

TURNS = 1_000_000
TURNS_A_SESSION = 10
LONG_TURN_EVENTS = 200_000
READERS = 10
# SQLite's virtual machine takes 10 to 100 steps a row; a step that looks through a large table takes millions.
_MAX_ROWS = 500
_MAX_VM_STEPS = 100 * _MAX_ROWS
# A client beside the others may wait for so long, or five times as long as without them.
_MAX_WAIT_MS, _MAX_RATIO = 250.0, 5.0


async def big_history(world: World, plan: Plan) -> Totals:
    """Fill the store, start the servers on it, and measure what their clients and the store's statements take."""
    totals = Totals("history", plan.seed)
    turns = plan.count(TURNS)
    words = ("rest", "ndjson", "sse")
    async with timed(totals):
        await asyncio.gather(*(world.stop(word) for word in world.words))
        session_ids = await asyncio.to_thread(fill, world.store, turns, max(4, turns // TURNS_A_SESSION))
        totals.notes[f"{turns} turns"] += 1
        _check_statements(totals, world.store, session_ids[0], session_ids[1])
        begun = time.monotonic()
        await world.start(*words)
        totals.notes["start ms"] += round(1000 * (time.monotonic() - begun))
        async with aclosing(world.client(LANES["rest"])) as client:
            await _check_waits(totals, client, session_ids, turns)
            await until(lambda: not _overdue(world.store), 300, "the purge does not end")
            await _check_long_turn(totals, world, client, plan, session_ids[3])
        # The store truncates a WAL of more than four times its limit; one transaction may lie beside it.
        if _wal_bytes(world.store) > 5 * WAL_BYTES:
            totals.blame("other", f"the WAL has {_wal_bytes(world.store)} bytes")
        for error in world.errors:
            totals.blame("other", f"a server's log says {error}")
    return totals


def _wal_bytes(store: Path) -> int:
    wal = store.with_name(f"{store.name}-wal")
    return wal.stat().st_size if wal.exists() else 0


def _overdue(store: Path) -> int:
    """Turns whose logs are due to be dropped, or are being dropped."""
    kept_ms = time.time() * 1000 - DAY_MS
    old = "SELECT count(*) FROM (SELECT 1 FROM turns WHERE expired = 0 AND ended_at < ? LIMIT 1)"
    doomed = "SELECT count(*) FROM (SELECT 1 FROM doomed LIMIT 1)"
    return int(rows(store, old, kept_ms)[0][0] + rows(store, doomed)[0][0])


def _check_statements(totals: Totals, store: Path, session_id: str, purged_session_id: str) -> None:
    """Run every step of the store, and count for each of its statements the rows of full scans and the virtual machine's steps."""
    connection = apsw.Connection(str(store))
    slow: dict[str, int] = {}

    def finished(told: dict[str, Any]) -> None:
        status = told["stmt_status"]
        totals.runs += 1
        scanned, steps = status["SQLITE_STMTSTATUS_FULLSCAN_STEP"], status["SQLITE_STMTSTATUS_VM_STEP"]
        if scanned > _MAX_ROWS or steps > _MAX_VM_STEPS:
            slow[told["sql"]] = max(scanned, steps)

    kept_ms = time.time() * 1000 - DAY_MS
    times = {"signals_before": kept_ms, "logs_before": kept_ms, "turns_before": kept_ms - 7 * DAY_MS}
    ended = "SELECT turn_id FROM turns WHERE session_id = ? AND cleared = 0 LIMIT 1"
    (turn_id,) = connection.execute(ended, (session_id,)).fetchall()[0]
    connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, finished)
    with connection:
        run_steps(connection, session_id, str(turn_id), times)
        for _ in range(20):
            purge.drop_old(connection, times)
            for doomed in purge.select_doomed(connection):
                purge.drop_doomed(connection, doomed)
    connection.trace_v2(0, None)
    connection.close()
    for sql, steps in slow.items():
        totals.blame("other", f"{steps} rows or steps: {sql}")


async def _check_waits(totals: Totals, client: ChatClient, session_ids: list[str], turns: int) -> None:
    """Ask for everything that a page asks for, while three servers drop old logs."""

    async def start() -> None:
        await client.start(Ask(text="/tokens 1 steady"))

    async def start_in_an_old_session() -> None:
        await client.start(Ask(text="/tokens 1 again", session_id=session_ids[2]))

    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "list": lambda: client.list_sessions(200),
        "messages": lambda: client.message_page(session_ids[-1]),
        "session": lambda: client.get_session(session_ids[-1]),
        "stats": client.stats,
        "start": start,
    }
    await start_in_an_old_session()
    for name, ask in asked.items():
        p50_ms, worst_ms = await _waits(ask, 30)
        totals.notes[f"{name} p50 ms"] += round(p50_ms)
        totals.notes[f"{name} worst ms"] += round(worst_ms)
        # The purge of three servers held the lock for two seconds when it scanned the table.
        if worst_ms > 4 * _MAX_WAIT_MS:
            totals.blame("other", f"{name} takes up to {worst_ms:.0f} ms beside {turns} turns")


async def _waits(ask: Callable[[], Awaitable[object]], count: int) -> tuple[float, float]:
    """The median and the longest wait for an answer, in milliseconds."""
    waits: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        await ask()
        waits.append((time.perf_counter() - begun) * 1000)
    waits.sort()
    return waits[len(waits) // 2], waits[-1]


async def _check_long_turn(totals: Totals, world: World, client: ChatClient, plan: Plan, session_id: str) -> None:
    """Ten clients ask for the snapshot of a long running turn ten times a second; what another client waits beside them."""
    count = plan.count(LONG_TURN_EVENTS, 1000)
    turn = await client.start(Ask(text=f"/tokens {2 * count} /stall 300 a long turn"))

    async def long_enough() -> bool:
        return (await client.get_turn(turn.turn_id)).last_seq >= count

    await until(long_enough, 180, f"{count} events are not stored")

    async def session() -> object:
        return await client.get_session(session_id)

    async def read_snapshots() -> None:
        async with aclosing(world.client(LANES["rest"])) as reader:
            while True:
                await reader.get_turn(turn.turn_id)
                await asyncio.sleep(0.1)

    _, alone_ms = await _waits(session, 100)
    readers = [asyncio.create_task(read_snapshots()) for _ in range(READERS)]
    try:
        await asyncio.sleep(0.5)
        _, beside_ms = await _waits(session, 100)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await client.cancel(turn.turn_id)
    totals.notes["session beside snapshots, worst ms"] += round(beside_ms)
    totals.notes["session without them, worst ms"] += round(alone_ms)
    if beside_ms > max(_MAX_WAIT_MS, _MAX_RATIO * alone_ms):
        totals.blame(
            "other", f"snapshots of {count} events: another client waits {beside_ms:.0f} ms, else {alone_ms:.0f}"
        )
