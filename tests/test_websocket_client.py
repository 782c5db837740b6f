"""The WebSocket client of this project against a real server: one connection for many turns, cuts, watching, cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from protocols.processes import Server
from protocols.websocket.server import TICKET_S
from shared.client.protocol import Ask, ChatClient, Lost, Reconnected, collect, collect_picture
from shared.errors import ChatError, ConnectionLost, ServerAbsent
from shared.events import Chunk, TurnCancelled, TurnStarted
from shared.session import SessionUpdate
from tests.conftest import KEY, Connect, MakeServers, Servers, until


@pytest.fixture
def server(servers: Servers) -> Server:
    """The shared server."""
    return servers["websocket"]


async def test_client_holds_one_connection(client: Connect, server: Server) -> None:
    one = await client("websocket")
    before = (await one.stats()).connections_active
    replies = await asyncio.gather(*(collect(one.chat(f"/tokens 100 turn {number}")) for number in range(8)))
    assert len({reply.session_id for reply in replies}) == 8
    picture = await collect_picture(one.image("a pond", size="256x256"))
    assert await one.get_image(picture.image_id) == picture.image
    assert await one.ping() > 0
    assert (await one.stats()).connections_active == before
    assert one.holds_connection


async def test_client_resumes_every_turn_after_a_cut(client: Connect) -> None:
    one = await client("websocket")

    async def follow(number: int) -> tuple[list[int], list[str]]:
        seqs, notes = [], []
        async for item in one.chat(f"/tokens 40 /stall 0.3 turn {number}"):
            if isinstance(item, Lost | Reconnected):
                notes.append(type(item).__name__)
            else:
                assert not isinstance(item, Ask)
                seqs.append(getattr(item, "seq", 0))
                if number == 0 and seqs[-1] == 10:
                    await one.cut()
        return seqs, notes

    for seqs, notes in await asyncio.gather(*(follow(number) for number in range(3))):
        assert seqs == list(range(1, 43))
        assert notes == ["Lost", "Reconnected"]


async def test_client_watches_a_session(client: Connect) -> None:
    one, two = await client("websocket"), await client("websocket")
    session = await one.create_session()
    seen: list[Any] = []

    async def watch() -> None:
        async with aclosing(two.watch(session.session_id)) as items:
            async for item in items:
                seen.append(item)

    watching = asyncio.create_task(watch())

    async def joined() -> bool:
        return (await one.get_session(session.session_id)).connections == 2

    await until(joined)
    await one.typing(session.session_id, True)
    await until(lambda: seen)
    assert seen == [SessionUpdate(session_id=session.session_id, update_type="user_typing", typing=True)]
    reply = await collect(one.chat("hello", session_id=session.session_id))
    # A client's own turn is not shown to its watcher, and making a session does not leave the watched session.
    await collect(two.chat("/tokens 3 me too", session_id=session.session_id))
    await two.create_session()
    await one.typing(session.session_id, False)
    await until(lambda: isinstance(seen[-1], SessionUpdate) and seen[-1].typing is False)
    started = [item for item in seen if isinstance(item, TurnStarted)]
    assert [item.turn_id for item in started] == [reply.turn_id]
    assert "".join(item.text for item in seen if isinstance(item, Chunk)) == reply.text
    # A replay on the same connection shows nothing twice.
    assert (await collect(two.read(reply.turn_id))) == reply
    assert [item for item in seen if isinstance(item, TurnStarted)] == started
    with pytest.raises(ChatError, match="watches another session"):
        await two.typing((await one.create_session()).session_id, True)
    await two.cut()
    with pytest.raises(ConnectionLost):
        await watching


async def test_client_leaves_early(make_servers: MakeServers, client: Connect) -> None:
    """A client that stops reading leaves the turn, as on every other transport.

    The turn ends after the grace period.
    """
    own = make_servers(DISCONNECT_GRACE_S="0.3")
    one = await client("websocket", on=own)
    async with aclosing(one.chat("/tokens 20 /stall 60 hello")) as items:
        async for item in items:
            if getattr(item, "seq", 0) == 5:
                turn_id: str = item.turn_id  # type: ignore[union-attr]
                break

    async def cancelled() -> bool:
        return (await one.get_turn(turn_id)).status == "cancelled"

    await until(cancelled)
    assert (await collect(one.chat("hello"))).status == "completed"


async def test_client_cancels(client: Connect) -> None:
    one = await client("websocket")
    last = None
    async for item in one.chat("/tokens 20 /stall 60 hello"):
        last = item
        if isinstance(item, Chunk) and item.seq == 11:
            states = await asyncio.gather(*(one.cancel(item.turn_id) for _ in range(2)))
            assert [state.status for state in states] == ["cancelled", "cancelled"]
    assert isinstance(last, TurnCancelled)
    with pytest.raises(ChatError, match="turn_not_found"):
        await one.cancel("nothing")


async def test_client_same_key_twice_at_once(client: Connect) -> None:
    one = await client("websocket")
    asks = [collect(one.chat("/tokens 40 /stall 0.3 hello", request_id=f"twice-{id(one)}")) for _ in range(2)]
    first, second = await asyncio.gather(*asks)
    assert first == second


async def test_client_too_large_costs_the_others_nothing(client: Connect, make_servers: MakeServers) -> None:
    own = make_servers(MAX_BODY_BYTES="20000")
    one = await client("websocket", on=own)
    running = asyncio.create_task(collect(one.chat("/tokens 40 /stall 1 hello")))
    await until(lambda: one.counts.bytes_received > 1000)
    with pytest.raises(ChatError, match="payload_too_large"):
        await collect(one.chat("x" * 30_000))
    assert (await running).status == "completed"
    assert one.counts.lost == 1


async def test_client_keys(keyed: Servers) -> None:
    server = keyed["websocket"]
    async with server.client(key=KEY) as one:
        assert (await collect(one.chat("hello"))).status == "completed"
    with pytest.raises(ChatError, match="unauthenticated"):
        async with server.client(key="wrong"):
            pass
    # Without a key the client does not wait until the server no longer waits for a ticket.
    with pytest.raises(ChatError, match="unauthenticated"):
        async with asyncio.timeout(TICKET_S), server.client():
            pass


async def test_client_without_a_server(unused: Callable[[], str]) -> None:
    from protocols import TRANSPORTS

    with pytest.raises(ServerAbsent):
        await TRANSPORTS["websocket"].client(unused()).connect()


@pytest.fixture
def unused() -> Callable[[], str]:
    """An address at which no program listens."""
    import socket

    def find() -> str:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{sock.getsockname()[1]}"

    return find


@pytest.mark.parametrize("transport", ["rest", "ndjson", "sse"])
async def test_who_holds_no_connection_cannot_watch(client: Connect, transport: str) -> None:
    one: ChatClient = await client(transport)
    with pytest.raises(ChatError, match="holds no connection"):
        one.watch("any")
    with pytest.raises(ChatError, match="holds no connection"):
        await one.typing("any", True)
