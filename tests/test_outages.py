"""Outages with real processes: servers of all five transports on one Valkey, each through a relay; every row is one outage.

``make test-faults`` runs the same outages under each transport, kills 200 servers and restarts or replaces the store 50 times.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from compare.measuring.lanes import LANES, Lane
from shared.errors import ChatError
from tests.conftest import until
from tests.faults.harness import Shown, Totals, audit
from tests.faults.machines import Machines, SentinelMachines
from tests.faults.outages import IN_PAIRS, OUTAGES, Outage, endure

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
SEED = 20261128
ENV = {"OFFLINE_TOKENS_PER_S": "150", "LEASE_S": "1", "HEARTBEAT_S": "0.5", "DRAIN_S": "0"}
ROWS = [outage for outage in OUTAGES.values() if not outage.sentinel]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Machines]:
    async with Machines(tmp_path_factory.mktemp("machines"), ENV) as world:
        await world.start()
        yield world


async def check(machines: Machines, word: str, outages: tuple[Outage, ...], dice: random.Random) -> None:
    totals = Totals("outage", SEED)
    shown = await endure(machines, totals, word, outages, dice)
    await audit(machines, totals, [shown], exact=False)
    print(totals)
    assert not totals.bad, "\n".join(totals.examples)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[outage.name for outage in ROWS])
async def test_one_outage(machines: Machines, number: int) -> None:
    """In each row another transport's server generates the turn, and clients of all five read it."""
    word = machines.words[number % len(machines.words)]
    await check(machines, word, (ROWS[number],), random.Random(SEED))


@pytest.mark.parametrize("seed", [SEED])
async def test_two_outages_at_once(machines: Machines, seed: int) -> None:
    dice = random.Random(seed)
    chosen = tuple(OUTAGES[name] for name in dice.sample(IN_PAIRS, 2))
    await check(machines, dice.choice(machines.words), chosen, dice)


async def test_a_failover(tmp_path: Path) -> None:
    async with SentinelMachines(tmp_path, ENV, words=("sse", "grpc")) as machines:
        await machines.start()
        await check(machines, "sse", (OUTAGES["store failed over"],), random.Random(SEED))


async def test_a_turn_whose_start_the_store_has_lost_ends_cleanly(machines: Machines) -> None:
    """The store goes back to before the turn. No reader waits, the model stops, and the session accepts a turn."""
    sessions, asking, shown = {}, [], {}

    async def follow(lane: Lane, one: Shown, session_id: str | None) -> None:
        async with machines.client(lane) as client:
            await one.follow(client.chat(one.asked, session_id=session_id))

    for word in machines.words:
        async with machines.client(LANES[word]) as client:
            sessions[word] = (await client.create_session()).session_id
    # With appendfsync everysec a write is in the file a second later.
    await machines.ask("BGREWRITEAOF")
    await until(lambda: machines.aof().stat().st_size == 0)
    for lane in LANES.values():
        one = shown[lane.name] = Shown("/tokens 3000 lost from its start")
        session_id = sessions[lane.word] if lane.name != "rest-poll" else None
        asking.append(asyncio.create_task(follow(lane, one, session_id)))
    await until(lambda: all(one.after > 20 for lane, one in shown.items() if lane != "rest"))
    machines.valkey.kill()
    os.truncate(machines.aof(), 0)
    await asyncio.to_thread(machines.valkey.start)
    await asyncio.wait(asking, timeout=30)
    assert [name for name, task in zip(shown, asking, strict=True) if not task.done()] == []
    for name, one in shown.items():
        assert isinstance(one.error, ChatError), f"{name}: {one.error!r}"
        assert one.error.code == "turn_not_found", f"{name}: {one.error}"
    for word in machines.words:
        async with machines.client(LANES[word]) as client:
            assert await client.list_messages(sessions[word]) == []
            after = await Shown("/tokens 5 and now").follow(client.chat("/tokens 5 and now", session_id=sessions[word]))
            assert after.status == "completed", f"{word}: {after.error}"
