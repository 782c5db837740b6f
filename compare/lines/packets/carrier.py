"""``python -m compare.lines.packets.carrier CLIENT_DEVICE SERVER_DEVICE DELAY_S``: carries IP packets between two TUN devices.

Each packet arrives after the delay. Of the packets from the server a seeded share is dropped. Both ends are the kernel's own TCP
and UDP, so a dropped packet has the effect that it has on a real line. A line of JSON on stdin sets the share and the seed or asks
for the counters; each is answered by the counters since the last setting. The process ends with its stdin.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
import sys
from collections import deque
from dataclasses import dataclass

import msgspec

# Linux, include/uapi/linux/if_tun.h: a TUN device carries IP packets, here without a header of its own before each.
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MAX_PACKET_BYTES = 65536
# So many packets are read before the loop looks at its timers again.
_PACKETS_AT_ONCE = 64


class Loss(msgspec.Struct, frozen=True, tag=True):
    """Drop this share of the packets from the server from now on, with dice of this seed, and count from 0."""

    share: float
    seed: int


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Tell the counters."""


class Packets(msgspec.Struct, frozen=True, kw_only=True):
    """How many packets the carrier has read from each side, and how many from the server it has dropped."""

    up: int
    down: int
    dropped: int


@dataclass(slots=True)
class _Way:
    """One direction of the line. ``waiting``: packets with the loop time at which each is due."""

    source: int
    sink: int
    waiting: deque[tuple[float, bytes]]
    timer: asyncio.TimerHandle | None = None
    count: int = 0


class Carrier:
    """The two directions of the line; ``up`` is from the client to the server."""

    def __init__(self, client: int, server: int, delay_s: float) -> None:
        self._delay_s = delay_s
        self._up = _Way(client, server, deque())
        self._down = _Way(server, client, deque())
        self._dropped = 0
        self._share = 0.0
        self._dice = random.Random(0)

    def begin(self) -> None:
        """Carry packets from now on."""
        loop = asyncio.get_running_loop()
        for way in (self._up, self._down):
            os.set_blocking(way.source, False)
            loop.add_reader(way.source, self._read, way)

    def set_loss(self, loss: Loss) -> None:
        """See ``Loss``."""
        self._share, self._dice = loss.share, random.Random(loss.seed)
        self._up.count = self._down.count = self._dropped = 0

    def packets(self) -> Packets:
        """The counters."""
        return Packets(up=self._up.count, down=self._down.count, dropped=self._dropped)

    def _read(self, way: _Way) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(way.source, _MAX_PACKET_BYTES)
            except OSError:
                # No packet waits, or the device is just being removed.
                break
            way.count += 1
            if way is self._down and self._share and self._dice.random() < self._share:
                self._dropped += 1
                continue
            way.waiting.append((loop.time() + self._delay_s, packet))
        self._deliver(way)

    def _deliver(self, way: _Way) -> None:
        """Write the packets that are due, and come back for the next."""
        loop = asyncio.get_running_loop()
        while way.waiting and way.waiting[0][0] <= loop.time():
            _, packet = way.waiting.popleft()
            try:
                os.write(way.sink, packet)
            except OSError:
                # The device is not up, or is just being removed.
                continue
        if way.timer is not None:
            way.timer.cancel()
            way.timer = None
        if way.waiting:
            way.timer = loop.call_at(way.waiting[0][0], self._deliver, way)


def open_tun(name: str) -> int:
    """A new TUN device of this name, as a file descriptor. The kernel removes the device with the descriptor.

    Raises OSError where there is no /dev/net/tun, or no right to make a device.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


async def _carry(client_name: str, server_name: str, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    carrier = Carrier(open_tun(client_name), open_tun(server_name), delay_s)
    carrier.begin()
    _tell(carrier)
    while line := await commands.readline():
        command = msgspec.json.decode(line, type=Loss | Ask)
        if isinstance(command, Loss):
            carrier.set_loss(command)
        _tell(carrier)


def _tell(carrier: Carrier) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(carrier.packets()) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_carry(sys.argv[1], sys.argv[2], float(sys.argv[3])))
