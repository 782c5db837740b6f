"""A relay on the line between clients and a server: it counts TCP payload, cuts, stalls, delays, throttles and slices.

The relay knows no protocol. ``python -m compare relay`` runs it by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from contextlib import aclosing
from typing import Literal, Self

from compare.lines.capture import CapturedBytes, Direction
from compare.lines.faults import Faults
from compare.lines.positions import EventFinder, fault_position
from compare.lines.shaping import ArrivalClock, buffered, in_flight_bytes, steps

State = Literal["open", "closed", "cut", "refused"]

_READ_BYTES = 64 * 1024
_FIN_WAIT_S = 1.0
# Other tasks get their turn after this many writes of a sliced piece.
_SLICES_A_LOOP_TURN = 8
_LINGER_RESET = struct.pack("ii", 1, 0)


class _Cut(Exception):
    """The connection is cut."""


class Connection:
    """One relayed connection.

    ``up_bytes`` counts what the client sent; ``down_bytes`` and ``events`` count what the client was given. ``faulted`` is True
    once a cut, a stall or a black hole has happened to the connection.
    """

    def __init__(self, relay: Relay, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.relay = relay
        self.number = number
        self.up_bytes = 0
        self.down_bytes = 0
        self.events = 0
        self.state: State = "open"
        self.faulted = False
        self.discarding = False
        self._client_reader = reader
        self._client = writer
        self._server: asyncio.StreamWriter | None = None
        self._moving = asyncio.Event()
        self._moving.set()
        self._cut_asked = asyncio.Event()
        self._reset = False

    async def run(self) -> None:
        """Relay until both ends have closed or the connection is cut."""
        relay = self.relay
        if relay.refusing:
            self._close("refused", reset=True)
            return
        try:
            server_reader, self._server = await _connect(relay.target, relay.faults.window_bytes)
        except OSError:
            self._close("refused", reset=True)
            return
        try:
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(self._wait_for_cut())
                directions = (
                    group.create_task(_OneDirection(self, "up", self._client_reader, self._server).run()),
                    group.create_task(_OneDirection(self, "down", server_reader, self._client).run()),
                )
                await asyncio.wait(directions)
                waiting.cancel()
            self._close("closed", reset=False)
        except* _Cut:
            self._close("cut", reset=self._reset)
            if not self._reset:
                # A socket that is closed with unread bytes sends RST instead of FIN, so the unread bytes are read first.
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(_FIN_WAIT_S):
                        await asyncio.gather(_discard(self._client_reader), _discard(server_reader))
        except* OSError:
            self._close("closed", reset=True)
        finally:
            self._abort()

    def cut(self, *, reset: bool) -> None:
        """Cut the connection now, with RST or with FIN."""
        self._reset = reset
        self._cut_asked.set()

    async def stall(self, seconds: float | None) -> None:
        """Pass nothing in either direction for this long; None means until the connection is cut."""
        self._moving.clear()
        if seconds is None:
            await self._cut_asked.wait()
        else:
            await asyncio.sleep(seconds)
        self._moving.set()

    async def moving(self) -> None:
        """Wait until no stall holds the connection."""
        await self._moving.wait()

    async def _wait_for_cut(self) -> None:
        await self._cut_asked.wait()
        raise _Cut

    def _close(self, state: State, *, reset: bool) -> None:
        self.state = state
        for writer in (self._client, self._server):
            if writer is None or writer.transport.is_closing():
                continue
            with contextlib.suppress(OSError, RuntimeError):
                if reset:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                    writer.transport.abort()
                else:
                    writer.write_eof()

    def _abort(self) -> None:
        for writer in (self._client, self._server):
            if writer is not None:
                writer.transport.abort()


class _OneDirection:
    """Reads bytes at one end of a connection and writes them at the other end when they are due."""

    def __init__(
        self, connection: Connection, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connection = connection
        self._direction: Direction = direction
        self._reader = reader
        self._writer = writer
        self._clock = ArrivalClock(connection.relay.dice)
        self._finder = EventFinder()
        self._written = 0
        self._events = 0
        self._queued = 0
        self._queue_shrank = asyncio.Event()

    async def run(self) -> None:
        faults = self._connection.relay.faults
        if faults.shaped or (faults.buffer_bytes and self._direction == "down"):
            await self._run_shaped()
        else:
            while data := await self._read():
                await self._pass_on(data)
        if not self._connection.discarding and not self._writer.transport.is_closing():
            self._writer.write_eof()

    async def _read(self) -> bytes:
        await self._connection.moving()
        try:
            data = await self._reader.read(_READ_BYTES)
        except OSError:
            # A black hole hides the end of a connection too.
            if not self._connection.discarding:
                raise
            return b""
        if self._direction == "up":
            self._connection.up_bytes += len(data)
            self._connection.relay.capture(self._connection, "up", data)
        return data

    async def _run_shaped(self) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_on_when_due(queue))
            async with aclosing(buffered(self._read, self._buffer)) as arriving:
                async for data in arriving:
                    faults = self._connection.relay.faults
                    for step in steps(data, faults.bytes_per_s):
                        self._queued += len(step)
                        queue.put_nowait((self._clock.due(faults, len(step)), step))
                    while self._queued > in_flight_bytes(faults):
                        self._queue_shrank.clear()
                        await self._queue_shrank.wait()
            queue.put_nowait((self._clock.due(self._connection.relay.faults, 0), b""))

    def _buffer(self) -> tuple[int | None, float]:
        faults = self._connection.relay.faults
        return faults.buffer_bytes if self._direction == "down" else None, faults.buffer_s

    async def _pass_on_when_due(self, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            wait_s = due - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not data:
                return
            await self._connection.moving()
            await self._pass_on(data)
            self._queued -= len(data)
            self._queue_shrank.set()

    async def _pass_on(self, data: bytes) -> None:
        """Write ``data``; at the position of a fault, let the fault happen."""
        connection, relay = self._connection, self._connection.relay
        starts = self._finder.starts(data)
        position = self._fault_position(data, starts)
        self._events += sum(position is None or start < position for start in starts)
        if self._direction == "down":
            connection.events = self._events
        await self._write(data[:position])
        if position is None:
            return
        connection.faulted = True
        relay.fault_count += 1
        faults = relay.faults
        if faults.stall_after_bytes is not None:
            await connection.stall(faults.stall_s)
        elif faults.black_hole_after_bytes is not None:
            connection.discarding = True
        else:
            relay.refuse(faults.refuse_s)
            connection.cut(reset=faults.reset)
            await asyncio.Event().wait()
        await self._write(data[position:])

    def _fault_position(self, data: bytes, starts: list[int]) -> int | None:
        relay, faults = self._connection.relay, self._connection.relay.faults
        used_up = faults.times is not None and relay.fault_count >= faults.times
        if faults.direction != self._direction or self._connection.faulted or used_up:
            return None
        return fault_position(faults, data, starts, passed_bytes=self._written, passed_events=self._events)

    async def _write(self, data: bytes) -> None:
        self._written += len(data)
        if not data or self._connection.discarding:
            return
        if self._direction == "down":
            self._connection.down_bytes += len(data)
            self._connection.relay.capture(self._connection, "down", data)
        size = self._connection.relay.faults.slice_bytes or len(data)
        for nth, start in enumerate(range(0, len(data), size)):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            if nth % _SLICES_A_LOOP_TURN == _SLICES_A_LOOP_TURN - 1:
                await asyncio.sleep(0)


class Relay:
    """``async with Relay("127.0.0.1:8001", Faults(...)) as relay``: clients connect to ``relay.address``.

    ``faults`` may be replaced while the relay runs; a connection is shaped by the faults at its opening. ``fault_count`` counts
    cuts, stalls and black holes. With ``capture=True`` the relay keeps all payload in ``captured``.
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
        self.captured: list[CapturedBytes] = []
        self.finished: asyncio.Queue[Connection] = asyncio.Queue()
        self.fault_count = 0
        self.dice = random.Random(seed)
        self._listen_on = (host, port)
        self._capturing = capture
        self._refuse_until = 0.0
        self._listener: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        host, port = self._listen_on
        limit = self.faults.window_bytes or _READ_BYTES
        self._listener = await asyncio.start_server(self._accept, host, port, limit=limit, backlog=1024)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._listener is not None:
            self._listener.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        assert self._listener is not None
        host, port = self._listener.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def up_bytes(self) -> int:
        """Payload that the clients have sent."""
        return sum(connection.up_bytes for connection in self.connections)

    @property
    def down_bytes(self) -> int:
        """Payload that the clients have been given."""
        return sum(connection.down_bytes for connection in self.connections)

    def cut(self, *, reset: bool = False) -> int:
        """Cut all open connections and go on accepting new ones; the number of connections that were cut."""
        open_connections = [connection for connection in self.connections if connection.state == "open"]
        for connection in open_connections:
            connection.cut(reset=reset)
        return len(open_connections)

    def discard(self) -> None:
        """Discard from now on everything on the open connections, their end too. New connections are not affected."""
        for connection in self.connections:
            connection.discarding = True

    def refuse(self, seconds: float) -> None:
        """Reset every new connection for this long from now."""
        self._refuse_until = time.monotonic() + seconds

    @property
    def refusing(self) -> bool:
        """Whether a new connection would be reset now."""
        return time.monotonic() < self._refuse_until

    def capture(self, connection: Connection, direction: Direction, data: bytes) -> None:
        """Keep what has just passed, when the relay captures."""
        if self._capturing and data:
            self.captured.append(CapturedBytes(round(time.time() * 1000, 3), connection.number, direction, data))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, len(self.connections), reader, writer)
        self.connections.append(connection)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            # With a limit of 0, drain() returns when the kernel has every byte, so a cut loses none of the counted bytes.
            writer.transport.set_write_buffer_limits(0)
            await connection.run()
        except asyncio.CancelledError:
            # The relay closes. asyncio would log the cancellation of this task as an error.
            pass
        finally:
            writer.transport.abort()
            self._running.discard(task)
            self.finished.put_nowait(connection)


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
