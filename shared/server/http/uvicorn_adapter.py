"""uvicorn's protocol classes, adapted: HTTP/1.1 (RFC 9112) and WebSocket (RFC 6455) as the four HTTP servers need them.

The classes are private to uvicorn, so this is the only file that names them. ``missing`` tells what a newer uvicorn has moved.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# A connection whose unsent frames reach this size writes at once: then the transport can say that its reader is slow.
_WRITE_BYTES = 64 * 1024
# What the classes below use or override, by the class that has it.
_USED: dict[type, tuple[str, ...]] = {
    uvicorn.Server: ("capture_signals", "force_exit", "serve", "should_exit"),
    HttpToolsProtocol: (
        "config",
        "connection_lost",
        "connection_made",
        "on_headers_complete",
        "on_message_begin",
        "transport",
    ),
    WebSocketsSansIOProtocol: (
        "close_sent",
        "connection_made",
        "handshake_complete",
        "keepalive_timeout",
        "loop",
        "queue",
        "shutdown",
        "transport",
    ),
}


def missing() -> list[str]:
    """The attributes of uvicorn's classes that this module uses and the installed uvicorn does not have."""
    return [
        f"{kind.__module__}.{kind.__qualname__}.{name}"
        for kind, names in _USED.items()
        for name in names
        if not hasattr(kind, name) and name not in vars(kind)["__init__"].__code__.co_names
    ]


class Server(uvicorn.Server):
    """uvicorn without its own signal handling, because the servers drain before they stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with a limit on the time that a client may take for the head of a request (slow-loris)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self._limit_head()

    def on_headers_complete(self) -> None:
        self._head.cancel()
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head.cancel()
        self._head = self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.cancel()
        super().connection_lost(exc)

    def _limit_head(self) -> asyncio.TimerHandle:
        timeout_s: float = self.config.request_timeout_s  # type: ignore[attr-defined]
        return asyncio.get_running_loop().call_later(timeout_s, self._close_late)

    def _close_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with three differences.

    The frames that are sent within one turn of the event loop are one write. A stopping server leaves the close to the app, which
    receives ``websocket.disconnect`` with 1012. A peer that does not answer pings is dropped even when it does not read.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(_JoiningTransport(cast(asyncio.Transport, transport), self.loop))

    def shutdown(self) -> None:
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        else:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012, "reason": None})

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()


class _JoiningTransport(asyncio.Transport):
    """A transport that joins what is written within one turn of the event loop into one write."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0

    def write(self, data: Any) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._unsent.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
