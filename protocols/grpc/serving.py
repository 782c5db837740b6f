"""How the gRPC server listens, which of the library's options it sets, and how it runs until the drain has ended."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from protocols.grpc.open_services import open_handlers
from protocols.grpc.web_port import page_listening
from shared.config import Settings
from shared.server import launch
from shared.server.context import ServerContext
from shared.server.stopping import Stopping
from shared.server.tls import certificate

_MAX_METADATA_BYTES = 16 * 1024
# After the drain, calls have this long to write their last messages and statuses.
_STOP_S = 0.4


@dataclass(frozen=True, slots=True)
class Listeners:
    """The library's server, and the socket of the port for pages, if there is one."""

    server: grpc.aio.Server
    pages: socket.socket | None


@asynccontextmanager
async def listening(host: str, port: int, settings: Settings) -> AsyncIterator[launch.Bound]:
    """A server that holds its port, and the socket of the port for pages: the ``Listeners`` of a ``Bound``.

    Raises OSError when another program holds a port, ValueError for a port that cannot be served.
    """
    # A plain socket tries the port first, because the library writes a log line about a taken port.
    launch.listen(host, port, settings.stall_timeout_s).close()
    server = grpc.aio.server(options=options(settings))
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    found = certificate(settings)
    try:
        if found is None:
            number = server.add_insecure_port(where)
        else:
            pair = found.key.read_bytes(), found.cert.read_bytes()
            number = server.add_secure_port(where, grpc.ssl_server_credentials([pair]))
    except RuntimeError:
        raise OSError(f"cannot listen on {host}:{port}; choose another --port") from None
    try:
        with page_listening(host, port and number, settings) as pages:
            yield launch.Bound(Listeners(server, pages.listener), number, pages.port, pages.off)
    finally:
        await server.stop(None)


def options(settings: Settings) -> list[tuple[str, int]]:
    """The library's options (grpc/impl/channel_arg_names.h) that differ from its defaults."""
    heartbeat_ms = int(settings.heartbeat_s * 1000)
    stall_ms = int(settings.stall_timeout_s * 1000)
    request_ms = int(settings.request_timeout_s * 1000)
    return [
        # Off: with it, a second server on the same port would start and would receive half of the connections.
        ("grpc.so_reuseport", 0),
        # Twice our own limit, so that our error is sent and not the library's.
        ("grpc.max_receive_message_length", settings.max_body_bytes * 2),
        ("grpc.max_send_message_length", -1),
        # Calls that arrive at the same time wait for their turn. Past 1,000, the library would refuse some of them by chance.
        ("grpc.server.max_pending_requests", settings.max_streams),
        ("grpc.server.max_pending_requests_hard_limit", settings.max_streams),
        # One connection may have no more open calls than this. A call that is reset at once (CVE-2023-44487) counts
        # until the server has dropped it, and a client's library holds back what is over the limit.
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        # Off: it counts calls that have ended and are not cleaned up yet, and so refuses calls of a client that keeps to the
        # limit above.
        ("grpc.http.overload_protection", 0),
        # One limit for the metadata of a call. By default some calls between 8 and 16 KiB are refused by chance.
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # The server sends a PING in each silence, so that it notices a connection that broke without a sign.
        ("grpc.keepalive_time_ms", heartbeat_ms),
        ("grpc.keepalive_timeout_ms", stall_ms),
        # The library waits for the answer to a PING by this option, one minute by default, and not by the one above.
        ("grpc.http2.ping_timeout_ms", stall_ms),
        # The longest wait for a client's TLS handshake, its connection preface and its SETTINGS (RFC 9113, section 3.4).
        ("grpc.server_handshake_timeout_ms", request_ms),
        ("grpc.http2.settings_timeout", request_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients may send a PING as often as they like: behind a mobile network they have to.
        ("grpc.http2.max_ping_strikes", 0),
    ]


async def run(
    server_context: ServerContext, server: grpc.aio.Server, stopping: Stopping, services: Sequence[str]
) -> None:
    """Answer calls until a signal, then drain. ``services``: the names that health and reflection list."""
    service = server_context.service
    server.add_generic_rpc_handlers(open_handlers(service, services, server_context.settings.max_body_bytes))
    await server.start()
    await stopping.drain(service)
    await server.stop(_STOP_S)
