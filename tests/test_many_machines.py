"""Servers on one Valkey, as on several machines: a node dies, the store dies, and readers go on elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from compare.valkey import Valkey
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient
from shared.events import TERMINAL, AnyEvent, Chunk, Event, TurnCompleted, TurnInterrupted, TurnStarted
from tests.conftest import FAST, until

LEASE_S = 1.0


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    server = Valkey(tmp_path / "valkey", ["save ''", "appendonly yes"])
    await asyncio.to_thread(server.start)
    yield server
    server.kill()


@pytest.fixture
async def nodes(valkey: Valkey) -> AsyncIterator[tuple[Server, Server]]:
    """Two nodes that speak different protocols."""
    env = {**FAST, "STORE_URL": valkey.url, "LEASE_S": str(LEASE_S), "OFFLINE_TOKENS_PER_S": "50"}
    async with AsyncExitStack() as stack:
        starting = [stack.enter_async_context(serving(word, env=env)) for word in ("sse", "grpc")]
        one, other = await asyncio.gather(*starting)
        yield one, other


async def read(client: ChatClient, turn_id: str, seen: list[AnyEvent]) -> None:
    """Read a turn to its terminal event, into ``seen``."""
    async with aclosing(client.read(turn_id, 0)) as items:
        async for item in items:
            if isinstance(item, Event):
                assert item.seq == len(seen) + 1
                seen.append(item)


async def started(client: ChatClient, text: str) -> str:
    """Start a turn that this test does not wait for, and return its id."""
    async with aclosing(client.chat(text)) as items:
        async for item in items:
            if isinstance(item, TurnStarted):
                return item.turn_id
    raise AssertionError("the turn did not start")


async def test_a_node_dies_and_its_turn_ends_on_another_one(nodes: tuple[Server, Server]) -> None:
    doomed, other = nodes
    async with doomed.client() as asking, other.client() as reading:
        turn_id = await started(asking, "/tokens 2000 Explain leases")
        seen: list[AnyEvent] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(read(reading, turn_id, seen))
            await until(lambda: len(seen) > 10)
            doomed.kill()
        end = seen[-1]
        assert isinstance(end, TurnInterrupted)
        assert end.epoch == 1
        assert sum(isinstance(event, TERMINAL) for event in seen) == 1
        again: list[AnyEvent] = []
        await read(reading, turn_id, again)
        assert again == seen
        assert end.chunks == sum(isinstance(event, Chunk) for event in seen)


async def test_the_store_dies_for_a_moment_and_no_answer_is_lost(nodes: tuple[Server, Server], valkey: Valkey) -> None:
    one, other = nodes
    async with one.client() as asking, other.client() as reading:
        turn_id = await started(asking, "/tokens 150 Explain patience")
        here: list[AnyEvent] = []
        there: list[AnyEvent] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(read(asking, turn_id, here))
            group.create_task(read(reading, turn_id, there))
            await until(lambda: len(there) > 20)
            valkey.kill()
            await asyncio.to_thread(valkey.start)
        assert isinstance(here[-1], TurnCompleted)
        assert here == there
        # No node was declared dead meanwhile, and new turns are accepted again.
        again: list[AnyEvent] = []
        await read(reading, await started(reading, "/tokens 5 again"), again)
        assert isinstance(again[-1], TurnCompleted)
