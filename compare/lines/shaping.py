"""When bytes arrive on a line that has a delay, a bandwidth, late packets or a buffer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from random import Random

from compare.lines.faults import Faults

# The most bytes on a line without a bandwidth; on a line with one: twice what fits into its delay, and a queue of packets.
_IN_FLIGHT_BYTES = 16 * 1024 * 1024
_QUEUE_BYTES = 256 * 1024
_THROTTLE_STEP_S = 0.01


class ArrivalClock:
    """Computes the loop time at which bytes arrive that are sent now, in one direction of one connection.

    Nothing is sent before ``open_at``, a loop time.
    """

    def __init__(self, dice: Random, open_at: float = 0.0) -> None:
        self._dice = dice
        self._free_at = open_at

    def due(self, faults: Faults, size: int) -> float:
        """The arrival time: after the bytes before, plus the time for ``size`` at the bandwidth, plus the delay."""
        self._free_at = max(self._free_at, asyncio.get_running_loop().time())
        if faults.bytes_per_s is not None:
            self._free_at += size / faults.bytes_per_s
        if faults.late_share and self._dice.random() < faults.late_share:
            self._free_at += faults.late_s
        return self._free_at + faults.delay_s


def steps(data: bytes, bytes_per_s: float | None) -> Iterator[bytes]:
    """``data`` in steps of 10 ms at this bandwidth, so that a large write trickles instead of arriving whole and late."""
    step = len(data) if bytes_per_s is None else max(1, int(bytes_per_s * _THROTTLE_STEP_S))
    for start in range(0, len(data), step):
        yield data[start : start + step]


def in_flight_bytes(faults: Faults) -> int:
    """How many bytes may be on the line before its sender has to wait."""
    if faults.bytes_per_s is None:
        return _IN_FLIGHT_BYTES
    return _QUEUE_BYTES + int(2 * faults.delay_s * faults.bytes_per_s)


async def buffered(
    read: Callable[[], Awaitable[bytes]], limits: Callable[[], tuple[int | None, float]]
) -> AsyncGenerator[bytes, None]:
    """What ``read`` returns until it returns nothing, collected as a buffer on the path does.

    ``limits`` gives the buffer's present size in bytes (None: there is no buffer) and the longest wait of its first byte in s.
    """
    held = b""
    until = 0.0
    reading = asyncio.ensure_future(read())
    loop = asyncio.get_running_loop()
    try:
        while True:
            await asyncio.wait((reading,), timeout=max(0.0, until - loop.time()) if held else None)
            size, wait_s = limits()
            if reading.done():
                data = reading.result()
                if not data:
                    break
                if not held:
                    until = loop.time() + wait_s
                held += data
                reading = asyncio.ensure_future(read())
            if size is None or len(held) >= size or loop.time() >= until:
                yield held
                held = b""
        if held:
            yield held
    finally:
        reading.cancel()
