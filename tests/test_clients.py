"""The five clients with a good server: leaving early, and the connections that stay open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest

from compare.lines.relay import Relay
from protocols import TRANSPORTS
from shared.client.following import _read_end
from shared.client.protocol import ChatClient, Lost, Reconnected, collect
from shared.errors import ConnectionLost
from tests.conftest import Servers, until

STREAMING = [word for word, transport in TRANSPORTS.items() if transport.tokens]
HOLDING_WORDS = "/tokens 20 /stall 60 hello"
_ESTABLISHED = "01"


def open_connections(address: str) -> int:
    """How many TCP connections to this address are established in this machine's kernel now."""
    port = int(address.rpartition(":")[2])
    # gRPC uses IPv6 sockets for IPv4, too.
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    rows = [line.split() for line in lines]
    return sum(row[3] == _ESTABLISHED and int(row[2].rpartition(":")[2], 16) == port for row in rows)


def running_calls() -> list[object]:
    """The gRPC calls of this process that have not ended."""
    calls = [each for each in gc.get_objects() if type(each).__name__ in ("UnaryStreamCall", "StreamStreamCall")]
    return [call for call in calls if not call.done()]


@pytest.fixture
async def relay(servers: Servers, word: str) -> AsyncIterator[Relay]:
    """An address of its own, so that the connections to it are those of one client."""
    async with Relay(servers[word].address) as relay:
        yield relay


async def read_until(client: ChatClient, seq: int, reached: asyncio.Event) -> None:
    """Read a turn that stalls after its 20th chunk; ``reached`` is set at ``seq``. Never ends by itself."""
    async with aclosing(client.chat(HOLDING_WORDS)) as items:
        async for item in items:
            if getattr(item, "seq", 0) == seq:
                reached.set()


def assert_nothing_open(word: str, relay: Relay) -> None:
    """Check that no call is open on gRPC's connection, and that the other clients have closed their connections."""
    assert running_calls() == []
    assert open_connections(relay.address) == (1 if word == "grpc" else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
@pytest.mark.parametrize("word", STREAMING)
async def test_closing_the_stream_early_closes_what_is_under_it(word: str, relay: Relay) -> None:
    async with TRANSPORTS[word].client(relay.address) as client:
        async with aclosing(client.chat(HOLDING_WORDS)) as items:
            async for item in items:
                if getattr(item, "seq", 0) == 5:
                    break
            assert open_connections(relay.address) == 1
        assert_nothing_open(word, relay)
        before = client.counts.connections
        assert (await collect(client.chat("hello"))).status == "completed"
        assert client.counts.connections == (before if word == "grpc" else before + 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
async def test_cancelling_the_reader_closes_what_is_under_it(word: str, relay: Relay) -> None:
    """The reader's task ends only when the connection or call is closed; on plain REST it waits for its answer."""
    async with TRANSPORTS[word].client(relay.address) as client:
        reached = asyncio.Event()
        reading = asyncio.create_task(read_until(client, 5, reached))
        await (until(lambda: relay.up_bytes) if word == "rest" else reached.wait())
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        assert_nothing_open(word, relay)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
@pytest.mark.parametrize("word", ["websocket", "grpc"])
async def test_no_longer_watching_closes_what_is_under_it(word: str, servers: Servers, relay: Relay) -> None:
    async with (
        TRANSPORTS[word].client(relay.address) as client,
        servers[word].client() as other,
        servers["rest"].client() as maker,
    ):
        session = await maker.create_session()
        async with aclosing(client.watch(session.session_id)) as items:
            first: asyncio.Task[Any] = asyncio.create_task(anext(items))
            await until(lambda: is_joined(other, session.session_id))
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await first
        assert_nothing_open(word, relay)


async def is_joined(client: ChatClient, session_id: str) -> bool:
    return (await client.get_session(session_id)).connections == 1


async def test_leaving_one_of_two_turns_keeps_their_connection(servers: Servers) -> None:
    """A WebSocket carries both turns.

    The turn that goes on keeps the connection; events of the other turn are dropped.
    """
    async with servers["websocket"].client() as client:
        reached = asyncio.Event()
        left = asyncio.create_task(read_until(client, 5, reached))
        stays = asyncio.create_task(collect(client.chat("/tokens 20 /stall 0.5 stay")))
        await reached.wait()
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await left
        assert (await stays).status == "completed"
        assert (await collect(client.chat("hello"))).status == "completed"
        assert (client.counts.connections, client.counts.lost) == (1, 0)


async def test_grpc_counts_the_connections_that_there_were(servers: Servers) -> None:
    """A cut without a connection and a channel that never connected do not count. A reconnect of the library counts."""
    async with Relay(servers["grpc"].address) as relay:
        client = TRANSPORTS["grpc"].client(relay.address)
        await client.cut()
        assert client.counts.connections == 0
        await client.connect()
        await until(lambda: client.counts.connections == 1)
        relay.cut()
        await until(lambda: client.counts.connections == 1 and open_connections(relay.address) == 0)
        assert (await collect(client.chat("hello"))).status == "completed"
        assert client.counts.connections == 2 == len(relay.connections)
        await client.aclose()
    unreachable = TRANSPORTS["grpc"].client("127.0.0.1:1")
    with pytest.raises(ConnectionLost):
        await unreachable.connect()
    assert unreachable.counts.connections == 0


async def test_a_late_end_of_an_answer_leaves_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP client closes old idle connections in the task that ends an answer, where a time limit may strike."""
    monkeypatch.setattr("shared.client.following._END_S", 1.7)
    answering: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
                await asyncio.sleep(1.5 if b" /late " in head else 0.1)
                writer.write(b"k")
        writer.transport.abort()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            stream = await anyio.connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1])
            close = type(stream).aclose

            async def close_slowly(one: anyio.abc.SocketStream) -> None:
                await asyncio.sleep(0.1)
                await close(one)

            await stream.aclose()
            monkeypatch.setattr(type(stream), "aclose", close_slowly)
            limits = httpx.Limits(max_connections=None, keepalive_expiry=0.1)
            async with (
                httpx.AsyncClient(base_url=f"http://{address}", timeout=60, limits=limits) as client,
                client.stream("GET", "/late") as late,
            ):
                await asyncio.gather(*(client.get("/") for _ in range(10)))
                await _read_end(late.aiter_raw())  # type: ignore[arg-type]
            await asyncio.gather(*(task for task in answering if task is not None))
            await asyncio.sleep(0)
            gc.collect()
    assert not told


@pytest.mark.parametrize("word", ["ndjson", "sse", "websocket"])
async def test_a_stream_that_the_server_cuts_is_resumed(servers: Servers, word: str) -> None:
    """On a WebSocket the connection ends: a stream that only stopped would be waited for without an end."""
    address = servers[word].address
    items: list[object] = []
    async with TRANSPORTS[word].client(address) as client, httpx.AsyncClient(trust_env=False) as http:
        async for item in client.chat("/tokens 20 /stall 1 hello"):
            items.append(item)
            if getattr(item, "seq", 0) == 11:
                cut = await http.post(f"http://{address}/turns/{item.turn_id}/cut")  # type: ignore[union-attr]
                assert cut.status_code == 204
    assert [type(item) for item in items if isinstance(item, Lost | Reconnected)] == [Lost, Reconnected]
    assert [item.seq for item in items if hasattr(item, "seq")] == list(range(1, 23))


@dataclass
class Listening:
    """A server that keeps every connection open until its client closes it."""

    address: str = ""
    opened: int = 0
    open: int = 0


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    found = Listening()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.opened += 1
        found.open += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b" /health " in head:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n" + b'{"status":"ok"}')
        found.open -= 1
        writer.transport.abort()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        found.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield found


async def test_a_tls_handshake_that_is_cancelled_leaves_no_connection_open(listening: Listening) -> None:
    async with TRANSPORTS["ndjson"].client(listening.address, tls=True) as client:
        asking = asyncio.create_task(client.health())
        await until(lambda: listening.open)
        asking.cancel()
        await asyncio.wait([asking])
    await until(lambda: not listening.open)


async def test_a_request_that_connects_while_the_client_is_closed_leaves_no_connection_open(
    listening: Listening,
) -> None:
    for steps in range(20):
        client = TRANSPORTS["ndjson"].client(listening.address)
        asking = asyncio.create_task(client.health())
        for _ in range(steps):
            await asyncio.sleep(0)
        await client.aclose()
        await asyncio.wait([asking])
        asking.exception()
        await until(lambda: not listening.open)
    assert listening.opened
