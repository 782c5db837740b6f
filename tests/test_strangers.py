"""What the five clients say when another program answers at the address: at once, in one line, without a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protocols import TRANSPORTS
from protocols.ports import free_port
from shared.client.protocol import ChatClient, Item, Lost, Reconnected, collect
from shared.client.strangers import stranger_at
from shared.errors import ChatError, ConnectionLost, NotOurServer
from shared.events import Chunk, TurnCompleted
from tests.conftest import WORDS, Servers
from tests.parts import part
from tests.proxies import proxy

HTML = b"<!doctype html>\n<title>Welcome to nginx!</title>\n"
BAD_GATEWAY = b"<html><title>502 Bad Gateway</title></html>"
# The other program's answer to any request, and what the client's line must name.
KINDS: dict[str, tuple[bytes, str]] = {
    "redirect": (
        b"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://chat.example/\r\nContent-Length: 0\r\n\r\n",
        r"308, a redirect to https://chat\.example/",
    ),
    "login": (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", r"302, a redirect to /login"),
    "page": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(HTML), HTML),
        r'200 with an HTML page "Welcome to nginx!"',
    ),
    "endless page": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML * 5_000, r"an HTML page"),
    "json": (
        b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n{"detail":"Not Found"}',
        r"404 with application/json",
    ),
    "other error": (
        b"HTTP/1.1 500 Oops\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\noops",
        r"500 with text/plain",
    ),
    "no http": (b"220 mail.example ESMTP ready\r\n", r"does not speak HTTP"),
    "tls": (b"\x15\x03\x01\x00\x02\x02\x46", r"expects TLS"),
}
# The clients: one of each transport, and the gRPC client for the port for pages.
CLIENTS = (*WORDS, "grpc-web")
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[str]:
    """Run a TCP server that treats each connection with ``answer``. Yields its address."""

    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if connections:
        await asyncio.wait(connections)


def always(data: bytes) -> Answer:
    """Answer every request, and any other bytes, with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(data)
            await writer.drain()
            if b"Content-Length" not in data:
                return

    return answer


@pytest.fixture(params=CLIENTS)
def word(request: pytest.FixtureRequest) -> str:
    """The word of each client in turn."""
    return str(request.param)


def client_at(word: str, address: str) -> ChatClient:
    """A client at any address."""
    if word == "grpc-web":
        part("connectrpc")
        return TRANSPORTS["grpc"].page_client(address)
    return TRANSPORTS[word].client(address)


async def refused(word: str, address: str) -> NotOurServer:
    """What a chat raises at the first try."""
    async with asyncio.timeout(15):
        client = client_at(word, address)
        try:
            with pytest.raises(NotOurServer) as caught:
                await collect(client.chat("hello"))
            assert client.counts.lost == 0
        finally:
            await client.aclose()
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stranger_is_named_at_once(word: str, kind: str) -> None:
    data, named = KINDS[kind]
    async with listening(always(data)) as address:
        error = await refused(word, address)
    assert address in error.message
    assert re.search(named, error.message), error.message


async def test_a_program_that_says_nothing_is_not_named() -> None:
    """A server that stands still looks like this. Nothing tells whether it speaks TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass

    async with listening(answer) as address:
        assert await stranger_at(address, "sse") is None


@pytest.mark.parametrize("word", [word for word in WORDS if TRANSPORTS[word].scheme == "http"])
async def test_a_damaged_compressed_answer_is_named(word: str) -> None:
    types = {"rest": b"application/json", "ndjson": b"application/x-ndjson", "sse": b"text/event-stream"}
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 12\r\nContent-Type: "
    async with listening(always(head + types.get(word, b"text/plain") + b"\r\n\r\nnot gzip, no")) as address:
        error = await refused(word, address)
    assert address in error.message


@pytest.mark.parametrize("found", WORDS)
async def test_another_transports_port_is_named(servers: Servers, word: str, found: str) -> None:
    if found == word:
        return
    address = servers[found].address
    error = await refused(word, address)
    port = address.rpartition(":")[2]
    assert error.message == (
        f"{address} is the {found} server, not the {word} server; use: python -m protocols chat {found} --port {port}"
    )
    async with servers[found].client() as client:
        assert (await collect(client.chat("hello"))).status == "completed"


@pytest.mark.parametrize("kind", ["page", "json", "redirect", "no http"])
async def test_health_and_ping_of_a_stranger_are_a_sentence(word: str, kind: str) -> None:
    data, _ = KINDS[kind]
    async with listening(always(data)) as address:
        client = client_at(word, address)
        for ask in (client.health, client.ping, client.stats):
            with pytest.raises(ConnectionLost):
                await ask()
        await client.aclose()


async def test_the_port_for_pages_is_named(servers: Servers, word: str) -> None:
    part("connectrpc")
    address = str(servers["grpc"].page_url).rpartition("/")[2]
    if word == "grpc-web":
        async with client_at(word, address) as client:
            assert (await collect(client.chat("hello"))).status == "completed"
        return
    error = await refused(word, address)
    assert f"{address} is the grpc server's port for pages, not the {word} server" in error.message
    assert "python -m protocols chat grpc" in error.message


@pytest.mark.parametrize("word", [word for word in WORDS if TRANSPORTS[word].scheme == "http"])
@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_gateway_that_cannot_reach_the_server_is_a_lost_connection(
    servers: Servers, word: str, status: int
) -> None:
    """Twice the proxy finds no server behind it. Then it finds the server, and the same turn has its one reply."""
    host, _, port = servers[word].address.partition(":")
    refusals = iter([True, True])
    head = f"HTTP/1.1 {status} Bad\r\nContent-Type: text/html\r\nContent-Length: {len(BAD_GATEWAY)}\r\n\r\n".encode()

    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = await reader.readuntil(b"\r\n\r\n")
        if next(refusals, False):
            writer.write(head + BAD_GATEWAY)
            await writer.drain()
            return
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        up_writer.write(begun)
        await asyncio.gather(copied(reader, up_writer), copied(up_reader, writer))

    async with listening(gateway) as address:
        client = TRANSPORTS[word].client(address)
        items = [item async for item in client.chat("hello")]
        await client.aclose()
    assert [type(item) for item in items[:2]] == [Lost, Reconnected]
    assert f"a gateway answered {status}" in items[0].why  # type: ignore[union-attr]
    assert len(items) == 3 if word == "rest" else isinstance(items[-1], TurnCompleted)


# An HTTP/2 gateway that answers plain HTTP in place of gRPC: once, or always.
GRPC_GATEWAY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend in
    bind 127.0.0.1:{port}
    stick-table type ip size 10 store http_req_cnt
    http-request track-sc0 src
    {answer}
    default_backend chat
backend chat
    server one {target} proto h2
"""
REFUSED_ONCE = 'http-request return status {} content-type text/html string "Bad" if {{ sc0_http_req_cnt lt 3 }}'


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_gateways_plain_answer_to_a_grpc_client_is_a_lost_connection(
    servers: Servers, status: int, tmp_path: Path
) -> None:
    """The chat and the client's look at ``/health`` are refused; then the gateway reaches the server."""
    part("haproxy")
    port = free_port()
    lines = GRPC_GATEWAY.format(port=port, answer=REFUSED_ONCE.format(status), target=servers["grpc"].address)
    with proxy("haproxy", tmp_path, port, lines) as address:
        client = TRANSPORTS["grpc"].client(address)
        items = [item async for item in client.chat("hello")]
        await client.aclose()
    assert [type(item) for item in items[:2]] == [Lost, Reconnected]
    # The library tells the status or that the answer has no trailers, whichever of the two it reads first.
    assert items[0].why in (f"a gateway answered {status}", "a gateway answered with plain HTTP")  # type: ignore[union-attr]
    assert isinstance(items[-1], TurnCompleted)


async def test_a_redirect_of_an_http2_server_is_named(servers: Servers, tmp_path: Path) -> None:
    part("haproxy")
    port = free_port()
    redirect = "http-request redirect location /login"
    lines = GRPC_GATEWAY.format(port=port, answer=redirect, target=servers["grpc"].address)
    with proxy("haproxy", tmp_path, port, lines) as address:
        assert "302, a redirect" in str(await refused("grpc", address))


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_what_a_proxy_refuses_by_itself_keeps_its_meaning() -> None:
    """A status that has a row of its own in the table, without a problem+json body."""
    for status, code in ((401, "unauthenticated"), (403, "permission_denied"), (429, "rate_limited")):
        data = f"HTTP/1.1 {status} No\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n".encode()
        async with listening(always(data)) as address:
            client = TRANSPORTS["sse"].client(address)
            with pytest.raises(ChatError) as caught:
                await collect(client.chat("hello"))
            await client.aclose()
        assert caught.value.code == code


async def test_a_stranger_in_the_middle_of_a_turn_is_a_lost_connection(servers: Servers) -> None:
    """A captive portal answers for a while: the turn goes on when the server is reached again."""
    host, _, port = servers["ndjson"].address.partition(":")
    connections = iter(range(100))

    async def portal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(connections)
        if number in (1, 2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(KINDS["login"][0].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            return
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        up = asyncio.create_task(copied(reader, up_writer))
        seen = b""
        while data := await up_reader.read(65_536):
            seen += data
            writer.write(data)
            if number == 0 and seen.count(b'"chunk"') >= 5:
                break
        await writer.drain()
        writer.transport.abort() if number == 0 else writer.close()
        up_writer.close()
        await asyncio.wait((up,))

    items: list[Item] = []
    async with listening(portal) as address, TRANSPORTS["ndjson"].client(address) as client:
        async for item in client.chat("/tokens 20 /stall 0.5 hello"):
            items.append(item)
    assert [type(item) for item in items if isinstance(item, Lost | Reconnected)] == [Lost, Reconnected]
    assert sum(isinstance(item, Chunk) for item in items) == 20
