"""A cancel at a server that drains, on all five wires: of a turn of that server, and of another server's turn."""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing

from shared.client.protocol import Ask
from shared.errors import ServerAbsent
from tests.conftest import WORDS, MakeServers, Servers, until
from tests.wires import WIRES

# A WebSocket and a ``Chat`` stay open, so that their turns are sent to their ends.
_REFUSED = {"websocket": None, "grpc": "UNAVAILABLE", "grpc-chat": None}


async def test_cancels_at_servers_that_drain(make_servers: MakeServers) -> None:
    draining = make_servers(DRAIN_S="60", LEASE_S="2")
    others = make_servers(store=draining.store, LEASE_S="2")
    await asyncio.to_thread(draining.start)
    await asyncio.to_thread(others.start, "rest")
    await asyncio.gather(*(check(word, draining, others) for word in WORDS))
    assert not draining.errors()


async def check(word: str, draining: Servers, others: Servers) -> None:
    """Cancel at one server, on each of its wires, by a new connection."""
    server = draining[word]
    async with aclosing(server.client()) as client, aclosing(others["rest"].client()) as other:
        own = await client.start(Ask(text="/slow 60 mine"))
        server.send(signal.SIGTERM)

        async def drains() -> bool:
            return bool((await client.health())["status"] != "ok")

        await until(drains)
        for wire in WIRES:
            if wire.word == word:
                theirs = await other.start(Ask(text="/slow 60 theirs"))
                refused = await wire.ask(server, "cancel", turn_id=theirs.turn_id)
                assert (refused.code, refused.status) == ("shutting_down", _REFUSED.get(wire.name, 503)), wire
                # The cancel is recorded, and sent again it gets the usual answer.
                assert (await other.cancel(theirs.turn_id)).status == "cancelled"
        try:
            assert (await client.cancel(own.turn_id)).status == "cancelled"
        except ServerAbsent:
            # The cancel was answered on the WebSocket. The client asks for the turn by a new connection, and the server has ended.
            assert word == "websocket"
            assert (await other.get_turn(own.turn_id)).status == "cancelled"
    # Nothing runs any more, so the drain ends before its time.
    await until(lambda: server.process.returncode is not None)
    assert await draining.signal(word) == 0
