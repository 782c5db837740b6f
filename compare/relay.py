"""A relay that breaks the line between a client and a server: it counts TCP payload, cuts, stalls, delays, throttles, slices.

It knows no protocol. The one thing it can find in the bytes is where one of our events starts, in JSON or in protobuf, so that a
cut can fall after event n. ``python -m compare relay --listen PORT --to HOST:PORT`` runs it by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import socket
import struct
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from protocols import RELAY_OFFSET, TRANSPORTS

Way = Literal["up", "down"]
Fate = Literal["open", "closed", "cut", "refused"]

_READ_BYTES = 64 * 1024
# What may be under way on a line without a bandwidth of its own; with one, twice what fits into its delay, and a packet queue.
_IN_FLIGHT_BYTES = 16 * 1024 * 1024
_QUEUE_BYTES = 256 * 1024
_THROTTLE_STEP_S = 0.01
_FIN_WAIT_S = 1.0
# So many slices are written before others on the event loop have their turn.
_SLICES_A_TURN = 8
_LINGER_RESET = struct.pack("ii", 1, 0)

# Where an event starts: its JSON (REST, NDJSON, SSE, WebSocket), or its protobuf, field 1 being a UUID and field 2 the seq (gRPC).
# Plain bytes are searched, so compression hides events, and on gRPC a text that quotes an event's JSON looks like one.
EVENT_START = re.compile(rb'\{"type":"(?:turn_|chunk|image_)[a-z]*"|\x0a\x24[0-9a-f]{8}-[0-9a-f-]{27}\x10')
_LONGEST_START = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What the line does; the default does nothing. A position counts one connection's payload on one way, ``way``.

    The first three happen once they are due, to the first ``times`` connections that come so far (None: to every one).
    """

    cut_after_bytes: int | None = field(default=None, metadata={"help": "so many bytes pass, then both ways are cut"})
    cut_after_event: int | None = field(default=None, metadata={"help": "so many whole events pass, then a cut"})
    stall_after_bytes: int | None = field(default=None, metadata={"help": "nothing moves on either way after so many"})
    black_hole_after_bytes: int | None = field(default=None, metadata={"help": "everything after so many is swallowed"})
    times: int | None = field(default=1, metadata={"help": "how many connections are cut, stalled or swallowed"})
    way: Way = field(default="down", metadata={"help": "the way the positions count: down is to the client"})
    reset: bool = field(default=False, metadata={"help": "cut with RST; else with FIN"})
    stall_s: float | None = field(default=None, metadata={"help": "how long a stall lasts; unset: for good"})
    refuse_s: float = field(default=0.0, metadata={"help": "after a cut new connections are reset for so long"})
    delay_s: float = field(default=0.0, metadata={"help": "one-way delay"})
    bytes_per_s: float | None = field(default=None, metadata={"help": "bandwidth of each way"})
    late_share: float = field(default=0.0, metadata={"help": "share of packets that are lost and sent again, 0-1"})
    late_s: float = field(default=0.25, metadata={"help": "how late such a packet is; all behind it wait"})
    slice_bytes: int | None = field(default=None, metadata={"help": "writes no more than so many bytes at once"})
    buffer_bytes: int | None = field(default=None, metadata={"help": "holds back what comes until there is so much"})
    buffer_s: float = field(default=0.25, metadata={"help": "or until the first byte has waited so long"})
    window_bytes: int | None = field(default=None, metadata={"help": "receive buffers, so that a stall is felt soon"})

    @property
    def shaped(self) -> bool:
        """Whether bytes take time on the line."""
        return self.delay_s > 0 or self.bytes_per_s is not None or self.late_share > 0


# The networks a race can run on. Delays are one way, bandwidths each way; a late packet holds up what is behind it, as in TCP.
NETWORKS: dict[str, Faults] = {
    "lan": Faults(delay_s=0.000_25, bytes_per_s=125e6),
    "wan": Faults(delay_s=0.040, bytes_per_s=12.5e6),
    "mobile": Faults(delay_s=0.050, bytes_per_s=1.25e6, late_share=0.005, late_s=0.2),
    "lossy": Faults(delay_s=0.050, bytes_per_s=0.6e6, late_share=0.03, late_s=0.3),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """Payload as it passed the client's side of the relay; ``at`` in epoch ms, ``connection`` counts from 0."""

    at: float
    connection: int
    way: Way
    data: bytes


class _Cut(Exception):
    """The line is cut here."""


class Connection:
    """One relayed connection: ``up_bytes`` is what the client sent, ``down_bytes`` and ``events`` what it was given.

    ``struck``: a cut, a stall or a black hole has happened to it.
    """

    def __init__(self, relay: Relay, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.relay = relay
        self.number = number
        self.up_bytes = 0
        self.down_bytes = 0
        self.events = 0
        self.fate: Fate = "open"
        self.struck = False
        self.swallowing = False
        self._near_reader = reader
        self._near = writer
        self._far: asyncio.StreamWriter | None = None
        self._moving = asyncio.Event()
        self._moving.set()
        self._severed = asyncio.Event()
        self._reset = False

    async def run(self) -> None:
        """Relay until both ends have closed or the line is cut."""
        relay = self.relay
        if relay.refusing:
            self._close("refused", reset=True)
            return
        try:
            far_reader, self._far = await _connect(relay.target, relay.faults.window_bytes)
        except OSError:
            self._close("refused", reset=True)
            return
        try:
            async with asyncio.TaskGroup() as group:
                severing = group.create_task(self._wait_for_cut())
                ways = (
                    group.create_task(_Direction(self, "up", self._near_reader, self._far).run()),
                    group.create_task(_Direction(self, "down", far_reader, self._near).run()),
                )
                await asyncio.wait(ways)
                severing.cancel()
            self._close("closed", reset=False)
        except* _Cut:
            self._close("cut", reset=self._reset)
            if not self._reset:
                # A socket that is closed with bytes unread in it sends RST: read them first.
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(_FIN_WAIT_S):
                        await asyncio.gather(_discard(self._near_reader), _discard(far_reader))
        except* OSError:
            self._close("closed", reset=True)
        finally:
            self._abort()

    def cut(self, *, reset: bool) -> None:
        """Cut it here and now, with RST or with FIN."""
        self._reset = reset
        self._severed.set()

    async def stall(self, seconds: float | None) -> None:
        """Move nothing on either way; None: for good."""
        self._moving.clear()
        if seconds is None:
            await self._severed.wait()
        else:
            await asyncio.sleep(seconds)
        self._moving.set()

    async def moving(self) -> None:
        """Wait out a stall."""
        await self._moving.wait()

    async def _wait_for_cut(self) -> None:
        await self._severed.wait()
        raise _Cut

    def _close(self, fate: Fate, *, reset: bool) -> None:
        self.fate = fate
        for writer in (self._near, self._far):
            if writer is None or writer.transport.is_closing():
                continue
            with contextlib.suppress(OSError, RuntimeError):
                if reset:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                    writer.transport.abort()
                else:
                    writer.write_eof()

    def _abort(self) -> None:
        for writer in (self._near, self._far):
            if writer is not None:
                writer.transport.abort()


class _Direction:
    """One way of one connection: takes bytes at one end, gives them out at the other when they are due."""

    def __init__(self, line: Connection, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._line = line
        self._way: Way = way
        self._reader = reader
        self._writer = writer
        self._given = 0
        self._tail = b""
        self._events = 0
        self._free_at = 0.0
        self._queued = 0
        self._room = asyncio.Event()

    async def run(self) -> None:
        faults = self._line.relay.faults
        if faults.shaped or (faults.buffer_bytes and self._way == "down"):
            await self._run_shaped()
        else:
            while data := await self._take():
                await self._give(data)
        if not self._line.swallowing and not self._writer.transport.is_closing():
            self._writer.write_eof()

    async def _take(self) -> bytes:
        await self._line.moving()
        try:
            data = await self._reader.read(_READ_BYTES)
        except OSError:
            # Into a black hole goes the end of a connection too.
            if not self._line.swallowing:
                raise
            return b""
        if self._way == "up":
            self._line.up_bytes += len(data)
            self._line.relay.note(self._line, "up", data)
        return data

    # -- bytes that take time ----------------------------------------------------------------------------------------

    async def _run_shaped(self) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._give_when_due(queue))
            async with aclosing(self._held_back()) as arriving:
                async for data in arriving:
                    faults = self._line.relay.faults
                    for piece in _pieces(data, faults.bytes_per_s):
                        self._queued += len(piece)
                        queue.put_nowait((self._due(len(piece)), piece))
                    while self._queued > _in_flight_bytes(faults):
                        self._room.clear()
                        await self._room.wait()
            queue.put_nowait((self._due(0), b""))

    async def _held_back(self) -> AsyncGenerator[bytes, None]:
        """What comes, as it comes, or, through a buffer, together."""
        held = b""
        until = 0.0
        reading = asyncio.ensure_future(self._take())
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.wait((reading,), timeout=max(0.0, until - loop.time()) if held else None)
                faults = self._line.relay.faults
                size = faults.buffer_bytes if self._way == "down" else None
                if reading.done():
                    data = reading.result()
                    if not data:
                        break
                    if not held:
                        until = loop.time() + faults.buffer_s
                    held += data
                    reading = asyncio.ensure_future(self._take())
                if size is None or len(held) >= size or loop.time() >= until:
                    yield held
                    held = b""
            if held:
                yield held
        finally:
            reading.cancel()

    def _due(self, size: int) -> float:
        """When a packet that is sent now arrives: after the ones before it, its own time on the line, and the delay."""
        faults = self._line.relay.faults
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now)
        if faults.bytes_per_s is not None:
            self._free_at += size / faults.bytes_per_s
        if faults.late_share and self._line.relay.random.random() < faults.late_share:
            self._free_at += faults.late_s
        return self._free_at + faults.delay_s

    async def _give_when_due(self, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            wait_s = due - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not data:
                return
            await self._line.moving()
            await self._give(data)
            self._queued -= len(data)
            self._room.set()

    # -- what happens at a position ----------------------------------------------------------------------------------

    async def _give(self, data: bytes) -> None:
        """Pass bytes on, up to where something is to happen."""
        line, relay = self._line, self._line.relay
        starts = list(self._starts(data))
        position = self._position(data, starts)
        self._events += sum(position is None or start < position for start in starts)
        if self._way == "down":
            line.events = self._events
        await self._write(data[:position])
        if position is None:
            return
        line.struck = True
        relay.struck += 1
        faults = relay.faults
        if faults.stall_after_bytes is not None:
            await line.stall(faults.stall_s)
        elif faults.black_hole_after_bytes is not None:
            line.swallowing = True
        else:
            relay.refuse(faults.refuse_s)
            line.cut(reset=faults.reset)
            await asyncio.Event().wait()
        await self._write(data[position:])

    def _position(self, data: bytes, starts: list[int]) -> int | None:
        """Where in ``data`` the line is struck; None: not here."""
        line, relay, faults = self._line, self._line.relay, self._line.relay.faults
        if faults.way != self._way or line.struck or (faults.times is not None and relay.struck >= faults.times):
            return None
        if faults.cut_after_event is not None:
            nth = faults.cut_after_event - self._events
            return starts[nth] if 0 <= nth < len(starts) else None
        for after in (faults.cut_after_bytes, faults.stall_after_bytes, faults.black_hole_after_bytes):
            if after is not None and self._given <= after < self._given + len(data):
                return after - self._given
        return None

    def _starts(self, data: bytes) -> Iterator[int]:
        """Where in ``data`` events start; one that started at the end of the bytes before counts as 0."""
        tail = self._tail
        text = tail + data
        for match in EVENT_START.finditer(text):
            if match.end() > len(tail):
                yield max(0, match.start() - len(tail))
        self._tail = text[-_LONGEST_START:]

    async def _write(self, data: bytes) -> None:
        self._given += len(data)
        if not data or self._line.swallowing:
            return
        if self._way == "down":
            self._line.down_bytes += len(data)
            self._line.relay.note(self._line, "down", data)
        step = self._line.relay.faults.slice_bytes or len(data)
        for nth, start in enumerate(range(0, len(data), step)):
            self._writer.write(data[start : start + step])
            await self._writer.drain()
            if nth % _SLICES_A_TURN == _SLICES_A_TURN - 1:
                await asyncio.sleep(0)


class Relay:
    """``async with Relay("127.0.0.1:8001", Faults(...)) as relay``: clients connect to ``relay.address``.

    ``faults`` may be exchanged while it runs; what shapes the bytes of a connection is taken when it opens. ``struck`` counts how
    often a line was cut, stalled or swallowed. ``capture=True`` keeps all payload in ``captured``.
    """

    def __init__(
        self,
        target: str,
        faults: Faults | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        capture: bool = False,
        seed: int = 0,
    ) -> None:
        name, _, number = target.rpartition("/")[2].rpartition(":")
        self.target = (name.strip("[]"), int(number))
        self.faults = faults or Faults()
        self.connections: list[Connection] = []
        self.captured: list[Piece] = []
        self.finished: asyncio.Queue[Connection] = asyncio.Queue()
        self.struck = 0
        self.random = random.Random(seed)
        self._listen_on = (host, port)
        self._capture = capture
        self._refuse_until = 0.0
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        host, port = self._listen_on
        limit = self.faults.window_bytes or _READ_BYTES
        self._server = await asyncio.start_server(self._accept, host, port, limit=limit, backlog=1024)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def up_bytes(self) -> int:
        """Payload that the clients have sent."""
        return sum(line.up_bytes for line in self.connections)

    @property
    def down_bytes(self) -> int:
        """Payload that the clients have been given."""
        return sum(line.down_bytes for line in self.connections)

    def cut(self, *, reset: bool = False) -> int:
        """Cut all open connections and go on taking new ones; how many there were."""
        lines = [line for line in self.connections if line.fate == "open"]
        for line in lines:
            line.cut(reset=reset)
        return len(lines)

    def swallow(self) -> None:
        """From now on all that moves on the open connections is swallowed, their end too; new ones are whole."""
        for line in self.connections:
            line.swallowing = True

    def refuse(self, seconds: float) -> None:
        """Reset every new connection for so long, from now."""
        self._refuse_until = time.monotonic() + seconds

    @property
    def refusing(self) -> bool:
        """Whether a new connection would be reset now."""
        return time.monotonic() < self._refuse_until

    def note(self, line: Connection, way: Way, data: bytes) -> None:
        """Keep what has just passed, where that is wanted."""
        if self._capture and data:
            self.captured.append(Piece(round(time.time() * 1000, 3), line.number, way, data))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Connection(self, len(self.connections), reader, writer)
        self.connections.append(line)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            # Drained to the last byte, so that what was counted is with the kernel when the line is cut.
            writer.transport.set_write_buffer_limits(0)
            await line.run()
        except asyncio.CancelledError:
            # The relay closes. What runs for a connection that is accepted has nobody to tell.
            pass
        finally:
            writer.transport.abort()
            self._running.discard(task)
            self.finished.put_nowait(line)


def _pieces(data: bytes, bytes_per_s: float | None) -> Iterator[bytes]:
    """What a narrow line takes in one step, so that a large write trickles instead of arriving late and whole."""
    step = len(data) if bytes_per_s is None else max(1, int(bytes_per_s * _THROTTLE_STEP_S))
    for start in range(0, len(data), step):
        yield data[start : start + step]


def _in_flight_bytes(faults: Faults) -> int:
    if faults.bytes_per_s is None:
        return _IN_FLIGHT_BYTES
    return _QUEUE_BYTES + int(2 * faults.delay_s * faults.bytes_per_s)


async def _connect(
    target: tuple[str, int], window_bytes: int | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if window_bytes is None:
        reader, writer = await asyncio.open_connection(*target)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, target)
        except BaseException:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock, limit=window_bytes)
    writer.transport.set_write_buffer_limits(0)
    return reader, writer


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(_READ_BYTES):
        pass


# -- by hand -------------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Relay until Ctrl-C, one line for each connection that ends."""
    parser = _parser()
    args = vars(parser.parse_args(argv))
    listen, target, network, every = args.pop("listen"), args.pop("to"), args.pop("network"), args.pop("all")
    given = {name: value for name, value in args.items() if value is not None}
    faults = replace(NETWORKS[network] if network else Faults(), **given)
    if every == bool(listen or target) or bool(listen) != bool(target):
        parser.error("give --listen and --to, or --all")
    if every:
        ports = {f"127.0.0.1:{port}": port + RELAY_OFFSET for port in _configured_ports()}
        lines = [(to, "127.0.0.1", port) for to, port in ports.items()]
    else:
        host, _, port_text = listen.rpartition(":")
        lines = [(target, host or "127.0.0.1", int(port_text))]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_relays(faults, lines))
    return 0


def _configured_ports() -> list[int]:
    """Where ``serve all`` listens."""
    return [row.port() for row in TRANSPORTS.values()]


async def _relays(faults: Faults, lines: Sequence[tuple[str, str, int]]) -> None:
    async with asyncio.TaskGroup() as group:
        for target, host, port in lines:
            group.create_task(_relay(target, faults, host, port))


async def _relay(target: str, faults: Faults, host: str, port: int) -> None:
    async with Relay(target, faults, host=host, port=port) as relay:
        print(f"{relay.address} -> {target}; Ctrl-C ends it", flush=True)
        while True:
            line = await relay.finished.get()
            print(
                f"connection {line.number} {line.fate}: up {line.up_bytes:,} B, down {line.down_bytes:,} B,"
                f" {line.events:,} events",
                flush=True,
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare relay", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--listen", metavar="[HOST:]PORT", help="where clients connect; port 0: any free")
    parser.add_argument("--to", metavar="HOST:PORT", help="the server")
    parser.add_argument(
        "--all", action="store_true", help=f"one in front of each of the five, on its port + {RELAY_OFFSET}"
    )
    parser.add_argument(
        "--network", choices=NETWORKS, help="a line of a stated delay, bandwidth and share of late packets"
    )
    for fault in fields(Faults):
        option: dict[str, Any] = {"help": fault.metadata["help"]}
        if fault.type == "bool":
            option |= {"action": "store_const", "const": True}
        elif fault.type == "Way":
            option |= {"choices": get_args(Way)}
        else:
            option |= {"type": float if "float" in str(fault.type) else int, "metavar": "N"}
        parser.add_argument("--" + fault.name.replace("_", "-"), **option)
    return parser
