"""Another program locks the store for longer than a lease: every running turn of every server goes on to its end."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack

from shared.client.protocol import Ask
from tests.conftest import MakeServers, until

LEASE_S = 1.0
HELD_S = 4.0
WORDS = ("ndjson", "sse")
TURNS = 5
HOLD = (
    "import apsw, sys, time; store = apsw.Connection(sys.argv[1]); store.set_busy_timeout(10_000);"
    " store.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(float(sys.argv[2])); store.execute('COMMIT')"
)


async def test_a_lock_costs_no_turn(make_servers: MakeServers) -> None:
    """Two servers wait for one lock until their leases are over. The first to get the lock ends no turn of the other."""
    servers = make_servers(LEASE_S=str(LEASE_S), OFFLINE_TOKENS_PER_S="20")
    servers.start(*WORDS)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(servers[word].client()) for word in WORDS]
        ask = Ask(text="/tokens 160 hello")
        turns = [(client, (await client.start(ask)).turn_id) for client in clients for _ in range(TURNS)]
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLD, str(servers.store), str(HELD_S), stdout=PIPE
        )
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        assert await holder.wait() == 0

        async def ended() -> bool:
            return not [1 for client, turn in turns if (await client.get_turn(turn)).status == "running"]

        await until(ended, 60)
        assert [(await client.get_turn(turn)).status for client, turn in turns] == ["completed"] * len(turns)
    assert not [entry for word in WORDS for entry in servers[word].log if entry["event"] == "interrupted"]
