"""The five axes of growth: what is done at one size, on servers that are started for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import apsw

from compare.measuring.floors.load.job import Result
from compare.measuring.floors.plan import PACED_PER_S, PACED_STREAMS, STREAMING, FloorRun, Side
from compare.measuring.floors.rows import hold_s, start
from compare.measuring.floors.scale.plan import ScaleRun
from compare.measuring.floors.sides import job, load, running_sides
from compare.measuring.process_cost import cpu_s, rss_bytes
from compare.measuring.statistics import quantile
from compare.measuring.stores.fill import DAYS, fill
from compare.measuring.stores.measure import KINDS, StoreKind, running_store
from compare.valkey import valkey_program
from protocols.processes import Server, serving
from shared.client.protocol import Ask, collect
from shared.store.open import open_store

# All streams of a size together get so many tokens a second, so that only the number of streams differs.
_TOKENS_PER_S = 1000.0
_WARM_S = 1.0
_READ_S = 4.0
_ASKED = 30
_SESSION_TURNS = 10
_LISTED = 10
_AN_HOUR = 1 / 24
_OFFLINE = {
    "GENAI_PROVIDER": "offline",
    "IMAGE_PROVIDER": "offline",
    "OFFLINE_FIRST_TOKEN_MS": "0",
    "OFFLINE_TOKENS_PER_S": "0",
}


def sides_of(axis: str, lanes: tuple[str, ...]) -> list[tuple[str, str]]:
    """The lanes and sides of an axis. What only the chat and its store decide is measured on one lane."""
    if axis in ("streams", "readers"):
        return [(lane, side) for lane in lanes if lane in STREAMING for side in ("floor", "memory")]
    if axis == "processes":
        return [("ndjson", "sqlite"), ("ndjson", "valkey")]
    return [("rest", "sqlite")]


def expected_s(axis: str, size: int, seconds: float) -> float:
    """How long one size of one side takes."""
    match axis:
        case "streams":
            return 3.5 + seconds + size * (0.0012 + 1 / _TOKENS_PER_S)
        case "readers":
            return 3 + hold_s(size) + _READ_S
        case "processes":
            return 5 + seconds
    return 5 + size / 20_000


async def streams(run: ScaleRun, lane: str, name: str, size: int) -> None:
    """So many streams, a turn each, which no stream ends within the window."""
    plan, rate = run.plan.floors, _TOKENS_PER_S / size
    spread_s = size / _TOKENS_PER_S
    # Opening the connections takes time in which the turns do not yet run; the rest is room for a busy machine.
    tokens = math.ceil(rate * (spread_s + _WARM_S + plan.seconds + 10)) + 3
    env = {"OFFLINE_TOKENS_PER_S": f"{rate:g}"}
    async with _side(run, lane, name, ["--tokens", str(tokens), "--rate", f"{rate:g}"], env) as side:
        fields = {"message": f"/tokens {tokens} floor", "seconds": plan.seconds, "warm_s": _WARM_S}
        result = await load(plan, job(side, "loop", size, stamps=True, spread_s=spread_s, **fields))
    run.add("streams", lane, name, size, _figures(result), _cores(result))


async def readers(run: ScaleRun, lane: str, name: str, size: int) -> None:
    """So many readers of one turn; the slower its model, the more readers it has."""
    plan, rate = run.plan.floors, _TOKENS_PER_S / size
    tokens = math.ceil(rate * _READ_S) + 1
    env = {"OFFLINE_TOKENS_PER_S": f"{rate:g}"}
    arguments = ["--tokens", str(tokens), "--rate", f"{rate:g}", "--gate", str(size)]
    async with _side(run, lane, name, arguments, env) as side:
        turn_id = await start(side, f"/slow {hold_s(size):g} /tokens {tokens} floor")
        result = await load(plan, job(side, "once", size, turn_id=turn_id, stamps=True, warm_s=0.0))
    run.add("readers", lane, name, size, _figures(result), _cores(result))


@asynccontextmanager
async def _side(
    run: ScaleRun, lane: str, name: str, arguments: list[str], env: Mapping[str, str]
) -> AsyncIterator[Side]:
    floors = FloorRun(run.plan.floors, run.say, (name,))
    async with running_sides(floors, "", lane, arguments, env) as (side,):
        yield side


def _figures(result: Result) -> dict[str, float | None]:
    return {
        "CPU an event, µs": None if result.cpu_s is None else result.cpu_s * 1e6 / max(result.events, 1),
        "delay p99, ms": result.delay_p99_ms,
        "memory, MiB": None if result.rss_bytes is None else result.rss_bytes / 2**20,
    }


def _cores(result: Result) -> float:
    return (result.cpu_s or 0.0) / result.seconds


async def history(run: ScaleRun, lane: str, name: str, size: int) -> None:
    """New turns of one token in a session that has so many turns, and its newest messages."""
    async with _filled(size, sessions=1, days=_AN_HOUR) as (url, session_ids), _server(lane, url) as server:
        pid, (session_id,) = server.process.pid, session_ids
        async with server.client() as client:

            async def chat() -> None:
                await collect(client.chat("/tokens 1 again", session_id=session_id))

            await chat()
            before = cpu_s(pid)
            turns = await _asked(chat)
            after, memory = cpu_s(pid), rss_bytes(pid)
            figures = {
                "CPU a turn, µs": None if before is None or after is None else (after - before) * 1e6 / _ASKED,
                "turn p50, ms": quantile(turns, 0.5),
                "turn p99, ms": quantile(turns, 0.99),
                "messages p50, ms": quantile(await _asked(lambda: client.message_page(session_id)), 0.5),
                "memory, MiB": None if memory is None else memory / 2**20,
            }
    run.add("history", lane, name, size, figures, 0.0)


async def store(run: ScaleRun, lane: str, name: str, size: int) -> None:
    """A server on a file with so many turns: its start, the list of sessions, a new turn; and the purge of a copy."""
    sessions = max(_LISTED, size // _SESSION_TURNS)
    async with _filled(size, sessions=sessions, days=DAYS) as (url, _):
        purged_ms = await _purge_ms(Path(url.removeprefix("sqlite:///")))
        begun = time.perf_counter()
        async with _server(lane, url) as server:
            ready_ms = (time.perf_counter() - begun) * 1000
            async with server.client() as client:
                listed = await _asked(lambda: client.list_sessions(_LISTED))
                started = await _asked(lambda: client.start(Ask(text="/tokens 1 new")))
    figures = {
        "start-up, ms": ready_ms,
        "list_sessions p50, ms": quantile(listed, 0.5),
        "start_turn p50, ms": quantile(started, 0.5),
        "purge, a turn, ms": purged_ms,
    }
    run.add("store", lane, name, size, figures, 0.0)


async def _purge_ms(path: Path) -> float:
    """The time of the whole purge of a copy, for each turn whose log it drops; where it drops none, the whole time."""
    copy = path.with_name("purged.db")
    await asyncio.to_thread(shutil.copyfile, path, copy)
    opened = await asyncio.to_thread(open_store, f"sqlite:///{copy}")
    try:
        logs, begun = _logs(copy), time.perf_counter()
        while await opened.purge():
            pass
        return (time.perf_counter() - begun) * 1000 / max(1, logs - _logs(copy))
    finally:
        await opened.close()
        copy.unlink()


def _logs(path: Path) -> int:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        return len(connection.execute("SELECT DISTINCT turn_id FROM segments").fetchall())


async def processes(run: ScaleRun, lane: str, name: str, size: int) -> None:
    """So many servers on one store, each with its share of the streams; the CPU time is that of all of them and of the store."""
    plan = run.plan.floors
    kind = KINDS["sqlite"] if name == "sqlite" else _valkey()
    tokens = int(PACED_PER_S * 2)
    fields = {"message": f"/tokens {tokens} floor", "seconds": plan.seconds, "spread_s": 1.0}
    async with contextlib.AsyncExitStack() as stack:
        opened = stack.enter_context(running_store(kind))
        env = {"OFFLINE_TOKENS_PER_S": f"{PACED_PER_S:g}"}
        servers = [await stack.enter_async_context(_server(lane, opened.url, env)) for _ in range(size)]
        sides = [Side(name, lane, server.address, server.process.pid, server) for server in servers]
        before_s = opened.cpu_s()
        jobs = (load(plan, job(side, "loop", PACED_STREAMS // size, stamps=True, **fields)) for side in sides)
        results = await asyncio.gather(*jobs)
        store_s = opened.cpu_s() - before_s
    events = sum(result.events for result in results)
    # The store also worked for what the servers did before their windows.
    seconds = sum(result.seconds for result in results) / size
    shares = [result.cpu_s for result in results if result.cpu_s is not None]
    figures = {
        "CPU an event, servers, µs": sum(shares) * 1e6 / max(events, 1) if shares else None,
        "events a second, events": events / seconds,
        "delay p99, ms": max(result.delay_p99_ms or 0.0 for result in results),
    }
    if opened.servers:
        figures["CPU, share of a core, store, %"] = 100 * store_s / (seconds + _WARM_S + 1)
    run.add("processes", lane, name, size, figures, max(_cores(result) for result in results))


def _valkey() -> StoreKind:
    """Valkey with its usual file. Raises RuntimeError where no Valkey is installed."""
    try:
        valkey_program()
    except FileNotFoundError as error:
        raise RuntimeError(str(error)) from error
    return KINDS["valkey-everysec"]


@asynccontextmanager
async def _filled(turns: int, *, sessions: int, days: float) -> AsyncIterator[tuple[str, list[str]]]:
    """The STORE_URL of an SQLite file with so many ended turns, and the ids of its sessions."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        path = Path(folder) / "chat.db"
        url = f"sqlite:///{path}"
        # The store makes its tables when it is opened.
        await (await asyncio.to_thread(open_store, url)).close()
        yield url, await asyncio.to_thread(fill, path, turns, sessions, days)


@asynccontextmanager
async def _server(lane: str, url: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    async with serving(lane, env={**_OFFLINE, "STORE_URL": url, **(env or {})}) as server:
        yield server


async def _asked(ask: Callable[[], Awaitable[object]], count: int = _ASKED) -> list[float]:
    """The times of so many answers, one after the other, in ms."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await ask()
        times.append((time.perf_counter() - begun) * 1000)
    return times


Axis = Callable[[ScaleRun, str, str, int], Awaitable[None]]
AXES: dict[str, Axis] = {
    "streams": streams,
    "readers": readers,
    "history": history,
    "store": store,
    "processes": processes,
}
