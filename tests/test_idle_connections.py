"""Connections between two requests: how long the HTTP servers keep them, what does not hold them, and how many there may be."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, StreamReset
from h2.settings import SettingCodes

from protocols.processes import Server, serving
from shared.config import Settings
from tests.conftest import FAST, MakeServers, Servers
from tests.parts import part
from tests.raw_http import line, status_of
from tests.test_http2 import line as http2_line

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
# The longest default of a proxy that closes its idle connections to a server: Caddy's. nginx and AWS' ALB have 60 s.
LONGEST_OF_A_PROXY_S = 120


@pytest.fixture(scope="module")
def brief(make_servers: MakeServers) -> Servers:
    """Servers that keep an idle connection for a second only."""
    return make_servers(KEEP_ALIVE_S="1", OFFLINE_TOKENS_PER_S="40")


@pytest.fixture(scope="module")
def brief_http2(make_servers: MakeServers) -> Server:
    """The same with HTTP/2; a reader may stall for two seconds."""
    part("zttp")
    return make_servers(KEEP_ALIVE_S="1", STALL_TIMEOUT_S="2", HTTP2="on")["ndjson"]


async def answered(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer whose body, of the length in the head, is read too."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
    return head


def test_a_proxy_closes_its_idle_connections_first() -> None:
    assert Settings(_env_file=None).keep_alive_s > LONGEST_OF_A_PROXY_S


@pytest.mark.parametrize("filler", [b"", b"\r\n"])
async def test_an_idle_connection_is_closed(filler: bytes, brief: Servers) -> None:
    """Empty lines before a request are ignored (RFC 9112, section 2.2), and hold no connection."""
    async with line(brief, "ndjson") as connection:
        connection.writer.write(GET)
        await answered(connection.reader)
        async with asyncio.timeout(20):
            while True:
                connection.writer.write(filler)
                try:
                    async with asyncio.timeout(0.2):
                        assert await connection.reader.read() == b""
                        break
                except TimeoutError:
                    continue
                except ConnectionResetError:
                    break


async def test_a_request_that_began_before_the_answer_to_the_one_before_it_is_not_cut(brief: Servers) -> None:
    """The time of an idle connection begins with an answer, and must end with the request that is half there already."""
    body = json.dumps({"message": "/tokens 3 /stall 2 hello"}).encode()
    head = b"POST /chat/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    async with line(brief, "ndjson") as connection, asyncio.timeout(20):
        connection.writer.write(GET + head)
        await answered(connection.reader)
        connection.writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        streamed = await connection.reader.read()
    assert status_of(streamed) == 200
    assert b'"turn_completed"' in streamed


async def test_ping_does_not_hold_a_connection_of_http2(brief_http2: Server) -> None:
    async with http2_line(brief_http2) as one, asyncio.timeout(20):
        assert (await one.answer(one.ask("GET", "/health")))[0] == 200
        while not (ended := [event for event in one.events if isinstance(event, ConnectionTerminated)]):
            one.h2.ping(b"in a row")
            one.flush()
            assert await one.read()
    assert ended[0].error_code == ErrorCodes.NO_ERROR


async def test_the_last_bytes_of_an_answer_wait_for_the_reader_on_http2(brief_http2: Server) -> None:
    """An answer is whole in the server, and its reader takes a small part: one reader goes on late, another never does."""
    async with http2_line(brief_http2) as one, asyncio.timeout(30):
        one.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
        one.flush()
        stalled = one.chat("/tokens 5 hello")
        one.unread.add(stalled)
        await one.until(DataReceived, stalled)
        assert (await one.until(StreamReset, stalled)).error_code == ErrorCodes.CANCEL
        # The connection was not idle meanwhile, though KEEP_ALIVE_S was over.
        assert (await one.answer(one.ask("GET", "/health")))[0] == 200
        late = one.chat("/tokens 5 hello")
        one.unread.add(late)
        await one.until(DataReceived, late)
        one.h2.increment_flow_control_window(65_000, late)
        one.flush()
        status, body = await one.answer(late)
    assert (status, body.count(b'"chunk"')) == (200, 5)


@asynccontextmanager
async def opened(server: Server, sent: bytes) -> AsyncIterator[asyncio.StreamReader]:
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        yield reader
    finally:
        writer.transport.abort()


async def test_a_stopping_server_closes_its_idle_connections_at_once() -> None:
    part("zttp")
    async with (
        serving("ndjson", arguments=["--http2"], env={**FAST, "STORE_URL": "sqlite://"}) as server,
        opened(server, GET) as used,
        opened(server, b"") as new,
        http2_line(server) as one,
    ):
        await answered(used)
        assert (await one.answer(one.ask("GET", "/health")))[0] == 200
        # A server that waited for them would be killed.
        assert await server.stop(signal.SIGTERM) == 0
        assert (await used.read(), await new.read()) == (b"", b"")
        await one.until(ConnectionTerminated)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of open files to set")
async def test_idle_connections_leave_descriptors_for_others() -> None:
    """A server that may open 120 files keeps 60 idle connections: a further one closes the one that has waited longest."""
    limited = [str(shutil.which("sh")), "-c", 'ulimit -n 120; exec "$@"', "sh"]
    env = {**FAST, "STORE_URL": "sqlite://"}
    async with serving("rest", env=env, within=limited) as server, AsyncExitStack() as stack, asyncio.timeout(60):
        held = []
        for _ in range(150):
            reader = await stack.enter_async_context(opened(server, GET))
            assert b" 200 " in await answered(reader)
            held.append(reader)
        for reader in held[:90]:
            assert await reader.read() == b""
        assert not any(reader.at_eof() for reader in held[90:])
