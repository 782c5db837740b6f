"""HTTP/2 frames by hand that no good client sends: each gets the error of RFC 9113, and the server goes on."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
from collections.abc import Iterator

import pytest

from protocols.processes import Server
from tests.conftest import MakeServers
from tests.faults import attacks
from tests.faults.bombs import resident_mib
from tests.parts import part
from tests.test_http2 import line

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    range(10)
)
_END_STREAM, _END_HEADERS, _PADDED = 1, 4, 8
NO_ERROR, PROTOCOL, FLOW_CONTROL, FRAME_SIZE, REFUSED, COMPRESSION, CALM = 0, 1, 3, 6, 7, 9, 11


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name: bytes, value: bytes) -> bytes:
    """A literal field without indexing (RFC 7541, section 6.2.2), each part shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def head(*more: tuple[bytes, bytes], authority: bytes, method: bytes = b"GET", path: bytes = b"/health") -> bytes:
    own = ((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", authority))
    return b"".join(field(name, value) for name, value in (*own, *more))


BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(_SETTINGS, 0, 0, b"")
_JSON = (b"content-type", b"application/json")
_WHOLE = _END_STREAM | _END_HEADERS
_MOST = struct.pack(">I", 2**31 - 1)


def resets(authority: bytes) -> dict[str, tuple[bytes, int]]:
    """Malformed requests, and the error with which the stream 1 is reset."""

    def asked(*more: tuple[bytes, bytes], before: bytes = b"", **fields: bytes) -> bytes:
        return frame(_HEADERS, _WHOLE, 1, before + head(*more, authority=authority, **fields))

    def posted(length: bytes) -> bytes:
        fields = head((b"content-length", length), _JSON, authority=authority, method=b"POST", path=b"/turns")
        return frame(_HEADERS, _END_HEADERS, 1, fields) + frame(_DATA, _END_STREAM, 1, b'{"message": "hello"}')

    return {
        "upper case": (asked((b"X-Odd", b"1")), PROTOCOL),
        "connection": (asked((b"connection", b"close")), PROTOCOL),
        "te": (asked((b"te", b"gzip")), PROTOCOL),
        "a pseudo header behind a header": (asked(before=field(b"x", b"y")), PROTOCOL),
        "two methods": (asked(before=field(b":method", b"GET")), PROTOCOL),
        "an unknown pseudo header": (asked((b":odd", b"1")), PROTOCOL),
        "another host": (asked((b"host", b"other.example")), PROTOCOL),
        "a line feed in a value": (asked((b"x", b"a\nb: c")), PROTOCOL),
        "a NUL in a value": (asked((b"x", b"a\0b")), PROTOCOL),
        "a space in a name": (asked((b"a b", b"c")), PROTOCOL),
        "a path of other bytes": (asked(path=b"/\xff\xfe"), PROTOCOL),
        "a body too long": (posted(b"3"), PROTOCOL),
        "a body too short": (posted(b"300"), PROTOCOL),
        "a window that overflows": (
            asked(path=b"/models") + frame(_WINDOW_UPDATE, 0, 1, _MOST) * 2,
            FLOW_CONTROL,
        ),
    }


def goaways(authority: bytes) -> dict[str, tuple[bytes, int]]:
    """What breaks a connection, and the error of its GOAWAY."""
    plain = head(authority=authority)
    began = frame(_HEADERS, _END_STREAM, 1, plain)
    long = b"\0\x01x\x7f\x81\x7d" + b"y" * 16_128
    return {
        "a head of 96 KiB": (began + frame(_CONTINUATION, 0, 1, long) * 6, CALM),
        "empty CONTINUATION without end": (began + frame(_CONTINUATION, 0, 1, b"") * 20_000, CALM),
        "a table that unpacks to 48 MB": (
            frame(_HEADERS, _WHOLE, 1, plain + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 12_000),
            CALM,
        ),
        "an index of no entry": (frame(_HEADERS, _WHOLE, 1, b"\xff\xff\xff\x0f"), COMPRESSION),
        "a frame between a head's frames": (began + frame(_PING, 0, 0, b"x" * 8), PROTOCOL),
        "a window that overflows": (frame(_WINDOW_UPDATE, 0, 0, _MOST) * 2, FLOW_CONTROL),
        "a window update of nothing": (frame(_WINDOW_UPDATE, 0, 0, b"\0" * 4), PROTOCOL),
        "a first window too large": (frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)), FLOW_CONTROL),
        "a frame size too small": (frame(_SETTINGS, 0, 0, struct.pack(">HI", 5, 100)), PROTOCOL),
        "a frame too large": (frame(_DATA, 0, 1, b"x" * 20_000), FRAME_SIZE),
        "data on no stream": (frame(_DATA, _END_STREAM, 1, b"x"), PROTOCOL),
        "an even stream": (frame(_HEADERS, _WHOLE, 2, plain), PROTOCOL),
        "a stream before the last": (frame(_HEADERS, _WHOLE, 5, plain) + frame(_HEADERS, _WHOLE, 3, plain), PROTOCOL),
        "a push": (frame(_PUSH_PROMISE, _END_HEADERS, 1, b"\0\0\0\2"), PROTOCOL),
        "more padding than frame": (frame(_HEADERS, _WHOLE | _PADDED, 1, b"\xff" + plain), PROTOCOL),
        "a goodbye": (frame(_GOAWAY, 0, 0, b"\0" * 8), NO_ERROR),
    }


@pytest.fixture(scope="module")
def server(make_servers: MakeServers) -> Iterator[Server]:
    part("zttp")
    servers = make_servers(HTTP2="on")
    yield servers["ndjson"]
    assert not servers.errors()


async def answered(server: Server, sent: bytes, wanted: int) -> tuple[int, int]:
    """Stream and error of the first frame of the kind ``wanted``, RST_STREAM or GOAWAY. Raises EOFError when none comes."""
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(BEGIN + sent)
        async with asyncio.timeout(20):
            while True:
                begin = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(begin[:3], "big"))
                if begin[3] == wanted:
                    at = 0 if wanted == _RST_STREAM else 4
                    return int.from_bytes(begin[5:9], "big"), int.from_bytes(payload[at : at + 4], "big")
    finally:
        writer.transport.abort()


async def goes_on(server: Server) -> None:
    async with line(server) as one:
        assert (await one.answer(one.ask("GET", "/health")))[0] == 200


async def test_a_malformed_request_ends_its_stream(server: Server) -> None:
    for name, (sent, error) in resets(server.address.encode()).items():
        assert await answered(server, sent, _RST_STREAM) == (1, error), name
    await goes_on(server)


async def test_what_breaks_a_connection_is_named(server: Server) -> None:
    for name, (sent, error) in goaways(server.address.encode()).items():
        assert (await answered(server, sent, _GOAWAY))[1] == error, name
    await goes_on(server)


async def test_floods_do_not_stop_the_server(server: Server) -> None:
    """CONTINUATION frames without end, SETTINGS and PING: the answer may be lost in a reset, other connections are served."""
    began = frame(_HEADERS, _END_STREAM, 1, head(authority=server.address.encode()))
    floods = (
        began + frame(_CONTINUATION, 0, 1, field(b"x", b"y" * 60)) * 20_000,
        frame(_SETTINGS, 0, 0, b"") * 20_000,
        frame(_PING, 0, 0, b"x" * 8) * 20_000,
    )
    for flood in floods:
        with contextlib.suppress(EOFError, ConnectionError):
            sent = flood + frame(_WINDOW_UPDATE, 0, 0, b"\0" * 4)
            assert (await answered(server, sent, _GOAWAY))[1] in (PROTOCOL, CALM)
        await goes_on(server)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory in /proc")
@pytest.mark.parametrize("name", ["rapid reset: read", "head: CONTINUATION"])
async def test_an_attack_leaves_no_error_and_no_memory(server: Server, name: str) -> None:
    """Two attacks of gRPC: an answer on a closed connection is no error, and a lost connection gives its memory back."""
    before_mib = resident_mib(server.process.pid)
    await asyncio.to_thread(attacks.run, attacks.ATTACKS[name], server.address, 2.0)
    await goes_on(server)
    assert resident_mib(server.process.pid) < before_mib + 32


async def test_more_streams_than_allowed_are_refused_one_by_one(server: Server) -> None:
    fields = head(_JSON, authority=server.address.encode(), method=b"POST", path=b"/chat/stream")
    sent = b"".join(frame(_HEADERS, _END_HEADERS, stream, fields) for stream in range(1, 300, 2))
    assert await answered(server, sent, _RST_STREAM) == (2 * 128 + 1, REFUSED)
    await goes_on(server)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_request_without_a_body_needs_no_frame_for_it(server: Server, method: str) -> None:
    async with line(server) as one:
        status, body = await one.answer(one.ask("POST", "/sessions"))
        assert status == 201
        session = body.split(b'"session_id":"')[1].split(b'"')[0].decode()
        path = f"/sessions/{session}" + ("/clear" if method == "POST" else "")
        assert (await one.answer(one.ask(method, path)))[0] == 204


async def test_a_body_larger_than_the_first_window_arrives(server: Server) -> None:
    body = b'{"message": "/tokens 1 hello"' + b" " * 200_000 + b"}"
    async with line(server) as one, asyncio.timeout(30):
        stream = one.h2.get_next_available_stream_id()
        fields = ((":method", "POST"), (":scheme", "http"), (":path", "/turns"), (":authority", one.authority))
        one.h2.send_headers(stream, (*fields, ("content-type", "application/json")))
        while body:
            room = min(one.h2.local_flow_control_window(stream), 16_384)
            if room:
                one.h2.send_data(stream, body[:room])
                body = body[room:]
                one.flush()
            else:
                assert await one.read()
        one.h2.end_stream(stream)
        one.flush()
        assert (await one.answer(stream))[0] == 202
