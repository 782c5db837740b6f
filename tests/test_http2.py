"""HTTP/2 on rest, ndjson, sse and the port for pages: curl, h2load, and a client of the library h2 that behaves badly."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.events import Event as FrameEvent

from compare.measuring.http2_sender import http2_sender
from protocols import TRANSPORTS
from protocols.processes import Server, serving
from shared.client.protocol import Item, Lost, Reconnected, collect, collect_picture
from shared.config import Settings
from shared.errors import ChatError
from shared.events import Event
from shared.server.launch import open_context
from tests.certificates import ca_file, tls_settings
from tests.conftest import FAST, MakeServers, Servers, until
from tests.parts import part

ROOT = Path(__file__).parent.parent
STREAMING = ["ndjson", "sse"]


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    part("zttp")


@pytest.fixture(scope="module")
def both(make_servers: MakeServers) -> Iterator[Servers]:
    """The servers with HTTP/2 beside HTTP/1.1."""
    servers = make_servers(HTTP2="on")
    yield servers
    assert not servers.errors()


class Http2Line:
    """A connection of the library h2. ``window``: what each stream may bring before this client gives it more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self.reader, self.writer, self.authority = reader, writer, authority
        self.h2 = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        self.h2.initiate_connection()
        self.events: list[FrameEvent] = []
        self.closed = False
        # Streams that are given no more room.
        self.unread: set[int] = set()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str | None] | None = None) -> int:
        """Send a request; its stream."""
        stream = self.h2.get_next_available_stream_id()
        given: dict[str, str | None] = {
            ":method": method, ":scheme": "http", ":path": path, ":authority": self.authority,
            "content-type": "application/json" if body else None, **(headers or {}),
        }  # fmt: skip
        self.h2.send_headers(stream, [(name, value) for name, value in given.items() if value is not None], not body)
        if body:
            self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def chat(self, message: str) -> int:
        return self.ask("POST", "/chat/stream", json.dumps({"message": message}).encode())

    def reset(self, stream: int) -> None:
        self.h2.reset_stream(stream, ErrorCodes.CANCEL)
        self.flush()

    async def read(self) -> bool:
        """Read what arrives next. False at the end of the connection."""
        try:
            data = await self.reader.read(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, DataReceived) and event.stream_id not in self.unread and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return True

    async def until(self, kind: type[FrameEvent], stream: int | None = None) -> Any:
        """The first event of a kind, on a stream."""
        async with asyncio.timeout(30):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and (stream is None or getattr(event, "stream_id", None) == stream):
                        return event
                if not await self.read():
                    raise EOFError(f"closed before {kind.__name__}")

    async def until_closed(self) -> None:
        async with asyncio.timeout(30):
            while await self.read():
                pass

    def body(self, stream: int) -> bytes:
        return b"".join(e.data for e in self.events if isinstance(e, DataReceived) and e.stream_id == stream)

    async def answer(self, stream: int) -> tuple[int, bytes]:
        """Status and body of an answer, read to its end."""
        head = await self.until(ResponseReceived, stream)
        await self.until(StreamEnded, stream)
        return int(dict(head.headers)[b":status"]), self.body(stream)


@asynccontextmanager
async def line(server: Server) -> AsyncIterator[Http2Line]:
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Http2Line(reader, writer, server.address)
    finally:
        writer.transport.abort()


async def program(*command: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return (out + err).decode(errors="replace")


async def active(server: Server) -> int:
    async with server.client() as client:
        return (await client.stats()).streams_active


@pytest.mark.parametrize("word", ["rest", "ndjson", "sse"])
async def test_curl_chooses_the_version(both: Servers, word: str) -> None:
    curl, url = part("curl").path, f"{both[word].url}/health"
    for option, version in (("--http2-prior-knowledge", "2"), ("--http1.1", "1.1"), ("--http2", "1.1")):
        said = await program(curl, "-sS", option, "-w", " %{http_version}", url)
        assert said.endswith(f" {version}"), said
        assert word in said
    async with both[word].client() as client:
        assert (await collect(client.chat("hello"))).status == "completed"


async def test_tls_agrees_on_the_version(make_servers: MakeServers) -> None:
    secure = make_servers(HTTP2="on", **tls_settings())
    secure.start("ndjson", "websocket", "grpc")
    curl = (part("curl").path, "-sS", "--cacert", ca_file(), "-o", os.devnull, "-w", "%{http_version}")
    assert secure["ndjson"].log[0]["http"] == "2 and 1.1"
    assert await program(*curl, f"{secure['ndjson'].url}/health") == "2"
    assert await program(*curl, "--http1.1", f"{secure['ndjson'].url}/health") == "1.1"
    assert await program(*curl, f"{secure['grpc'].page_url}/health") == "2"
    # The WebSocket server says that it stays on HTTP/1.1, and does.
    assert str(secure["websocket"].log[0]["http"]).startswith("1.1 alone")
    assert await program(*curl, f"{secure['websocket'].url}/health") == "1.1"
    async with secure["websocket"].client() as client:
        assert (await collect(client.chat("hello"))).status == "completed"


async def test_h2load_runs_a_hundred_streams_on_one_connection(both: Servers, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"message": "/tokens 12 hello"}')
    ask = ("-n", "200", "-c", "1", "-m", "100", "-d", str(body), "-H", "content-type: application/json")
    said = await program(part("h2load").path, *ask, f"{both['ndjson'].url}/chat/stream")
    assert "200 succeeded, 0 failed, 0 errored, 0 timeout" in said, said


@pytest.mark.parametrize("word", STREAMING)
async def test_a_hundred_streams_run_at_once_and_one_reset_is_noticed(make_servers: MakeServers, word: str) -> None:
    server = make_servers(HTTP2="on")[word]
    async with line(server) as one:
        streams = [one.chat("/tokens 3 /stall 600 hello") for _ in range(100)]
        for stream in streams:
            await one.until(DataReceived, stream)
        assert await active(server) == 100
        for stream in streams[:60]:
            one.reset(stream)

        async def left() -> bool:
            return await active(server) == 40

        await until(left)
        assert (await one.answer(one.ask("GET", "/health")))[0] == 200


async def test_a_reader_that_reads_nothing_is_cut_and_the_other_streams_go_on(make_servers: MakeServers) -> None:
    server = make_servers(HTTP2="on", STALL_TIMEOUT_S="2")["ndjson"]
    async with line(server) as one:
        stalled = one.chat("/tokens 20000 hello")
        one.unread.add(stalled)
        await one.until(DataReceived, stalled)
        # The whole connection's window is more than the stalled stream can use up.
        one.h2.increment_flow_control_window(2**24)
        one.flush()
        other = one.chat("/tokens 3000 hello")
        status, body = await one.answer(other)
        assert (status, body.count(b'"chunk"')) == (200, 3000)
        assert (await one.until(StreamReset, stalled)).error_code == ErrorCodes.CANCEL
        assert len(one.body(stalled)) < 2 * 65536
        assert (await one.answer(one.ask("GET", "/health")))[0] == 200
    async with server.client() as client:
        assert (await client.stats()).streams_active == 0


async def test_a_slow_reader_gets_everything(make_servers: MakeServers) -> None:
    """The client gives room only when all room is used up: the app waits, and nothing is lost."""
    server = make_servers(HTTP2="on")["ndjson"]
    async with line(server) as one:
        slow = one.chat("/tokens 4000 hello")
        one.unread.add(slow)
        one.h2.increment_flow_control_window(2**24)
        one.flush()
        async with asyncio.timeout(60):
            given = 65535
            while not any(isinstance(event, StreamEnded) for event in one.events):
                if len(one.body(slow)) >= given:
                    given += 30_000
                    one.h2.increment_flow_control_window(30_000, slow)
                    one.flush()
                assert await one.read()
        assert one.body(slow).count(b'"chunk"') == 4000


async def test_heads_and_bodies_have_their_limits(make_servers: MakeServers) -> None:
    server = make_servers(HTTP2="on", REQUEST_TIMEOUT_S="1", MAX_BODY_BYTES="2000")["rest"]
    async with line(server) as one:
        assert (await one.answer(one.ask("POST", "/chat", b'"' + b"x" * 3000)))[0] == 413
    async with line(server) as one:
        big = one.ask("GET", "/health", headers={f"x-{number}": "y" * 1000 for number in range(80)})
        with pytest.raises(EOFError):
            await one.answer(big)
    async with line(server) as one:
        # The body of this request never comes.
        stream = one.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":path", "/chat"), (":authority", one.authority)]
        one.h2.send_headers(stream, [*head, ("content-type", "application/json")])
        one.flush()
        assert (await one.answer(stream))[0] == 408
    host, _, port = server.address.rpartition(":")

    async def closed(sent: bytes) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        while await reader.read(4096):
            pass
        writer.close()

    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    async with asyncio.timeout(30):
        await asyncio.gather(*(closed(sent) for sent in (b"", preface[:10], preface, preface + b"\0\0")))


async def test_who_resets_without_end_is_refused(both: Servers) -> None:
    async with line(both["ndjson"]) as one:
        for _ in range(300):
            one.reset(one.chat("/tokens 1 hello"))
        ended = await one.until(ConnectionTerminated)
        assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        await one.until_closed()
    async with line(both["ndjson"]) as one:
        for _ in range(300):
            assert (await one.answer(one.ask("GET", "/health")))[0] == 200


async def test_the_host_is_the_authority(both: Servers) -> None:
    async with line(both["rest"]) as one:
        assert (await one.answer(one.ask("GET", "/models", headers={":authority": None, "host": one.authority})))[
            0
        ] == 200
        assert (await one.answer(one.ask("GET", "/models", headers={":authority": None})))[0] == 400
        assert (await one.answer(one.ask("GET", "/models", headers={":authority": "rebound.example"})))[0] == 403
        differs = one.ask("GET", "/models", headers={"host": "other.example"})
        assert (await one.until(StreamReset, differs)).error_code == ErrorCodes.PROTOCOL_ERROR


@pytest.mark.parametrize("word", STREAMING)
async def test_a_stopping_server_ends_its_streams_and_says_goaway(word: str) -> None:
    env = {**FAST, "STORE_URL": "sqlite://", "OFFLINE_TOKENS_PER_S": "40"}
    async with serving(word, arguments=["--http2"], env=env) as server:
        async with line(server) as one:
            stream = one.chat("/tokens 30 hello")
            await one.until(DataReceived, stream)
            server.send(signal.SIGTERM)
            status, body = await one.answer(stream)
            assert status == 200
            assert b"turn_completed" in body
            await one.until(ConnectionTerminated)
        assert await server.stop(signal.SIGTERM) == 0


async def test_the_port_for_pages_answers_grpc_itself_over_http2(make_servers: MakeServers) -> None:
    part("connectrpc")
    server = make_servers(HTTP2="on")["grpc"]
    assert server.page_url is not None
    async with TRANSPORTS["grpc"].client(server.page_url.partition("://")[2]) as client:
        reply = await collect(client.chat("/tokens 30 hello"))
        assert reply.status == "completed"
        turn = await client.get_turn(reply.turn_id)
    assert turn.text == reply.text


async def test_without_the_library_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings = Settings(_env_file=None, http2=True, store_url="sqlite://")
    with pytest.raises(ValueError, match="HTTP2 is on, and zttp is not installed"):
        async with open_context(TRANSPORTS, "sse", "test", settings, host="127.0.0.1", port=0):
            pass


@pytest.mark.parametrize("word", ["rest", *STREAMING])
async def test_our_clients_over_http2(make_servers: MakeServers, word: str) -> None:
    """Turns, pictures and refusals are those of HTTP/1.1, and a stream that was cut goes on at its cursor."""
    part("connectrpc")
    server = make_servers(HTTP2="on", OFFLINE_TOKENS_PER_S="80", HEARTBEAT_S="1")[word]
    async with TRANSPORTS[word].client(server.url, sender=http2_sender) as client, server.client() as plain:
        reply = await collect(client.chat("/tokens 30 hello"))
        assert (await plain.get_turn(reply.turn_id)).text == reply.text
        assert (await collect_picture(client.image("a boat", size="64x64"))).image[1:4] == b"PNG"
        with pytest.raises(ChatError, match="turn_not_found"):
            await client.get_turn("nowhere")
        read = client.read(reply.turn_id)
        assert [item async for item in read] == [item async for item in plain.read(reply.turn_id)]
        if word == "rest":
            return
        seen: list[Item] = []
        async for item in client.chat("/tokens 60 hello"):
            seen.append(item)
            if len(seen) == 12:
                await client.cut()
        assert [type(item) for item in seen if not isinstance(item, Event)] == [Lost, Reconnected]
        assert [item.seq for item in seen if isinstance(item, Event)] == list(range(1, 63))


async def test_a_race_over_http2() -> None:
    part("connectrpc")
    command = (
        "race",
        "--only",
        "ndjson-h2,sse-h2,grpc-asgi",
        "--tokens",
        "6",
        "--rate",
        "50",
        "--rounds",
        "1",
        "--tls",
    )
    said = await program(sys.executable, "-m", "compare", *command)
    assert "The text is the model's, character by character, in every lane." in said, said
