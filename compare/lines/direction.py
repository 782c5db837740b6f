"""One direction of a relayed connection: bytes are read, delayed, made to meet the faults, and written."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from compare.lines.capture import Direction, PassedPiece
from compare.lines.connection import RelayedConnection
from compare.lines.positions import EventFinder, fault_position
from compare.lines.shaping import ArrivalClock, buffered, in_flight_bytes, steps

READ_BYTES = 64 * 1024
# Other tasks get their turn after this many writes of a sliced piece.
_SLICES_A_LOOP_TURN = 8


class OneDirection:
    """Reads bytes at one end of a connection and writes them at the other end when they are due."""

    def __init__(
        self,
        connection: RelayedConnection,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._connection = connection
        self._direction: Direction = direction
        self._reader = reader
        self._writer = writer
        faults = connection.shared.faults
        # The server accepts when the end of the handshake has reached it, so it sends its first bytes later than the client.
        opening_s = faults.connect_s + (faults.delay_s if faults.connect_s and direction == "down" else 0.0)
        self._clock = ArrivalClock(connection.shared.dice, asyncio.get_running_loop().time() + opening_s)
        self._finder = EventFinder()
        self._written = 0
        self._events = 0
        self._queued = 0
        self._queue_shrank = asyncio.Event()

    async def run(self) -> None:
        """Pass bytes on until their end, then pass the end on."""
        faults = self._connection.shared.faults
        if faults.shaped or (faults.buffer_bytes and self._direction == "down"):
            await self._run_shaped()
        else:
            while data := await self._read():
                await self._pass_on(data, _now_ms())
        if not self._connection.discarding and not self._writer.transport.is_closing():
            self._writer.write_eof()

    async def _read(self) -> bytes:
        await self._connection.moving()
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError:
            # A black hole hides the end of a connection too.
            if not self._connection.discarding:
                raise
            return b""
        if self._direction == "up":
            self._connection.count("up", data)
        return data

    async def _run_shaped(self) -> None:
        queue: asyncio.Queue[tuple[float, bytes, float]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_on_when_due(queue))
            async with aclosing(buffered(self._read, self._buffer)) as arriving:
                async for data in arriving:
                    faults, read_ms = self._connection.shared.faults, _now_ms()
                    for step in steps(data, faults.bytes_per_s):
                        self._queued += len(step)
                        queue.put_nowait((self._clock.due(faults, len(step)), step, read_ms))
                    while self._queued > in_flight_bytes(faults):
                        self._queue_shrank.clear()
                        await self._queue_shrank.wait()
            queue.put_nowait((self._clock.due(self._connection.shared.faults, 0), b"", 0.0))

    def _buffer(self) -> tuple[int | None, float]:
        faults = self._connection.shared.faults
        return faults.buffer_bytes if self._direction == "down" else None, faults.buffer_s

    async def _pass_on_when_due(self, queue: asyncio.Queue[tuple[float, bytes, float]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data, read_ms = await queue.get()
            wait_s = due - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not data:
                return
            await self._connection.moving()
            await self._pass_on(data, read_ms)
            self._queued -= len(data)
            self._queue_shrank.set()

    async def _pass_on(self, data: bytes, read_ms: float) -> None:
        """Write ``data``, which was read at ``read_ms``; at the position of a fault, let the fault happen."""
        connection, shared = self._connection, self._connection.shared
        starts = self._finder.starts(data)
        if shared.timed:
            piece = PassedPiece(connection.number, self._direction, len(data), len(starts), read_ms, _now_ms())
            shared.passed.append(piece)
        position = self._fault_position(data, starts)
        self._events += sum(position is None or start < position for start in starts)
        if self._direction == "down":
            connection.events = self._events
        await self._write(data[:position])
        if position is None:
            return
        connection.faulted = True
        shared.fault_count += 1
        faults = shared.faults
        if faults.stall_after_bytes is not None:
            await connection.stall(faults.stall_s)
        elif faults.black_hole_after_bytes is not None:
            connection.discarding = True
        else:
            shared.refuse(faults.refuse_s)
            connection.cut(reset=faults.reset)
            await asyncio.Event().wait()
        await self._write(data[position:])

    def _fault_position(self, data: bytes, starts: list[int]) -> int | None:
        shared, faults = self._connection.shared, self._connection.shared.faults
        used_up = faults.times is not None and shared.fault_count >= faults.times
        if faults.direction != self._direction or self._connection.faulted or used_up:
            return None
        return fault_position(faults, data, starts, passed_bytes=self._written, passed_events=self._events)

    async def _write(self, data: bytes) -> None:
        self._written += len(data)
        if not data or self._connection.discarding:
            return
        if self._direction == "down":
            self._connection.count("down", data)
        size = self._connection.shared.faults.slice_bytes or len(data)
        for nth, start in enumerate(range(0, len(data), size)):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            if nth % _SLICES_A_LOOP_TURN == _SLICES_A_LOOP_TURN - 1:
                await asyncio.sleep(0)


def _now_ms() -> float:
    return time.time() * 1000
