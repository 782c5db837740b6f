"""A load generator that costs little: raw sockets, events counted by a marker, nothing parsed that need not be.

``python -m compare.floors.load '<Job as JSON>'`` prints a ``Result`` as JSON. It runs in a process of its own, takes the server's
CPU time and memory from ``/proc`` at the edges of its window, and drives a floor and the real server in the same way.

What it knows of each wire is only what it takes to ask again and again on one connection and to see where an answer ends: the
last chunk of a body or ``Content-Length`` (RFC 9112), the terminal event on a WebSocket (RFC 6455), gRPC's trailers (RFC 9113).
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import msgspec

EVENT = b'{"type":"'
TERMINAL = b'{"type":"turn_completed"'
LAST_CHUNK = b"\r\n0\r\n\r\n"
_AT = re.compile(rb'"at":([0-9.]+)[,}]')
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)\r\n")
_WINDOW = 2**31 - 1
_CONNECTS_AT_ONCE = 64
_LOOK_S = 0.1
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to do to whom.

    ``loop``: every stream asks again and again, for ``seconds`` after ``warm_s``, and on (eight times as long at most) until the
    server has had ``least_cpu_s``: on a busy machine a window by the clock holds next to nothing. ``once``: every stream asks
    once, the window is from when all have their first event to when all have ended. ``idle``: as ``once``, but nothing ends;
    memory is taken. ``burst``: every stream asks once, all at the same moment; the window is until all have ended.
    """

    wire: str
    address: str
    pid: int
    mode: Literal["loop", "once", "idle", "burst"]
    streams: int
    message: str = ""
    turn_id: str | None = None
    path: str | None = None
    accept: str = "*/*"
    seconds: float = 3.0
    warm_s: float = 0.5
    least_cpu_s: float = 0.0
    stamps: bool = False
    spread_s: float = 0.0
    timeout_s: float = 120.0


class Result(msgspec.Struct, kw_only=True):
    """What was seen inside the window, in summary; None: not measured here."""

    events: int
    turns: int
    seconds: float
    bytes: int
    cpu_s: float | None
    load_cpu_s: float
    rss_bytes: int | None
    first_p50_ms: float | None
    ttft_p50_ms: float | None
    delay_p50_ms: float | None
    delay_p99_ms: float | None


def quantile(values: Sequence[float], q: float) -> float | None:
    """The value at the share ``q`` of the sorted values (nearest rank); None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def cpu_s(pid: int) -> float | None:
    """User and system time of a process with all its threads, to 10 ms; None without ``/proc``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int) -> int | None:
    """Resident memory of a process; None without ``/proc``."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


class Load:
    """What all streams add to."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.events = 0
        self.turns = 0
        self.bytes = 0
        self.began = 0
        self.ended = 0
        self.first_ms: list[float] = []
        self.ttft_ms: list[float] = []
        self.delays_ms: list[float] = []
        self.lanes: list[Lane] = []
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._begun, self._ended = asyncio.Event(), asyncio.Event()
        self._begun_at: int | None = None
        self._ended_at: int | None = None

    async def all_begun(self, streams: int) -> None:
        """Wait until so many answers have begun."""
        self._begun.clear()
        self._begun_at = streams
        self._check()
        await self._begun.wait()

    async def all_ended(self, streams: int) -> None:
        """Wait until so many answers have ended."""
        self._ended_at = streams
        self._check()
        await self._ended.wait()

    def one_began(self) -> None:
        """An answer has begun."""
        self.began += 1
        self._check()

    def one_ended(self) -> None:
        """An answer is over."""
        self.turns += 1
        self.ended += 1
        self._check()

    def _check(self) -> None:
        for event, count, goal in (
            (self._begun, self.began, self._begun_at),
            (self._ended, self.ended, self._ended_at),
        ):
            if goal is not None and count >= goal:
                event.set()

    def fail(self, why: str) -> None:
        """Give up with a reason."""
        if not self.failure.done():
            self.failure.set_result(why)


class Lane(asyncio.Protocol):
    """One connection with one stream on it."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closing = False
        self._seen = 0
        self._asked_at = 0.0
        load.lanes.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.greet()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing:
            self.load.fail(f"the server closed a connection ({exc})")

    def greet(self) -> None:
        """What comes before the first request."""
        self.ready.set_result(None)

    def ask(self) -> None:
        """Send one request."""
        self._seen = 0
        self._asked_at = time.perf_counter()
        self.write(self.request())

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self.transport is not None:
            self.transport.write(data)

    def request(self) -> bytes:
        """The bytes of one request."""
        raise NotImplementedError

    def got(self, count: int) -> None:
        """So many events have arrived."""
        load = self.load
        load.events += count
        seen = self._seen
        self._seen += count
        if seen < 2:
            elapsed_ms = (time.perf_counter() - self._asked_at) * 1000
            if seen == 0:
                load.one_began()
                load.first_ms.append(elapsed_ms)
            if self._seen >= 2:
                load.ttft_ms.append(elapsed_ms)

    def end(self) -> None:
        """The answer is over."""
        load = self.load
        if self._seen == 0:
            load.fail("an answer without an event")
            return
        load.one_ended()
        if load.job.mode != "loop":
            # The server may hang up on it while the others go on.
            self.closing = True
        elif not self.closing:
            self.ask()

    def close(self) -> None:
        """Hang up."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()


class HttpLane(Lane):
    """HTTP/1.1 with keep-alive; the body is chunked or has a length."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        job = load.job
        path, body, accept = job.path, b"", job.accept
        if path is None and job.turn_id is not None:
            path = f"/turns/{job.turn_id}/stream"
        elif path is None:
            path = "/chat" if job.wire == "rest" else "/chat/stream"
            body = json.dumps({"message": job.message}).encode()
        head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: {job.address}\r\nAccept: {accept}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._request = head.encode() + b"\r\n" + body
        self._tail = b""
        self._head = True
        self._left = -1

    def request(self) -> bytes:
        self._tail, self._head, self._left = b"", True, -1
        return self._request

    def data_received(self, data: bytes) -> None:
        load = self.load
        load.bytes += len(data)
        if load.job.stamps:
            now = time.time() * 1000
            load.delays_ms.extend([now - float(at) for at in _AT.findall(data)])
        data = self._tail + data
        if self._head:
            split = data.find(b"\r\n\r\n")
            if split < 0:
                self._tail = data
                return
            if data[:12] != b"HTTP/1.1 200":
                load.fail(data[:400].decode(errors="replace"))
                return
            self._head = False
            length = _LENGTH.search(data, 0, split + 2)
            # The blank line stays in front of the body, so that a body without a chunk ends like any other.
            data = data[split + 2 :]
            if length is not None:
                self._left = int(length[1])
                data = data[2:]
                self.got(1)
            else:
                self._tail = b""
        if self._left >= 0:
            self._left -= len(data)
            self._tail = b""
            if self._left <= 0:
                self.end()
            return
        count = data.count(EVENT)
        if count:
            self.got(count)
        if data.endswith(LAST_CHUNK):
            self.end()
        else:
            self._tail = data[-8:]


class WebSocketLane(Lane):
    """One held connection; frames are not taken apart, an event is known by its first bytes."""

    _upgraded = False
    _tail = b""

    def greet(self) -> None:
        self.write(
            f"GET /ws HTTP/1.1\r\nHost: {self.load.job.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: genai.chat.v1\r\n\r\n".encode()
        )

    def request(self) -> bytes:
        job = self.load.job
        if job.turn_id is not None:
            return _text_frame({"type": "resume", "turn_id": job.turn_id, "after": 0})
        # A session of its own for every turn, as the other transports make one when none is named.
        return _text_frame({"type": "chat", "message": job.message, "new_session": True})

    def data_received(self, data: bytes) -> None:
        load = self.load
        load.bytes += len(data)
        if load.job.stamps:
            now = time.time() * 1000
            load.delays_ms.extend([now - float(at) for at in _AT.findall(data)])
        data = self._tail + data
        if not self._upgraded:
            if b'"connected"' not in data:
                self._tail = data
                if not data.startswith(b"HTTP/1.1 101"[: len(data)]):
                    load.fail(data[:400].decode(errors="replace"))
                return
            self._upgraded, self._tail = True, b""
            self.ready.set_result(None)
            return
        count = data.count(EVENT)
        if count and self._seen < 2:
            # What is no event of a turn comes only here.
            for other in (b'{"type":"session_', b'{"type":"resumed"', b'{"type":"error"'):
                count -= data.count(other)
            if b'{"type":"error"' in data:
                load.fail(data[:400].decode(errors="replace"))
                return
        if count > 0:
            self.got(count)
        if TERMINAL in data:
            self._tail = b""
            self.end()
        else:
            self._tail = data[-(len(EVENT) - 1) :]
            split = data.rfind(EVENT)
            if split >= 0 and len(data) - split < len(TERMINAL):
                # An event whose type is not whole yet: counted, so its mark must not be seen again.
                self._tail = data[split:]
                load.events -= 1


class GrpcLane(Lane):
    """HTTP/2 with one stream at a time and windows that never close; messages are counted by their five-byte prefixes."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        job = load.job
        # Imported here: the other wires need no protobuf.
        from protocols.grpc import chat_pb2

        self._event = chat_pb2.Event
        self._stream_id = -1
        self._frames = b""
        self._messages = b""
        self._read_bytes = 0
        name, message = "SendMessage", chat_pb2.SendMessageRequest(message=job.message).SerializeToString()
        if job.turn_id is not None:
            name = "ResumeTurn"
            message = chat_pb2.ResumeTurnRequest(turn_id=job.turn_id, after=0).SerializeToString()
        fields = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/chat.ChatService/{name}"),
            (":authority", job.address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        )
        # RFC 7541, section 6.2.2: literal fields without indexing need no table.
        self._headers = b"".join(
            b"\x00" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode() for key, value in fields
        )
        self._body = b"\x00" + len(message).to_bytes(4, "big") + message

    def greet(self) -> None:
        settings = struct.pack(">HI", 4, _WINDOW)
        self.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(4, 0, 0, settings)
            + _frame(8, 0, 0, struct.pack(">I", _WINDOW - 65_535))
        )
        self.ready.set_result(None)

    def request(self) -> bytes:
        self._stream_id += 2
        return _frame(1, 4, self._stream_id, self._headers) + _frame(0, 1, self._stream_id, self._body)

    def data_received(self, data: bytes) -> None:
        load = self.load
        load.bytes += len(data)
        self._read_bytes += len(data)
        if self._read_bytes > 2**29:
            self.write(_frame(8, 0, 0, struct.pack(">I", self._read_bytes)))
            self._read_bytes = 0
        data = self._frames + data
        at, size, ended = 0, len(data), False
        bodies = []
        while size - at >= 9:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if size - at - 9 < length:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == 0:
                bodies.append(data[at + 9 : at + 9 + length])
            elif kind == 1:
                ended = ended or bool(flags & 1)
            elif kind == 4 and not flags & 1:
                self.write(_frame(4, 1, 0, b""))
            elif kind == 6 and not flags & 1:
                self.write(_frame(6, 1, 0, data[at + 9 : at + 17]))
            elif kind in (3, 7):
                load.fail(f"the server reset the stream: {data[at + 9 : at + 9 + length]!r}")
            at += 9 + length
        self._frames = data[at:]
        if bodies:
            self._count(b"".join(bodies))
        if ended:
            self.end()

    def _count(self, data: bytes) -> None:
        data = self._messages + data
        at, size, count = 0, len(data), 0
        stamps = self.load.job.stamps
        now = time.time() * 1000
        while size - at >= 5:
            length = int.from_bytes(data[at + 1 : at + 5], "big")
            if size - at - 5 < length:
                break
            if stamps:
                self.load.delays_ms.append(now - self._event.FromString(data[at + 5 : at + 5 + length]).at)
            at += 5 + length
            count += 1
        self._messages = data[at:]
        if count:
            self.got(count)


LANES: dict[str, type[Lane]] = {
    "rest": HttpLane,
    "ndjson": HttpLane,
    "sse": HttpLane,
    "websocket": WebSocketLane,
    "grpc": GrpcLane,
}


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def _text_frame(message: dict[str, object]) -> bytes:
    """A masked text frame with a mask of zeros (RFC 6455, section 5.2)."""
    data = json.dumps(message).encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + size + b"\x00\x00\x00\x00" + data


async def run(job: Job) -> Result:
    """Do the job. Raises RuntimeError with what the server said when it does not play along."""
    load = Load(job)
    working = asyncio.create_task(_work(load))
    try:
        async with asyncio.timeout(job.timeout_s):
            await asyncio.wait((working, load.failure), return_when=asyncio.FIRST_COMPLETED)
        if load.failure.done():
            raise RuntimeError(load.failure.result())
        return working.result()
    finally:
        working.cancel()
        for lane in load.lanes:
            lane.close()


async def _open(load: Load, count: int) -> list[Lane]:
    host, _, port = load.job.address.rpartition(":")
    loop = asyncio.get_running_loop()
    lanes: list[Lane] = []
    for start in range(0, count, _CONNECTS_AT_ONCE):
        batch = min(_CONNECTS_AT_ONCE, count - start)
        made = await asyncio.gather(
            *(loop.create_connection(lambda: LANES[load.job.wire](load), host, int(port)) for _ in range(batch))
        )
        lanes += [lane for _, lane in made]
        await asyncio.gather(*(lane.ready for lane in lanes[start:]))
    return lanes


async def _work(load: Load) -> Result:
    job = load.job
    if job.mode == "idle":
        return await _idle(load)
    lanes = await _open(load, job.streams)
    gc.collect()
    gc.freeze()
    before = _mark(load)
    for i, lane in enumerate(lanes):
        lane.ask()
        if job.spread_s:
            await asyncio.sleep(job.spread_s / job.streams)
        elif i % 64 == 63:
            await asyncio.sleep(0)
    if job.mode != "burst":
        await load.all_begun(job.streams)
        await asyncio.sleep(job.warm_s)
        if job.mode == "once" and load.ended:
            raise RuntimeError("the turn was over before every reader was there")
        before = _mark(load)
        load.first_ms.clear()
        load.ttft_ms.clear()
        load.delays_ms.clear()
    if job.mode == "loop":
        await asyncio.sleep(job.seconds)
        for _ in range(int(7 * job.seconds / _LOOK_S)):
            used = cpu_s(job.pid)
            if used is None or before[1] is None or used - before[1] >= job.least_cpu_s:
                break
            await asyncio.sleep(_LOOK_S)
    else:
        await load.all_ended(job.streams)
    after = _mark(load)
    return _result(load, before, after)


async def _idle(load: Load) -> Result:
    job = load.job
    # The allocator's own growth is not the streams'.
    for lane in await _open(load, 100):
        lane.ask()
    await load.all_begun(100)
    for lane in load.lanes:
        lane.close()
    load.lanes.clear()
    await asyncio.sleep(0.7)
    before = _mark(load)
    resident = rss_bytes(job.pid)
    for lane in await _open(load, job.streams):
        lane.ask()
    await load.all_begun(100 + job.streams)
    await asyncio.sleep(1)
    after = _mark(load)
    now = rss_bytes(job.pid)
    result = _result(load, before, after)
    result.rss_bytes = None if now is None or resident is None else now - resident
    return result


Mark = tuple[float, float | None, float, int, int, int]


def _mark(load: Load) -> Mark:
    return time.perf_counter(), cpu_s(load.job.pid), time.process_time(), load.events, load.turns, load.bytes


def _result(load: Load, before: Mark, after: Mark) -> Result:
    return Result(
        seconds=after[0] - before[0],
        cpu_s=None if before[1] is None or after[1] is None else after[1] - before[1],
        load_cpu_s=after[2] - before[2],
        events=after[3] - before[3],
        turns=after[4] - before[4],
        bytes=after[5] - before[5],
        rss_bytes=None,
        first_p50_ms=quantile(load.first_ms, 0.5),
        ttft_p50_ms=quantile(load.ttft_ms, 0.5),
        delay_p50_ms=quantile(load.delays_ms, 0.5),
        delay_p99_ms=quantile(load.delays_ms, 0.99),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Do one job; the exit status."""
    given = sys.argv[1:] if argv is None else argv
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        try:
            result = runner.run(run(msgspec.json.decode(given[0], type=Job)))
        except (RuntimeError, OSError, TimeoutError) as error:
            sys.stderr.write(f"{error or type(error).__name__}\n")
            return 1
    sys.stdout.write(msgspec.json.encode(result).decode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
