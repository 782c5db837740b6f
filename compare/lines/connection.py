"""One connection through a relay, and what all connections of a relay share."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from typing import Literal

from compare.lines.capture import CapturedBytes, Direction, PassedPiece
from compare.lines.faults import Faults

State = Literal["open", "closed", "cut", "refused"]

# SO_LINGER with a time of 0: closing the socket sends RST.
_LINGER_RESET = struct.pack("ii", 1, 0)


class SharedState:
    """What the connections of one relay share.

    ``faults`` may be replaced at any time; a connection is shaped by the faults at its opening. ``fault_count`` counts cuts, stalls
    and black holes. ``captured`` holds all payload, when the relay captures. ``passed`` holds the times of all pieces of payload,
    when the relay is ``timed``.
    """

    def __init__(self, faults: Faults, *, capture: bool, timed: bool, seed: int) -> None:
        self.faults = faults
        self.fault_count = 0
        self.captured: list[CapturedBytes] = []
        self.passed: list[PassedPiece] = []
        self.timed = timed
        self.dice = random.Random(seed)
        self._capturing = capture
        self._refuse_until = 0.0

    def refuse(self, seconds: float) -> None:
        """Reset every new connection for this long from now."""
        self._refuse_until = time.monotonic() + seconds

    @property
    def refusing(self) -> bool:
        """Whether a new connection would be reset now."""
        return time.monotonic() < self._refuse_until

    def capture(self, connection: int, direction: Direction, data: bytes) -> None:
        """Keep what has just passed, when the relay captures."""
        if self._capturing and data:
            self.captured.append(CapturedBytes(round(time.time() * 1000, 3), connection, direction, data))


class RelayedConnection:
    """One relayed connection.

    ``up_bytes`` counts what the client sent; ``down_bytes`` and ``events`` count what the client was given. ``faulted`` is True
    once a cut, a stall or a black hole has happened to the connection; ``discarding`` is True in a black hole.
    """

    def __init__(self, shared: SharedState, number: int, client: asyncio.StreamWriter) -> None:
        self.shared = shared
        self.number = number
        self.up_bytes = 0
        self.down_bytes = 0
        self.events = 0
        self.state: State = "open"
        self.faulted = False
        self.discarding = False
        self.cut_asked = asyncio.Event()
        self.reset = False
        self._writers = [client]
        self._moving = asyncio.Event()
        self._moving.set()

    def add_server(self, writer: asyncio.StreamWriter) -> None:
        """Add the end at the server, so that it is closed with the end at the client."""
        self._writers.append(writer)

    def count(self, direction: Direction, data: bytes) -> None:
        """Count payload, and keep it when the relay captures."""
        if direction == "up":
            self.up_bytes += len(data)
        else:
            self.down_bytes += len(data)
        self.shared.capture(self.number, direction, data)

    def cut(self, *, reset: bool) -> None:
        """Cut the connection now, with RST or with FIN."""
        self.reset = reset
        self.cut_asked.set()

    async def stall(self, seconds: float | None) -> None:
        """Pass nothing in either direction for this long; None means until the connection is cut."""
        self._moving.clear()
        if seconds is None:
            await self.cut_asked.wait()
        else:
            await asyncio.sleep(seconds)
        self._moving.set()

    async def moving(self) -> None:
        """Wait until no stall holds the connection."""
        await self._moving.wait()

    def close(self, state: State, *, reset: bool) -> None:
        """Send RST or FIN to both ends."""
        self.state = state
        for writer in self._writers:
            if writer.transport.is_closing():
                continue
            with contextlib.suppress(OSError, RuntimeError):
                if reset:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                    writer.transport.abort()
                else:
                    writer.write_eof()

    def abort(self) -> None:
        """Close both sockets at once."""
        for writer in self._writers:
            writer.transport.abort()
