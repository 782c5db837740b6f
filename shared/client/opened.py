"""The TCP connections that httpcore has opened for one client, so that each of them is closed with the client.

httpcore forgets a connection before it closes the connection, and shields the closing from anyio's cancellation only. After a
``cancel`` of asyncio at that moment, or during a TLS handshake, nothing closes the connection. A request that is connecting while
the client is closed opens a connection that the pool does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

_FEW = 16


class _Stream(Protocol):
    """A connection, as httpcore's network backend returns it."""

    async def aclose(self) -> None:
        """Close it."""

    def get_extra_info(self, info: str) -> Any:
        """``socket``: the socket under it."""


class OpenedConnections:
    """Put ``trace`` into the ``trace`` extension of every request; ``aclose`` closes what is still open."""

    def __init__(self) -> None:
        self._streams: list[_Stream] = []
        self._many = _FEW
        self._closed = False

    async def trace(self, step: str, info: Mapping[str, Any]) -> None:
        """httpcore calls this at each step of a request (https://www.encode.io/httpcore/extensions/#trace)."""
        if step != "connection.connect_tcp.complete":
            return
        stream: _Stream = info["return_value"]
        if self._closed:
            await stream.aclose()
            return
        if len(self._streams) >= self._many:
            self._streams = [one for one in self._streams if _is_open(one)]
            self._many = max(_FEW, 2 * len(self._streams))
        self._streams.append(stream)

    async def aclose(self) -> None:
        """Close every connection, also when the caller is cancelled meanwhile: each is closed in a task of its own."""
        self._closed = True
        closing = [asyncio.ensure_future(stream.aclose()) for stream in self._streams if _is_open(stream)]
        self._streams.clear()
        if closing:
            await asyncio.wait(closing)


def _is_open(stream: _Stream) -> bool:
    return bool(stream.get_extra_info("socket").fileno() != -1)
