"""Between a connection's transport and its protocol: no connection holds up the others with what it sends.

What arrives is handed to the protocol in small pieces, in turn with the other connections. The parsing of one read (256 KiB
of empty WebSocket frames, of chunks of one byte, of pipelined requests) would stop the event loop for a second. A
connection whose peer does not read what it is sent is not read either, so that no answer piles up for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

# A piece begins small, and doubles while pieces cost next to nothing, as those of a large body do.
_LEAST_PIECE_BYTES = 1024
_MOST_PIECE_BYTES = 16 * 1024
_CHEAP_S = 0.0001
_DEAR_S = 0.0005
# Of each turn of the event loop, this much goes to connections that have sent more than one piece.
_TURN_S = 0.003


class ReadingTurns:
    """The connections whose input waits: each hands over one piece, then the next connection does."""

    def __init__(self) -> None:
        self._waiting: deque[FairReading] = deque()
        self._scheduled = False

    def add(self, connection: FairReading) -> None:
        """Let a connection take part, from the next turn of the event loop on."""
        self._waiting.append(connection)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        until = time.perf_counter() + _TURN_S
        while self._waiting and time.perf_counter() < until:
            connection = self._waiting.popleft()
            if connection.hand_over():
                self._waiting.append(connection)
        self._schedule()


class FairReading(asyncio.Protocol):
    """The protocol that the event loop calls. It passes the input on to the protocol ``inner``."""

    def __init__(self, inner: asyncio.Protocol, turns: ReadingTurns) -> None:
        self.inner = inner
        self._turns = turns
        self._transport: asyncio.Transport
        # From ``_start`` on: the input that the inner protocol has not been given yet.
        self._input = b""
        self._start = 0
        self._piece_bytes = _LEAST_PIECE_BYTES
        self._in_turns = False
        self._refused_by_inner = False
        self._unread_by_peer = False
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.inner.connection_made(_InnerTransport(self._transport, self))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._input and len(data) <= _LEAST_PIECE_BYTES and not self._held:
            self.inner.data_received(data)
            return
        self._input = self._input[self._start :] + data
        self._start = 0
        self._settle()

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self._unread_by_peer = True
        self.inner.pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        self._unread_by_peer = False
        self.inner.resume_writing()
        self._settle()

    def refuse_input(self, refused: bool) -> None:
        """Note whether the inner protocol refuses input for now."""
        self._refused_by_inner = refused
        self._settle()

    def hand_over(self) -> bool:
        """Give the inner protocol one piece. Returns whether another can follow in this connection's next turn."""
        self._in_turns = False
        if self._lost or self._held or not self._input:
            return False
        piece = self._input[self._start : self._start + self._piece_bytes]
        self._start += len(piece)
        if self._start >= len(self._input):
            self._input, self._start = b"", 0
        begun = time.perf_counter()
        self.inner.data_received(piece)
        took_s = time.perf_counter() - begun
        if took_s < _CHEAP_S:
            self._piece_bytes = min(2 * self._piece_bytes, _MOST_PIECE_BYTES)
        elif took_s > _DEAR_S:
            self._piece_bytes = _LEAST_PIECE_BYTES
        self._in_turns = bool(self._input) and not self._held and not self._lost
        if not self._in_turns:
            self._settle()
        return self._in_turns

    @property
    def _held(self) -> bool:
        return self._refused_by_inner or self._unread_by_peer

    def _settle(self) -> None:
        """Read from the transport when nothing waits here, and take part in the turns when something does."""
        if self._lost or self._transport.is_closing():
            return
        if self._input or self._held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
        if self._input and not self._held and not self._in_turns:
            self._in_turns = True
            self._turns.add(self)


class _InnerTransport(asyncio.Transport):
    """The transport as the inner protocol sees it: its control of reading goes through ``FairReading``."""

    def __init__(self, transport: asyncio.Transport, reading: FairReading) -> None:
        super().__init__()
        self._transport = transport
        self._reading = reading
        self.write = transport.write  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]

    def pause_reading(self) -> None:
        self._reading.refuse_input(True)

    def resume_reading(self) -> None:
        self._reading.refuse_input(False)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._reading.inner = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._reading.inner

    def writelines(self, list_of_data: Any) -> None:
        self._transport.writelines(list_of_data)

    def write_eof(self) -> None:
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)


def fair(protocol: Callable[..., asyncio.Protocol]) -> Callable[..., FairReading]:
    """The same protocol, with fair reading: for ``uvicorn.Config(http=…)``."""
    turns = ReadingTurns()
    return lambda **given: FairReading(protocol(**given), turns)
