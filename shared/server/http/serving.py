"""Running an app under uvicorn until a signal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from shared.config import Settings
from shared.server import launch
from shared.server.context import ServerContext
from shared.server.http import uvicorn_adapter
from shared.server.http.app import create_app
from shared.server.http.fair_reading import fair
from shared.server.http.idle_connections import IdleConnections, most_idle
from shared.server.http.open_body import OpenBodies
from shared.server.stopping import Stopping
from shared.server.tasks import first_of
from shared.server.tls import Certificate
from shared.transports import Transport


async def serve(app: FastAPI, context: ServerContext, listener: socket.socket, stopping: Stopping) -> None:
    """Run an app under uvicorn until a signal, then drain it."""
    async with running(OpenBodies(app, context.service.logger), context, listener, stopping) as serving:
        await first_of(stopping.drain(context.service), asyncio.shield(serving))


@asynccontextmanager
async def running(
    app: ASGIApp, context: ServerContext, listener: socket.socket, stopping: Stopping
) -> AsyncIterator[asyncio.Task[None]]:
    """An app under uvicorn, as a task; at the end of the block its last answers are sent, unless a second signal came."""
    config = uvicorn_config(app, context.settings, context.certificate, http2=context.http2)
    server = uvicorn_adapter.AdaptedServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield serving
    finally:
        server.should_exit = True
        server.force_exit = stopping.insisted.is_set()
        await serving


def uvicorn_config(
    app: ASGIApp, settings: Settings, certificate: Certificate | None = None, *, http2: bool = False
) -> uvicorn.Config:
    """How the HTTP servers run uvicorn. ``http2``: beside HTTP/1.1; raises ValueError where this uvicorn cannot be adapted."""
    config = uvicorn.Config(
        app,
        http=fair(_either_protocol() if http2 else uvicorn_adapter.HttpProtocol),  # type: ignore[arg-type]
        ws=uvicorn_adapter.WebSocketProtocol,
        ws_max_size=settings.max_body_bytes * 2,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.stall_timeout_s,
        # Every client that can reach the server can send X-Forwarded-For and X-Forwarded-Proto.
        proxy_headers=False,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=1,
        ssl_context_factory=None if certificate is None else lambda config, default: certificate.context(http2=http2),
    )
    config.request_timeout_s = settings.request_timeout_s  # type: ignore[attr-defined]
    config.stall_timeout_s = settings.stall_timeout_s  # type: ignore[attr-defined]
    config.idle_connections = IdleConnections(most_idle())  # type: ignore[attr-defined]
    return config


def _either_protocol() -> type[asyncio.Protocol]:
    # Imported here, because the extra ``http2`` may not be installed.
    from shared.server.http import uvicorn_http2

    if missing := uvicorn_http2.missing():
        raise ValueError(f"HTTP2: uvicorn {version('uvicorn')} has no {', '.join(missing)}; install uvicorn<0.55")
    return uvicorn_http2.EitherProtocol


def main(
    transports: Mapping[str, Transport],
    word: str,
    framework: str,
    routes: APIRouter,
    title: str,
    argv: Sequence[str] | None = None,
    *,
    opened_by_ticket: str | None = None,
) -> int:
    """Run the server of the transport ``word`` until a signal. Returns the exit status, 2 where this uvicorn cannot be adapted.

    ``transports`` is the table of all; for ``opened_by_ticket`` see ``create_app``.
    """

    async def serve_leaf(context: ServerContext, listener: socket.socket, stopping: Stopping) -> None:
        app = create_app(context, routes, title, opened_by_ticket=opened_by_ticket)
        await serve(app, context, listener, stopping)

    missing = uvicorn_adapter.missing()
    if missing:
        return launch.refuse(
            word,
            f"uvicorn {version('uvicorn')} with websockets {version('websockets')} has no {', '.join(missing)};"
            " install uvicorn<0.55 and websockets<18",
        )
    return launch.main(transports, word, framework, serve_leaf, argv)
