"""What an unauthenticated peer may send: sizes on HTTP and WebSocket, and that no peer holds up the others."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
from collections.abc import Iterator

import pytest

from tests.conftest import KEY, Servers
from tests.faults.attacks import ATTACKS, fragments, websocket_frame, websocket_open
from tests.faults.bombs import bombs
from tests.raw_http import exchange, line, status_of
from tests.raw_websocket import raw

HTTP = ("rest", "ndjson", "sse", "websocket")
KIB = 1024


def head(servers: Servers, word: str, target: str = "/health", extra: bytes = b"") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {servers[word].address}\r\nConnection: close\r\n".encode() + extra + b"\r\n"


@pytest.mark.parametrize("word", HTTP)
@pytest.mark.parametrize(
    ("extra", "status"),
    [
        (b"X-A: " + b"a" * 60 * KIB + b"\r\n", 200),
        (b"X-A: " + b"a" * 70 * KIB + b"\r\n", 431),
        (b"".join(b"X-%04d: %s\r\n" % (i, b"b" * 50) for i in range(1000)), 200),
        (b"".join(b"X-%04d: %s\r\n" % (i, b"b" * 50) for i in range(1300)), 431),
        (b"X-A: " + b"a" * 3_000_000 + b"\r\n", 431),
    ],
    ids=["60 KiB", "70 KiB", "1,000 headers", "1,300 headers", "3 MB"],
)
async def test_a_head_is_at_most_64_kib(servers: Servers, word: str, extra: bytes, status: int) -> None:
    answer = await exchange(servers, word, head(servers, word, extra=extra))
    assert status_of(answer) == status
    if status == 431:
        assert b"\r\ncache-control: no-store\r\n" in answer


@pytest.mark.parametrize("word", HTTP)
async def test_a_path_that_is_too_long_is_414(servers: Servers, word: str) -> None:
    assert status_of(await exchange(servers, word, head(servers, word, "/" + "p" * 60 * KIB))) == 404
    assert status_of(await exchange(servers, word, head(servers, word, "/" + "p" * 70 * KIB))) == 414


async def test_trailers_and_the_lines_around_chunks_are_limited(servers: Servers) -> None:
    opening = head(servers, "rest", "/echo").replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"message": "/tokens 1 hello"}' * 3000)
    assert status_of(await exchange(servers, "rest", opening + body + b"0\r\n\r\n")) == 200
    trailers = b"".join(b"X-%05d: %s\r\n" % (i, b"t" * 50) for i in range(2000))
    async with line(servers, "rest") as connection:
        connection.writer.write(opening + b"2\r\n{}\r\n0\r\n" + trailers)
        async with asyncio.timeout(30):
            assert b" 200 " not in await connection.reader.read()


async def test_pipelined_requests_are_answered_in_order_and_one_at_a_time(servers: Servers) -> None:
    async with line(servers, "rest") as connection:
        for number in range(300):
            connection.writer.write(
                f"GET /turns/{number} HTTP/1.1\r\nHost: {servers['rest'].address}\r\nX-Pad: {'p' * 200}\r\n\r\n".encode()
            )
        connection.writer.write(head(servers, "rest"))
        async with asyncio.timeout(60):
            answers = await connection.reader.read()
    assert answers.count(b"HTTP/1.1 404 ") == 300
    assert answers.count(b"HTTP/1.1 200 ") == 1


async def test_a_message_has_at_most_4096_fragments(servers: Servers) -> None:
    async with raw(servers["websocket"]) as connection:
        ping = b'{"type": "ping"}'
        connection.write(websocket_frame(1, b"", fin=False) + websocket_frame(0, b"", fin=False) * 4000)
        connection.write(websocket_frame(0, ping))
        await connection.hear("pong")
        units: Iterator[bytes] = fragments(b"", 5000)()
        connection.write(next(units) + next(units))
        assert await connection.closed() == 1009


async def test_before_the_ticket_a_message_is_at_most_64_kib(keyed: Servers) -> None:
    long = json.dumps({"type": "chat", "message": "/tokens 1 " + "long " * 20_000})
    async with raw(keyed["websocket"], connected=False) as connection:
        connection.text(long)
        assert await connection.closed() == 1009
    async with raw(keyed["websocket"], headers={"X-API-Key": KEY}) as connection:
        connection.text(long)
        assert (await connection.turn())[-1]["type"] == "turn_completed"


@pytest.mark.parametrize("extra", [b"X-A: 1\r\n" * 200, b"Cookie: " + b"c" * 9000 + b"\r\n"], ids=["many", "long"])
async def test_a_handshake_with_too_many_headers_is_431(servers: Servers, extra: bytes) -> None:
    handshake = websocket_open(servers["websocket"].address).replace(
        b"Upgrade: websocket", extra + b"Upgrade: websocket"
    )
    assert status_of(await exchange(servers, "websocket", handshake)) == 431


async def test_frames_before_the_handshake_end_the_connection(servers: Servers) -> None:
    address = servers["websocket"].address
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    handshake = head(servers, "websocket", "/ws").replace(b"Connection: close", b"Connection: Upgrade")[:-2]
    handshake += (
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\n\r\n"
    )
    writer.write(handshake + b"\x8a\x05" * 4000)
    async with asyncio.timeout(30):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1_000_000)
    writer.close()


@pytest.mark.parametrize(("word", "name"), [("rest", "pipeline: unread"), ("websocket", "pings: unread")])
async def test_who_does_not_read_is_not_read(servers: Servers, word: str, name: str) -> None:
    """The server's answers fill the buffers on the way.

    Then the client's requests fill the buffers in the other direction.
    """
    host, _, port = servers[word].address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=KIB)
    if word == "websocket":
        writer.write(websocket_open(servers[word].address))
        await reader.readuntil(b"\r\n\r\n")
    units = itertools.islice(ATTACKS[name].units(), 3000)
    with pytest.raises(TimeoutError):
        for data in units:
            writer.write(data)
            async with asyncio.timeout(3):
                await writer.drain()
    writer.transport.abort()
    assert status_of(await exchange(servers, word, head(servers, word))) == 200


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("head: many headers", "ndjson"),
        ("body: tiny chunks", "sse"),
        ("pipeline: unread", "rest"),
        ("fragments: empty", "websocket"),
        ("rapid reset", "grpc"),
        ("calls: unread", "grpc"),
    ],
)
async def test_one_peer_without_a_key_holds_up_nobody(name: str, word: str) -> None:
    """Half of the probes count, because this machine may be busy. ``python -m tests.faults bombs`` measures the p99."""
    async for measured in bombs([name], [word], 1.5):
        assert measured.alive, measured
        assert statistics.median(measured.beside_ms) <= measured.bound_ms, measured
        assert measured.after_mib <= measured.before_mib + 64, measured
