"""Servers under load that are killed, stopped for longer than their lease, and drained."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import aclosing
from functools import partial

from compare.measuring.lanes import LANES, Lane
from shared.client.protocol import ChatClient
from shared.errors import ChatError, ConnectionLost, ServerAbsent
from shared.events import TurnStarted
from shared.session import short_turn
from tests.faults.harness import (
    Plan,
    Shown,
    Totals,
    World,
    audit,
    judge,
    rows,
    say,
    spread,
    timed,
    until,
)

KILLS = 200
SLEEPERS = 20
RESTARTS = 50
# Clients that ask at the same time on each lane, when eight runs go on at a time.
LOAD = 3
READERS = 4
LONG = 800
LONG_DRAINED = 1600
# A turn whose server was killed gets its terminal event within this time after the restart.
ENDED_S = 5.0
OBSERVER = "ndjson/observer"


async def kills(world: World, plan: Plan) -> Totals:
    """Each transport's server is killed (SIGKILL) in the middle of several answers and started again, many times.

    A kill counts when a reader has been shown an event of a turn that still ran. The readers come back by themselves; one of them
    reads on from another server, which is never killed.
    """
    totals = Totals("kills", plan.seed)
    shown: list[Shown] = []
    wanted = plan.count(KILLS, len(plan.words))

    async def server_life(word: str, kills: int) -> None:
        nth = landed = 0
        while landed < kills:
            landed += await _kill_once(world, plan, totals, word, nth, shown)
            nth += 1
            if nth > 2 * kills + 5:
                totals.blame("other", f"{word}: only {landed} of {nth} kills landed")
                return

    async with timed(totals):
        await world.start(OBSERVER)
        share, more = divmod(wanted, len(plan.words))
        async with asyncio.TaskGroup() as group:
            for i, word in enumerate(plan.words):
                group.create_task(server_life(word, share + (i < more)))
        await audit(world, totals, shown)
    return totals


async def _kill_once(world: World, plan: Plan, totals: Totals, word: str, nth: int, shown: list[Shown]) -> bool:
    """One kill, and the checks after it. Returns whether the kill counts."""
    dice = plan.random("kill", word, nth)
    lanes = [lane for lane in plan.event_lanes if lane.word == word]
    where = f"kill {nth} of {word}"
    moment = dice.randrange(1, LONG // 2)
    reached = asyncio.Event()
    restarted_at = 0.0
    readers: list[Shown] = []

    def at_the_moment(now: Shown) -> bool:
        if now.after >= moment:
            reached.set()
        return False

    async def read(i: int) -> None:
        one = readers[i]
        async with aclosing(world.client(dice.choice(lanes))) as client:
            await one.follow(client.chat(one.asked), at_the_moment)
        reached.set()

    async def read_elsewhere() -> None:
        """Begin on the server that is killed, and read on from the server that is not."""
        one = readers[-1]
        async with aclosing(world.client(dice.choice(lanes), resume=False)) as client:
            await one.follow(client.chat(one.asked), at_the_moment)
        reached.set()
        if one.error is not None and one.turn_id:
            one.error = None
            async with aclosing(world.client(LANES["ndjson"], world.servers[OBSERVER].address)) as client:
                await one.follow(client.read(one.turn_id, one.after))

    for i in range(READERS):
        readers.append(Shown(f"/tokens {LONG} {where} reader {i}"))
    tasks = [asyncio.create_task(read(i)) for i in range(READERS - 1)] + [asyncio.create_task(read_elsewhere())]
    await reached.wait()
    landed = any(one.events and not one.status for one in readers)
    acknowledged = [one.after for one in readers]
    await world.kill(word)
    killed_at = time.time()
    await world.start(word)
    restarted_at = time.time()
    try:
        async with asyncio.timeout(world.patience_s):
            await asyncio.gather(*tasks)
    except TimeoutError:
        totals.blame("other", f"{where}: a reader hung")
    # A reader without any event repeats its request with its key, so it reads a new turn or the interrupted one.
    for one, after in zip(readers, acknowledged, strict=True):
        if one.error is not None and not one.turn_id:
            continue
        shown.append(one)
        judge(totals, one, f"{where}, {after} acknowledged", statuses=("completed", "interrupted"))
        if one.status == "interrupted":
            totals.notes["interrupted"] += 1
            late_s = one.events[-1].at / 1000 - (killed_at if one is readers[-1] else restarted_at)
            if late_s > ENDED_S:
                totals.blame("other", f"{where}: interrupted only {late_s:.1f} s after the restart")
    if landed:
        totals.runs += 1
        if totals.runs % 20 == 0:
            say(f"  {totals.runs} kills landed")
        await _next_turn(world, totals, word, readers[0], where)
    else:
        totals.notes["not counted"] += 1
    return landed


async def _next_turn(world: World, totals: Totals, word: str, one: Shown, where: str) -> None:
    """The session of an interrupted turn accepts the next turn."""
    first = one.events[0] if one.events else None
    if not isinstance(first, TurnStarted):
        return
    async with aclosing(world.client(LANES[word])) as client:
        after = await Shown("/tokens 5 and now").follow(client.chat("/tokens 5 and now", session_id=first.session_id))
    if after.status != "completed":
        totals.blame("other", f"{where}: the session does not take the next turn ({after.error or after.status})")


async def sleepers(world: World, plan: Plan) -> Totals:
    """A server is stopped (SIGSTOP) in mid-answer for longer than its lease. Afterwards it must not append to the turn."""
    totals = Totals("sleepers", plan.seed)
    shown: list[Shown] = []

    async def sleep_once(lane: Lane, nth: int) -> None:
        moment = plan.random("sleep", lane.name, nth).randrange(1, LONG // 4)
        one, other = (Shown(f"/tokens {LONG} sleeper {nth} on {lane.name}") for _ in range(2))
        shown.append(one)
        process = world.servers[lane.word].process
        async with (
            aclosing(world.client(lane, silence_s=30.0)) as client,
            aclosing(world.client(LANES["ndjson"], world.servers[OBSERVER].address)) as elsewhere,
        ):
            reached = asyncio.Event()

            def at_the_moment(now: Shown) -> bool:
                if now.after >= moment:
                    reached.set()
                return False

            reading = asyncio.create_task(one.follow(client.chat(one.asked), at_the_moment))
            reading.add_done_callback(lambda _: reached.set())
            await reached.wait()
            process.send_signal(signal.SIGSTOP)
            try:
                await other.follow(elsewhere.read(one.turn_id, 0))
            finally:
                process.send_signal(signal.SIGCONT)
            await reading
        judge(totals, one, one.asked, statuses=("interrupted",))
        judge(totals, other, f"{one.asked}, seen elsewhere", statuses=("interrupted",))
        if one.events != other.events:
            totals.blame("other", f"{one.asked}: the sleeper and the others show different logs")

    async def think_long(lane: Lane) -> None:
        """A model that is silent for longer than a lease keeps its turn."""
        one = Shown(f"/stall {2 * float(world.env['LEASE_S'])} /tokens 20 silent on {lane.name}")
        shown.append(one)
        async with aclosing(world.client(lane)) as client:
            await one.follow(client.chat(one.asked))
        judge(totals, one, one.asked)

    async def one_after_the_other(word: str, count: int) -> None:
        lanes = [lane for lane in plan.event_lanes if lane.word == word]
        jobs = [(f"sleeper {nth} {word}", partial(sleep_once, lanes[nth % len(lanes)], nth)) for nth in range(count)]
        await spread(world, totals, jobs, 1)

    async with timed(totals):
        await world.start(OBSERVER)
        await asyncio.gather(*(think_long(lane) for lane in plan.event_lanes))
        async with asyncio.TaskGroup() as group:
            for word in plan.words:
                group.create_task(one_after_the_other(word, plan.count(SLEEPERS) // len(plan.words) or 1))
        await audit(world, totals, shown)
    return totals


async def restarts(world: World, plan: Plan) -> Totals:
    """SIGTERM under load, many times. Short answers finish, long answers are interrupted, readers on other servers lose nothing."""
    totals = Totals("restarts", plan.seed)
    shown: list[Shown] = []
    drain_s = float(world.env["DRAIN_S"])
    over = asyncio.Event()

    async def load(lane: Lane, i: int) -> None:
        """Ask short and long questions. A client that is refused because the server drains asks again with the same key."""
        dice = plan.random("load", lane.name, i)
        nth = 0
        while not over.is_set():
            tokens = dice.choice((20, 150, 150, 150, 150, LONG_DRAINED))
            one = Shown(f"/tokens {tokens} load {lane.name} {i} {nth}")
            shown.append(one)
            statuses = ("completed", "interrupted") if tokens == LONG_DRAINED else ("completed",)
            async with aclosing(world.client(lane)) as client:
                await _ask_until_accepted(client, one, dice)
                elsewhere = tokens == LONG_DRAINED and dice.random() < 0.5
                if one.error is None and not one.status and not elsewhere:
                    await _read_on(client, one, dice)
                # Between two polls there is no connection on which the server could send its last event.
                if one.broken_off and lane.name != "rest-poll":
                    totals.blame("other", f"{one.asked}: its server went without a last word")
            if one.error is None and not one.status and elsewhere:
                async with aclosing(world.client(dice.choice(plan.event_lanes))) as other:
                    await _read_on(other, one, dice)
            judge(totals, one, one.asked, statuses=statuses)
            totals.notes[one.status] += 1
            nth += 1

    async with timed(totals):
        async with asyncio.TaskGroup() as group:
            for lane in plan.lanes:
                for i in range(max(1, LOAD * plan.parallel // 8)):
                    group.create_task(load(lane, i))
            for nth in range(plan.count(RESTARTS, len(plan.words))):
                word = plan.words[nth % len(plan.words)]
                await until(lambda: sum(bool(one.status) for one in shown) >= 3 * (nth + 1), 60, "no load")  # noqa: B023
                begun = time.monotonic()
                status = await world.stop(word, signal.SIGTERM)
                took_s = time.monotonic() - begun
                if status != 0 or took_s > drain_s + 3:
                    totals.blame("other", f"restart {nth} of {word}: exit status {status} after {took_s:.1f} s")
                for (turn_id,) in rows(world.store, "SELECT turn_id FROM turns WHERE status = 'running'"):
                    if world.begun_on.get(short_turn(turn_id)) == word:
                        totals.blame("ends", f"restart {nth} of {word}: {turn_id} was left without a last word")
                await world.start(word)
                totals.runs += 1
            over.set()
        await audit(world, totals, shown)
    return totals


async def _ask_until_accepted(client: ChatClient, one: Shown, dice: random.Random) -> None:
    """Ask with one key until a server accepts the turn; read a part of the answer."""
    part = dice.choice((1, 50, 10**6, 10**6))
    key = f"restart {one.asked}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        one.error = None
        await one.follow(client.chat(one.asked, request_id=key), lambda now: now.after >= part)
        refused = isinstance(one.error, ConnectionLost) or (
            isinstance(one.error, ChatError) and one.error.code == "shutting_down"
        )
        if not refused or one.turn_id:
            return
        await _think(dice)


async def _read_on(client: ChatClient, one: Shown, dice: random.Random) -> None:
    """Read a turn on from the cursor, as soon as a server answers."""
    deadline = time.monotonic() + 30
    while not one.status and time.monotonic() < deadline:
        one.error = None
        await one.follow(client.read(one.turn_id, one.after))
        if not isinstance(one.error, ServerAbsent):
            return
        await _think(dice)


async def _think(dice: random.Random) -> None:
    """Wait as a client does that is refused for a while, for a random time."""
    await asyncio.sleep(dice.uniform(0.02, 0.2))
