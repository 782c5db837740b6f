"""Outages of a store on another machine, and of the machines of the servers, in the middle of answers.

While the store is away a stream stays open with heartbeats; afterwards all events come. A turn whose server is gone is
ended by the other servers.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import httpx

from compare.lines.faults import Faults
from compare.measuring.lanes import LANES, Lane
from protocols import TRANSPORTS
from shared.errors import ChatError, ConnectionLost
from shared.events import AnyEvent
from tests.faults.harness import Plan, Shown, Totals, World, audit, judge, say, timed, until
from tests.faults.machines import Machines, SentinelMachines

KILLS = 200
STORE_OUTAGES = 50
REPLACEMENTS = 20
# Tokens of a turn in a run, and the event at which the outage begins.
# More tokens than a producer leaves uncommitted (256): so the model waits for the store, and its end comes after the outage.
TOKENS, MOMENT = 400, 20
# A client to which for this long nothing comes, not even a heartbeat, reports a lost line. Some outages are longer.
SILENCE_S = 4.0
STOPPED_S = 6.0
# A new turn is refused within this time: an answer of the store may take 2 s, and a start that may be recorded is tried for 5 s.
REFUSED_S = 12.0

Act = Callable[[Machines, str, random.Random], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def store_killed(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    machines.valkey.kill()
    yield
    await asyncio.to_thread(machines.valkey.start)


@asynccontextmanager
async def store_stopped(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    """SIGSTOP: its connections stay open, and nothing is answered."""
    until_s = time.monotonic() + STOPPED_S
    machines.valkey.send(signal.SIGSTOP)
    try:
        yield
        await asyncio.sleep(until_s - time.monotonic())
    finally:
        machines.valkey.send(signal.SIGCONT)


@asynccontextmanager
async def store_cut_back(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    """A power cut of the store's machine: events that were acknowledged and shown are not in the file any more."""
    kept_bytes = machines.aof().stat().st_size
    await until(lambda: machines.aof().stat().st_size > kept_bytes + 2000, 30, "the turn does not go on")
    machines.valkey.kill()
    os.truncate(machines.aof(), kept_bytes)
    yield
    await asyncio.to_thread(machines.valkey.start)


@asynccontextmanager
async def store_failed_over(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    assert isinstance(machines, SentinelMachines)
    async with machines.failover():
        yield


@asynccontextmanager
async def store_back_too_late(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    """The primary dies, and is back when a Sentinel has begun to replace it: for a while two servers take writes."""
    assert isinstance(machines, SentinelMachines)
    machines.valkey.kill()
    yield
    await asyncio.sleep(machines.down_s + dice.uniform(-0.2, 2.2))
    await asyncio.to_thread(machines.valkey.start)


@asynccontextmanager
async def store_full(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    # A store that was killed meanwhile is not full.
    with suppress(OSError):
        await machines.ask("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        with suppress(OSError):
            await machines.ask("CONFIG", "SET", "maxmemory", "0")


@asynccontextmanager
async def store_slow(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    """Every answer comes after its time-out, so every command is done and repeated."""
    machines.shape(Faults(delay_s=1.3))
    try:
        yield
    finally:
        machines.shape(Faults())


@asynccontextmanager
async def store_half_open(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    """All open lines to the store are dead, and no server gets an error; new lines work."""
    for relay in machines.relays.values():
        relay.discard()
    yield


@asynccontextmanager
async def store_without_scripts(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    with suppress(OSError):
        await machines.ask("SCRIPT", "FLUSH")
    yield


@asynccontextmanager
async def server_killed(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    await machines.kill(word)
    try:
        yield
    finally:
        await machines.start(word)


@asynccontextmanager
async def server_stopped(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    """SIGSTOP for longer than the lease. When the server wakes up, it must not append to the turn."""
    process = machines.servers[word].process
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def server_cut_off(machines: Machines, word: str, dice: random.Random) -> AsyncIterator[None]:
    """The server reaches its clients, but not the store."""
    relay = machines.relays[word]
    relay.refuse(1000)
    relay.cut()
    try:
        yield
    finally:
        relay.refuse(0)


@dataclass(frozen=True, slots=True)
class Outage:
    """An outage. ``refuses``: no server accepts a new turn meanwhile. ``takes_over``: the turn ends on the other servers."""

    name: str
    act: Act
    refuses: bool = False
    takes_over: bool = False
    sentinel: bool = False


OUTAGES = {
    outage.name: outage
    for outage in (
        Outage("store killed", store_killed, refuses=True),
        Outage("store stopped", store_stopped, refuses=True),
        Outage("store cut back", store_cut_back, refuses=True),
        Outage("store failed over", store_failed_over, refuses=True, sentinel=True),
        Outage("store back too late", store_back_too_late, sentinel=True),
        Outage("store full", store_full, refuses=True),
        Outage("store slow", store_slow, refuses=True),
        Outage("store half open", store_half_open),
        Outage("store without its scripts", store_without_scripts),
        Outage("server killed", server_killed, takes_over=True),
        Outage("server stopped", server_stopped, takes_over=True),
        Outage("server cut off", server_cut_off, takes_over=True),
    )
}
# Two of these at once: each may last until the turn has ended, whatever the other one does.
IN_PAIRS = (
    "store killed",
    "store full",
    "store half open",
    "store without its scripts",
    "server killed",
    "server cut off",
)


def event_lane(word: str) -> Lane:
    """The lane of a transport that shows events."""
    return LANES["rest-poll" if word == "rest" else word]


async def endure(
    machines: Machines, totals: Totals, word: str, outages: tuple[Outage, ...], dice: random.Random
) -> Shown:
    """A turn that the server of ``word`` generates, read on every server, with outages in its middle; all checks of one run."""
    await machines.settle()
    names = " and ".join(outage.name for outage in outages)
    where = f"{names} under {word}, run {totals.runs}"
    totals.runs += 1
    takes_over = any(outage.takes_over for outage in outages)
    asked = Shown(f"/tokens {TOKENS} {where}")
    readers = {name: Shown(asked.asked) for name in machines.servers if name != word}
    reached = asyncio.Event()

    def at_the_moment(now: Shown) -> bool:
        if now.after >= MOMENT:
            reached.set()
        return False

    async def ask() -> None:
        async with aclosing(machines.client(event_lane(word), silence_s=SILENCE_S)) as client:
            await asked.follow(client.chat(asked.asked), at_the_moment)
        reached.set()

    async def read(name: str, one: Shown) -> None:
        lane, address = event_lane(name.partition("/")[0]), machines.servers[name].address
        async with aclosing(machines.client(lane, address, silence_s=SILENCE_S)) as client:
            await one.follow(client.read(asked.turn_id))
            while not one.events and getattr(one.error, "code", "") == "storage_unavailable":
                # The server has not found the store again since the last outage.
                totals.notes["refused at first"] += 1
                await asyncio.sleep(0.2)
                one.error = None
                await one.follow(client.read(asked.turn_id))

    tasks = [asyncio.create_task(ask())]
    await reached.wait()
    tasks += [asyncio.create_task(read(name, one)) for name, one in readers.items()]
    try:
        await until(lambda: all(one.events for one in readers.values()), machines.patience_s, "")
    except TimeoutError:
        for name, one in readers.items():
            if not one.events:
                totals.blame("other", f"{where}: the reader on {name} reads nothing ({one.error})")
    begun_at = time.time()
    async with AsyncExitStack() as stack:
        # The store is back before a server starts again.
        for outage in sorted(outages, key=lambda outage: not outage.takes_over):
            await stack.enter_async_context(outage.act(machines, word, dice))
        if any(outage.refuses for outage in outages):
            await _check_refusals(machines, totals, where, {word} if takes_over else set())
        elif takes_over:
            # The other servers end the turn while the outage goes on.
            await _finish(machines, totals, where, tasks[1:])
    await _finish(machines, totals, where, tasks)
    statuses = ("completed", "interrupted") if takes_over else ("completed",)
    for name, one in {word: asked, **readers}.items():
        judge(totals, one, f"{where}, read on {name}", statuses=statuses)
        if one.events != asked.events:
            totals.blame("other", f"{where}: {name} and {word} show different logs")
        # A long poll is a request of its own, and is refused while the store is away.
        if one.lost and not takes_over and not name.startswith("rest"):
            totals.blame("other", f"{where}: the stream of {name} broke off, though only the store was away")
    if takes_over and asked.status == "interrupted":
        totals.notes["interrupted"] += 1
        if not any(outage.refuses for outage in outages):
            _note_takeover(machines, totals, asked.events[-1], begun_at, where)
    return asked


def _note_takeover(machines: Machines, totals: Totals, end: AnyEvent, begun_at: float, where: str) -> None:
    """Note how long a dead server's turn went on, in leases: two at most."""
    leases = (end.at / 1000 - begun_at) / float(machines.env["LEASE_S"])
    totals.leases.append(leases)
    if leases > 2:
        totals.blame("other", f"{where}: the turn ended only {leases:.2f} leases after its server")


async def _finish(machines: Machines, totals: Totals, where: str, tasks: list[asyncio.Task[None]]) -> None:
    _, hanging = await asyncio.wait(tasks, timeout=machines.patience_s)
    for task in hanging:
        totals.blame("other", f"{where}: a reader hung")
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _check_refusals(machines: Machines, totals: Totals, where: str, but: set[str]) -> None:
    """Every server refuses a new turn with a time for the retry, and its health is not ok."""

    async def refused(name: str) -> None:
        word, address = name.partition("/")[0], machines.servers[name].address
        begun = time.monotonic()
        async with aclosing(TRANSPORTS[word].client(address, resume=False)) as client:
            found: Any = None
            try:
                found = await Shown("").follow(client.chat("/tokens 1 while the store is away"))
                found = found.error
                health = (await client.health())["status"]
            except ChatError as error:
                health = error.code
            except ConnectionLost as error:
                health = str(error)
        if not isinstance(found, ChatError) or found.code != "storage_unavailable" or not found.retry_after_s:
            totals.blame("other", f"{where}: {name} does not refuse a new turn: {found!r}")
        if time.monotonic() - begun > REFUSED_S:
            totals.blame("other", f"{where}: {name} refused a new turn after {time.monotonic() - begun:.1f} s")
        if health not in ("storage_unavailable", "unavailable"):
            totals.blame("other", f"{where}: {name} says {health}")
        if word != "grpc":
            await _check_http(totals, where, name, address)

    await asyncio.gather(*(refused(name) for name in machines.servers if name not in but))


async def _check_http(totals: Totals, where: str, name: str, address: str) -> None:
    """The same with a foreign HTTP client."""
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
        health = await client.get("/health")
        if (health.status_code, health.json()["status"]) != (503, "storage_unavailable"):
            totals.blame("other", f"{where}: /health of {name} says {health.status_code} {health.text[:100]}")
        if name.startswith("rest"):
            # A key is looked up before anything is written, so the refusal comes at once.
            head = {"Idempotency-Key": where}
            refusal = await client.post("/chat", json={"message": "while the store is away"}, headers=head)
            if refusal.status_code != 503 or int(refusal.headers.get("Retry-After", 0)) < 1:
                totals.blame("other", f"{where}: {name} answers {refusal.status_code} {refusal.headers}")


async def outages(world: World, plan: Plan) -> Totals:
    """Every outage in the middle of an answer of each transport, then pairs of them."""
    assert isinstance(world, Machines)
    totals = Totals("outages", plan.seed)
    shown: list[Shown] = []
    singles = [outage for outage in OUTAGES.values() if not outage.sentinel]
    async with timed(totals):
        for number, (word, outage) in enumerate((word, outage) for outage in singles for word in plan.words):
            if number < plan.count(len(singles) * len(plan.words)):
                shown.append(await endure(world, totals, word, (outage,), plan.random(outage.name, word)))
        for number in range(plan.count(20)):
            dice = plan.random("pair", number)
            chosen = tuple(OUTAGES[name] for name in dice.sample(IN_PAIRS, 2))
            shown.append(await endure(world, totals, dice.choice(plan.words), chosen, dice))
        await audit(world, totals, shown, exact=False)
    return totals


async def machine_kills(world: World, plan: Plan) -> Totals:
    """Servers on one Valkey are killed in the middle of their answers, many times, on each transport; the others end the turns."""
    assert isinstance(world, Machines)
    totals = Totals("node kills", plan.seed)
    shown: list[Shown] = []
    wanted = plan.count(KILLS, len(plan.words))
    async with timed(totals):
        for word in plan.words:
            await world.start(f"{word}/doomed")
        dooming = cycle(plan.words)
        while totals.runs < wanted:
            words = list(islice(dooming, min(len(plan.words), wanted - totals.runs)))
            kills = [_kill(world, totals, f"{word}/doomed", totals.runs + i) for i, word in enumerate(words)]
            shown += await asyncio.gather(*kills)
            totals.runs += len(words)
            if totals.runs % 20 == 0:
                say(f"  {totals.runs} servers killed")
        await audit(world, totals, shown, exact=False)
    return totals


async def _kill(world: Machines, totals: Totals, name: str, number: int) -> Shown:
    """Kill one server, and read its turn to the end on all servers that live."""
    word = name.partition("/")[0]
    asked = Shown(f"/tokens 2000 node kill {number} of {word}")
    async with aclosing(world.client(event_lane(word), world.servers[name].address, resume=False)) as client:
        reached = asyncio.Event()
        moment = 5 + number % 40

        def at_the_moment(now: Shown) -> bool:
            if now.after >= moment:
                reached.set()
            return False

        asking = asyncio.create_task(asked.follow(client.chat(asked.asked), at_the_moment))
        asking.add_done_callback(lambda _: reached.set())
        await reached.wait()
        readers = {word: Shown(asked.asked) for word in world.words}
        tasks = [asyncio.create_task(_read_on(world, word, asked.turn_id, one)) for word, one in readers.items()]
        begun_at = time.time()
        await world.kill(name)
        await asking
    await _finish(world, totals, asked.asked, tasks)
    asked.error = None
    await _read_on(world, word, asked.turn_id, asked)
    for reader, one in {**readers, "the one who asked": asked}.items():
        judge(totals, one, f"{asked.asked}, read on {reader}", statuses=("interrupted",))
        if one.events != asked.events:
            totals.blame("other", f"{asked.asked}: {reader} shows another log")
    if asked.events:
        _note_takeover(world, totals, asked.events[-1], begun_at, asked.asked)
    await world.start(name)
    return asked


async def _read_on(world: Machines, word: str, turn_id: str, one: Shown) -> None:
    async with aclosing(world.client(event_lane(word))) as client:
        await one.follow(client.read(turn_id, one.after))


async def store_restarts(world: World, plan: Plan) -> Totals:
    """The store is killed, cut back, or replaced by its replica, many times, while every transport generates and reads."""
    names = ("store killed", "store failed over", "store cut back")
    return await _in_turn(world, plan, Totals("failovers", plan.seed), names, STORE_OUTAGES)


async def store_replacements(world: World, plan: Plan) -> Totals:
    """The store dies and is back while its replica takes its place, many times, as in ``store_restarts``."""
    return await _in_turn(world, plan, Totals("replacements", plan.seed), ("store back too late",), REPLACEMENTS)


async def _in_turn(world: World, plan: Plan, totals: Totals, names: tuple[str, ...], wanted: int) -> Totals:
    assert isinstance(world, SentinelMachines)
    shown: list[Shown] = []
    kinds = [OUTAGES[name] for name in names]
    async with timed(totals):
        for number in range(plan.count(wanted, len(kinds))):
            outage, word = kinds[number % len(kinds)], plan.words[number % len(plan.words)]
            shown.append(await endure(world, totals, word, (outage,), plan.random("store", number)))
            totals.notes[outage.name] += 1
            if totals.runs % 10 == 0:
                say(f"  {totals.runs} outages of the store")
        await world.settle()
        await audit(world, totals, shown, exact=False)
    return totals
