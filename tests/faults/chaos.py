"""Five servers on one store, killed, drained and stopped at random, while clients ask, are cut, cancel, repeat and delete.

Afterwards the file is read: every event that a client was shown is in it once, no model ran twice, no turn runs.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import aclosing

from compare.measuring.lanes import Lane
from shared.client.protocol import ChatClient
from shared.errors import ChatError, ConnectionLost
from shared.events import TurnStarted
from tests.faults.harness import Plan, Shown, Totals, World, audit, judge, timed

FULL_S = 600.0
TOKENS = (5, 60, 60, 300, 900)
# A reader looks for its turn on other servers for this long.
LOOK_S = 40.0


async def chaos(world: World, plan: Plan) -> Totals:
    """Run for ten minutes at full size; a failure is repeated by its seed as far as processes allow."""
    totals = Totals("chaos", plan.seed)
    shown: list[Shown] = []
    deadline = time.monotonic() + FULL_S * plan.share
    busy = {word: asyncio.Lock() for word in plan.words}

    async def break_servers(number: int) -> None:
        dice = plan.random("breaker", number)
        while time.monotonic() < deadline:
            await asyncio.sleep(dice.uniform(0.2, 1.0))
            word = dice.choice(plan.words)
            async with busy[word]:
                await _break(world, totals, word, dice)

    async def use_servers(lane: Lane, number: int) -> None:
        dice = plan.random("user", lane.name, number)
        turn = 0
        while time.monotonic() < deadline:
            turn += 1
            one = Shown(f"/tokens {dice.choice(TOKENS)} {lane.name} {number} {turn}")
            await _use(world, totals, plan, lane, dice, one)
            if one.turn_id and not await _deleted(world, plan, dice, one):
                shown.append(one)
                judge(totals, one, one.asked, statuses=("completed", "cancelled", "interrupted"))
                totals.notes[one.status] += 1
                totals.runs += 1

    async with timed(totals):
        async with asyncio.TaskGroup() as group:
            for number in range(2):
                group.create_task(break_servers(number))
            for lane in plan.lanes:
                for number in range(max(1, plan.parallel // 4)):
                    group.create_task(use_servers(lane, number))
        await audit(world, totals, shown, exact=False)
    return totals


async def _break(world: World, totals: Totals, word: str, dice: random.Random) -> None:
    """Kill, drain or end a server and start it again, or stop it for up to twice its lease."""
    how = dice.choice(("kill", "SIGTERM", "SIGINT", "stop"))
    totals.notes[how] += 1
    if how == "stop":
        process = world.servers[word].process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(dice.uniform(0.1, 2 * float(world.env["LEASE_S"])))
        process.send_signal(signal.SIGCONT)
        return
    if how == "kill":
        await world.kill(word)
    elif await world.stop(word, getattr(signal, how)) != 0:
        totals.blame("other", f"{word}: {how} did not end it with exit status 0")
    await world.start(word)


async def _use(world: World, totals: Totals, plan: Plan, lane: Lane, dice: random.Random, one: Shown) -> None:
    """Ask once with a key, perhaps cut or cancel in the middle, and read to the end wherever it goes on."""
    key, moment = f"chaos {one.asked}", dice.randrange(1, 60)
    what = dice.choice(("nothing", "nothing", "cut", "cancel", "repeat"))
    async with aclosing(world.client(lane)) as client:
        acting: list[asyncio.Task[None]] = []

        def act(now: Shown) -> bool:
            if now.after >= moment and not acting and what in ("cut", "cancel"):
                totals.notes[what] += 1
                acting.append(asyncio.create_task(_act(client, what, now.turn_id)))
            return False

        await one.follow(client.chat(one.asked, request_id=key), act)
        await asyncio.gather(*acting, return_exceptions=True)
    lost_until = time.monotonic() + LOOK_S
    while one.turn_id and not one.status and time.monotonic() < lost_until:
        one.error, one.done = None, False
        async with aclosing(world.client(dice.choice(plan.event_lanes))) as other:
            await one.follow(other.read(one.turn_id, one.after))
        await asyncio.sleep(0.1)
    if what == "repeat" and one.turn_id:
        again = Shown(one.asked)
        async with aclosing(world.client(dice.choice(plan.lanes))) as client:
            await again.follow(client.chat(one.asked, request_id=key))
        if again.turn_id and again.turn_id != one.turn_id:
            totals.blame("generated", f"{one.asked}: its key started a second turn")
        totals.notes[what] += 1


async def _act(client: ChatClient, what: str, turn_id: str) -> None:
    """Cut or cancel. The reader sees the result, because the server may be dying."""
    try:
        if what == "cut":
            await client.cut()
        else:
            await client.cancel(turn_id)
    except (ChatError, ConnectionLost):
        pass


async def _deleted(world: World, plan: Plan, dice: random.Random, one: Shown) -> bool:
    """Now and then delete the session of a turn that has ended. Returns whether it was, or may have been, deleted."""
    first = one.events[0] if one.events else None
    if not isinstance(first, TurnStarted) or first.session_id is None or dice.random() > 0.1:
        return False
    async with aclosing(world.client(dice.choice(plan.event_lanes))) as client:
        try:
            await client.delete_session(first.session_id)
        except ChatError as error:
            return error.code == "session_not_found"
        except ConnectionLost:
            return True
    return True
