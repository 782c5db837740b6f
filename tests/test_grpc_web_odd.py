"""The port for pages and clients that are unlike the usual ones: each gets a status in its own protocol, and the server goes on."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from h2.events import ResponseReceived, StreamEnded, TrailersReceived

from protocols.grpc import chat_pb2 as pb
from protocols.processes import Server
from tests.conftest import KEY, MakeServers, Servers, until
from tests.parts import part
from tests.test_http2 import line

SERVICE = "chat.ChatService"
OURS = "http://localhost:8002"
VERSIONS = ["1.1", "2"]


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    part("connectrpc")
    part("zttp")


@pytest.fixture(scope="module")
def small(make_servers: MakeServers) -> Iterator[Servers]:
    """Servers of both versions of HTTP that accept little, and wait for a request for a second only."""
    servers = make_servers(HTTP2="on", MAX_BODY_BYTES="2000", REQUEST_TIMEOUT_S="1")
    yield servers
    assert not servers.errors()
    assert not servers["grpc"].said


def for_pages(server: Server) -> Server:
    """The port for pages as a server of its own."""
    assert server.page_url is not None
    return Server(server.word, server.page_url, server.process, server.log)


@dataclass
class Answer:
    """An answer, read to its end; ``headers`` with HTTP/2's trailers among them."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        """The enveloped messages: flags and bytes."""
        found, rest = [], self.body
        while rest:
            length = int.from_bytes(rest[1:5], "big")
            found.append((rest[0], rest[5 : 5 + length]))
            rest = rest[5 + length :]
        return found

    @property
    def fields(self) -> dict[str, str]:
        """gRPC-Web's status: in the last message, or in the head of an answer without messages."""
        (last,) = [data for flags, data in self.messages if flags & 0x80] or [b""]
        lines = (line.partition(b":") for line in last.split(b"\r\n"))
        return self.headers | {name.decode(): value.strip().decode() for name, _, value in lines}

    @property
    def code(self) -> str:
        """The status: gRPC's number, Connect's word, or the code of a problem."""
        if "grpc" in self.headers["content-type"]:
            return self.fields["grpc-status"]
        if "connect+" in self.headers["content-type"]:
            return str(json.loads(self.messages[-1][1]).get("error", {}).get("code", "ok"))
        return str(json.loads(self.body).get("code", "ok"))

    @property
    def reason(self) -> str:
        """The code of the error table in the details of a gRPC-Web or Connect error; empty for an error of the library."""
        if "grpc" in self.headers["content-type"]:
            packed = base64.b64decode(self.fields.get("grpc-status-details-bin", "") + "==")
            values = [detail.value for detail in Status.FromString(packed).details]
        else:
            streamed = "connect+" in self.headers["content-type"]
            error = json.loads(self.messages[-1][1])["error"] if streamed else json.loads(self.body)
            values = [base64.b64decode(detail["value"] + "==") for detail in error.get("details", ())]
        return str(ErrorInfo.FromString(values[0]).reason) if values else ""


async def call(
    server: Server, version: str, kind: str, rpc: str, body: bytes, headers: Mapping[str, str] | None = None
) -> Answer:
    """A request to the port for pages; ``kind`` is its Content-Type."""
    where, path = for_pages(server), f"/{SERVICE}/{rpc}"
    given = {**({"content-type": kind} if kind else {}), **(headers or {})}
    async with asyncio.timeout(30):
        if version == "1.1":
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:
                got = await http.post(f"{where.url}{path}", content=body, headers={"accept-encoding": "", **given})
            return Answer(got.status_code, dict(got.headers), got.content)
        async with line(where) as one:
            stream = one.ask("POST", path, body, {"content-type": None, "te": "trailers", **given})
            await one.until(StreamEnded, stream)
            head: dict[str, str] = {}
            for event in one.events:
                if isinstance(event, ResponseReceived | TrailersReceived) and event.stream_id == stream:
                    head |= {_text(name): _text(value) for name, value in event.headers}
            return Answer(int(head[":status"]), head, one.body(stream))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def envelope(data: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


def ask(message: str = "/tokens 2 hello") -> bytes:
    return pb.SendMessageRequest(message=message).SerializeToString()


@dataclass(frozen=True)
class Odd:
    """A request, and the code of its answer; ``reason``: the code of the error table in its details."""

    kind: str
    body: bytes
    code: str
    rpc: str = "SendMessage"
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    reason: str = ""
    names: tuple[str, str] | None = None


WEB, CONNECT = "application/grpc-web+proto", "application/connect+proto"
ASKED = envelope(ask())
BOMB = envelope(gzip.compress(bytes(3_000_000)), 1)
LARGE, HUGE = envelope(ask("x" * 3000)), envelope(ask("x" * 9000))
JSON = b"{}"
ACCEPTED = ("grpc-accept-encoding", "gzip")
ODD = {
    "parameters and case": Odd("Application/gRPC-Web+Proto; charset=utf-8", ASKED, "0"),
    "no subtype": Odd("application/grpc-web", ASKED, "0"),
    "gzip": Odd(WEB, envelope(gzip.compress(ask()), 1), "0", headers={"grpc-encoding": "gzip"}, names=ACCEPTED),
    "gzip, Connect": Odd(CONNECT, envelope(gzip.compress(ask()), 1), "ok", headers={"connect-content-encoding": "gzip"}),
    "gzip, unary": Odd("application/json", gzip.compress(JSON), "ok", "ListModels", {"content-encoding": "gzip"}),
    "br": Odd(WEB, ASKED, "12", headers={"grpc-encoding": "br"}, names=ACCEPTED),
    "br, Connect": Odd(
        CONNECT, ASKED, "unimplemented", headers={"connect-content-encoding": "br"},
        names=("connect-accept-encoding", "gzip"),
    ),
    "br, unary": Odd(
        "application/json", JSON, "unimplemented", "ListModels", {"content-encoding": "br"}, 501,
        names=("accept-encoding", "gzip"),
    ),
    "damaged gzip": Odd(WEB, envelope(b"\x1f\x8b\x08damaged", 1), "3", headers={"grpc-encoding": "gzip"}),
    "half of gzip": Odd(WEB, envelope(gzip.compress(ask())[:-9], 1), "3", headers={"grpc-encoding": "gzip"}),
    "a bomb": Odd(WEB, BOMB, "8", headers={"grpc-encoding": "gzip"}, reason="PAYLOAD_TOO_LARGE"),
    "no time": Odd(WEB, ASKED, "4", headers={"grpc-timeout": "0n"}),
    "no time, Connect": Odd(CONNECT, ASKED, "deadline_exceeded", headers={"connect-timeout-ms": "0"}),
    "much time": Odd(WEB, ASKED, "0", headers={"grpc-timeout": "99999999H"}),
    "much time, Connect": Odd(CONNECT, ASKED, "ok", headers={"connect-timeout-ms": "9999999999"}),
    **{
        f"a time {value!r}": Odd(WEB, ASKED, "3", headers={"grpc-timeout": value})
        for value in ("5", "S", "123456789S", "-1S", "1 S", "1s", "1.5S", "0x1S")
    },
    **{
        f"a time {value!r}, Connect": Odd(
            "application/json", JSON, "invalid_argument", "ListModels", {"connect-timeout-ms": value}, 400
        )
        for value in ("abc", "12345678901", "-1", "1.5", "1_0")
    },
    "large": Odd(WEB, LARGE, "8", reason="PAYLOAD_TOO_LARGE"),
    "huge": Odd(WEB, HUGE, "8", reason="PAYLOAD_TOO_LARGE"),
    "huge, Connect": Odd(CONNECT, HUGE, "resource_exhausted", reason="PAYLOAD_TOO_LARGE"),
    "huge, unary": Odd(
        "application/json", b'{"turnId": "%b"}' % (b"x" * 9000), "resource_exhausted", "GetTurn", status=429,
        reason="PAYLOAD_TOO_LARGE",
    ),
    "an unknown flag": Odd(WEB, envelope(ask(), 4), "3"),
    "a trailer in a request": Odd(WEB, envelope(b"a: b\r\n", 0x80), "3"),
    "a length that lies": Odd(WEB, ASKED[:1] + b"\0\0\1\0" + ASKED[5:], "3"),
    "a length that lies, Connect": Odd(CONNECT, ASKED[:1] + b"\0\0\1\0" + ASKED[5:], "invalid_argument"),
    "deep JSON": Odd("application/json", b'{"turnId":' + b"[" * 900, "invalid_argument", "GetTurn", status=400),
    "a number of many digits": Odd(
        "application/connect+json", envelope(b'{"turnId": "x", "after": %b}' % (b"9" * 1500)), "invalid_argument", "ResumeTurn"
    ),
    "another Connect": Odd("application/json", JSON, "invalid_argument", "ListModels", {"connect-protocol-version": "2"}, 400),
    "JSON for a stream": Odd("application/json", JSON, "unsupported_media_type", status=415),
    "an envelope for a unary call": Odd(CONNECT, envelope(b""), "unsupported_media_type", "ListModels", status=415),
    "another codec": Odd("application/grpc-web+thrift", ASKED, "unsupported_media_type", status=415),
    "text": Odd("text/plain", b"hello", "unsupported_media_type", status=415),
    "no media type": Odd("", JSON, "unsupported_media_type", "ListModels", status=415),
    "no RPC": Odd(WEB, ASKED, "invalid_request", "Nothing", status=404),
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_odd_has_a_status_of_its_protocol(version: str, small: Servers) -> None:
    for name, odd in ODD.items():
        got = await call(small["grpc"], version, odd.kind, odd.rpc, odd.body, odd.headers)
        assert (got.status, got.code) == (odd.status, odd.code), (name, got)
        if odd.reason:
            assert got.reason == odd.reason, (name, got)
        if odd.names is not None:
            assert got.headers[odd.names[0]] == odd.names[1], (name, got)
    assert (await call(small["grpc"], version, WEB, "SendMessage", ASKED)).code == "0"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["application/grpc-web-text", "application/grpc-web-text+proto"])
async def test_text_mode(kind: str, version: str, small: Servers) -> None:
    """As Google's client for pages sends it. The answer is base64 in pieces, each with its own padding."""
    half = len(ASKED) // 2
    for body in (base64.b64encode(ASKED), base64.b64encode(ASKED[:half]) + base64.b64encode(ASKED[half:])):
        got = await call(small["grpc"], version, kind, "SendMessage", body, {"accept": kind, "x-grpc-web": "1"})
        assert (got.status, got.headers["content-type"].startswith("application/grpc-web-text")) == (200, True)
        plain = Answer(got.status, got.headers, decoded(got.body))
        assert plain.code == "0"
        events = [pb.Event.FromString(data) for flags, data in plain.messages if not flags]
        assert [event.WhichOneof("body") for event in events] == ["turn_started", "chunk", "chunk", "turn_completed"]
    for body in (b"@@@@", b"AAA"):
        got = await call(small["grpc"], version, kind, "SendMessage", body)
        assert Answer(got.status, got.headers, decoded(got.body)).code == "3"


def decoded(body: bytes) -> bytes:
    """Base64 with padding inside."""
    quads = [body[at : at + 4] for at in range(0, len(body), 4)]
    return b"".join(base64.b64decode(quad, validate=True) for quad in quads)


async def test_plain_grpc_needs_http2(small: Servers) -> None:
    refused = await call(small["grpc"], "1.1", "application/grpc+proto", "SendMessage", ASKED)
    assert (refused.status, refused.code) == (505, "invalid_request")
    answered = await call(small["grpc"], "2", "application/grpc+proto", "SendMessage", ASKED)
    assert (answered.status, answered.headers["grpc-status"]) == (200, "0")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_deadline_is_leaving(version: str, small: Servers) -> None:
    """The call ends with DEADLINE_EXCEEDED in the middle of its stream, and the turn goes on."""
    server = small["grpc"]
    for kind, headers, code in (
        (WEB, {"grpc-timeout": "400m"}, "4"),
        (CONNECT, {"connect-timeout-ms": "400"}, "deadline_exceeded"),
    ):
        got = await call(server, version, kind, "SendMessage", envelope(ask("/tokens 9 /stall 600 hello")), headers)
        assert (got.status, got.code) == (200, code)
        turn_id = pb.Event.FromString(got.messages[0][1]).turn_id
        async with server.client() as client:
            assert (await client.get_turn(turn_id)).status == "running"
            await client.cancel(turn_id)


@pytest.mark.parametrize("kind", [WEB, CONNECT, "application/json"])
async def test_keys(kind: str, keyed: Servers) -> None:
    unary = kind == "application/json"
    rpc, body = ("ListModels", JSON) if unary else ("SendMessage", ASKED)
    for name, value, good in (
        ("Authorization", f"Bearer {KEY}", True),
        ("authorization", f"bearer {KEY}", True),
        ("X-API-KEY", KEY, True),
        ("x-api-key", KEY, True),
        ("X-Nothing", KEY, False),
        ("Authorization", f"Bearer {KEY}x", False),
        ("Authorization", KEY, False),
        ("x-api-key", "", False),
        ("x-api-key", "caf\xe9", False),
    ):
        got = await call(keyed["grpc"], "1.1", kind, rpc, body, {name: value.encode("latin-1")})  # type: ignore[dict-item]
        if good:
            assert got.code in ("0", "ok"), (name, value)
        else:
            assert got.status == (401 if unary else 200)
            assert (got.code, got.reason) == ("16" if kind == WEB else "unauthenticated", "UNAUTHENTICATED")


async def test_a_page_may_send_and_read_what_its_library_needs(servers: Servers) -> None:
    """The lists of connectrpc.com ("CORS") and of this project, for each method."""
    wanted = (
        "content-type, connect-protocol-version, connect-timeout-ms, grpc-timeout, x-grpc-web, x-user-agent,"
        " authorization, x-api-key"
    )
    asked = {"origin": OURS, "access-control-request-headers": wanted}
    where = for_pages(servers["grpc"]).url
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        for method in ("GET", "POST"):
            headers = {**asked, "access-control-request-method": method}
            for path in (
                *(f"/{SERVICE}/{rpc.name}" for rpc in pb.DESCRIPTOR.services_by_name["ChatService"].methods),
                "/health",
            ):
                got = await http.options(f"{where}{path}", headers=headers)
                assert (got.status_code, got.headers["access-control-allow-origin"]) == (200, OURS), path
                allowed = {name.strip() for name in got.headers["access-control-allow-headers"].lower().split(",")}
                assert set(wanted.split(", ")) <= allowed
        got = await http.post(
            f"{where}/{SERVICE}/SendMessage", content=ASKED, headers={"origin": OURS, "content-type": WEB}
        )
        exposed = {name.strip() for name in got.headers["access-control-expose-headers"].lower().split(",")}
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin"} <= exposed
        # A side effect by GET could be had from any page, so no RPC has it.
        for rpc in ("ListModels", "SendMessage"):
            got = await http.get(f"{where}/{SERVICE}/{rpc}?connect=v1&encoding=json&message=%7B%7D")
            assert (got.status_code, got.headers["allow"], got.json()["code"]) == (405, "POST", "invalid_request")


async def test_a_body_that_never_ends(small: Servers) -> None:
    host, _, port = for_pages(small["grpc"]).address.rpartition(":")
    for kind, holds in ((WEB, b"grpc-status: 3"), ("application/json", b'"code": "invalid_argument"')):
        rpc = "ListModels" if kind == "application/json" else "SendMessage"
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /{SERVICE}/{rpc} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n"
        )
        writer.write(head.encode() + b"\0\0")
        async with asyncio.timeout(20):
            said = await reader.read()
        writer.transport.abort()
        assert holds in said
        assert b"connection: close" in said.lower()


async def test_a_reader_that_stalls_is_disconnected(make_servers: MakeServers) -> None:
    server = make_servers(STALL_TIMEOUT_S="1")["grpc"]
    host, _, port = for_pages(server).address.rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (host, int(port)))
        body = envelope(ask("/tokens 400 /bytes 20000 hello"))
        head = f"POST /{SERVICE}/SendMessage HTTP/1.1\r\nHost: localhost\r\nContent-Type: {WEB}\r\nContent-Length: {len(body)}\r\n"
        await loop.sock_sendall(sock, head.encode() + b"\r\n" + body)
        async with server.client() as client:

            async def reading(count: int) -> bool:
                return (await client.stats()).streams_active == count

            await until(lambda: reading(1))
            await until(lambda: reading(0))
