"""Running an app under uvicorn until a signal: HTTP/1.1 (RFC 9112) and WebSocket (RFC 6455), with what uvicorn leaves open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from shared.server import launch
from shared.server.context import ServerContext
from shared.server.http.app import create_app
from shared.server.signals import Stopping
from shared.server.tasks import first_of
from shared.transports import Transport


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: ours drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with a limit on how long a client may take over its request's head (slow-loris)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = asyncio.get_running_loop().call_later(self.config.request_timeout_s, self._late)  # type: ignore[attr-defined]

    def on_headers_complete(self) -> None:
        self._head.cancel()
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head.cancel()
        self._head = asyncio.get_running_loop().call_later(self.config.request_timeout_s, self._late)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.cancel()
        super().connection_lost(exc)

    def _late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket (RFC 6455) with three differences.

    The app may send ready frames, ``{"type": "websocket.send", "frames": bytes}``, any number in one write. A stopping server
    leaves the close to the app, which is told by ``websocket.disconnect`` with 1012. A peer that does not answer pings is dropped
    even when it does not read either.
    """

    async def send(self, message: Any) -> None:
        frames = message.get("frames")
        if frames is None:
            await super().send(message)
            return
        if not self.writable.is_set():
            await self.writable.wait()
        if self.disconnected or self.conn.state is not State.OPEN:
            raise ClientDisconnected
        self.transport.write(frames)

    def shutdown(self) -> None:
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        else:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012, "reason": None})

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()


async def serve(app: FastAPI, context: ServerContext, listener: socket.socket, stopping: Stopping) -> None:
    """Run an app under uvicorn until a signal, then drain it."""
    settings = context.settings
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws=_WebSocketProtocol,
        ws_max_size=settings.max_body_bytes * 2,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.stall_timeout_s,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    config.request_timeout_s = settings.request_timeout_s  # type: ignore[attr-defined]
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await first_of(stopping.drain(context.service), asyncio.shield(serving))
    server.should_exit = True
    server.force_exit = stopping.insisted.is_set()
    await serving


def main(
    transports: Mapping[str, Transport],
    word: str,
    framework: str,
    routes: APIRouter,
    title: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Run the server of the transport ``word`` until a signal; the exit status. ``transports`` is the table of all."""

    async def serve_leaf(context: ServerContext, listener: socket.socket, stopping: Stopping) -> None:
        await serve(create_app(context, routes, title), context, listener, stopping)

    return launch.main(transports, word, framework, serve_leaf, argv)
