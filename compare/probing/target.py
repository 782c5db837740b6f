"""The address that is probed: where it is, how a connection to it is opened, and which key goes with a request."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.errors import ServerAbsent

CONNECT_S = 5.0
_PORTS = {"http": 80, "ws": 80, "grpc": 50051, "https": 443, "wss": 443, "grpcs": 443}
_OVER_TLS = frozenset({"https", "wss", "grpcs"})


@dataclass(frozen=True, slots=True)
class Target:
    """An address in parts.

    ``path`` is ``/`` unless the address names another one: then the server is a foreign one. ``key`` goes into ``key_header``:
    ``Authorization`` as a bearer, or ``X-API-Key``. ``trust`` holds the trusted certificates, where TLS is used.
    """

    host: str
    port: int
    path: str = "/"
    key: str | None = None
    key_header: str = "Authorization"
    trust: ssl.SSLContext | None = None

    @property
    def authority(self) -> str:
        """``host:port``, as it stands in ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def authorization(self) -> tuple[tuple[str, str], ...]:
        """The header that carries the key; nothing where there is no key."""
        if not self.key:
            return ()
        value = f"Bearer {self.key}" if self.key_header == "Authorization" else self.key
        return ((self.key_header, value),)


def parse_target(address: str, key: str | None = None, trust: ssl.SSLContext | None = None) -> Target:
    """``HOST:PORT`` or a URL as a target. Raises ValueError for a text that is neither."""
    if "://" not in address:
        address = f"http://{address}"
    parts = urlsplit(address)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"{address} is not an address: give HOST:PORT or a URL of http, https, ws, wss, grpc or grpcs")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    tls = trust or ssl.create_default_context() if parts.scheme in _OVER_TLS else None
    return Target(parts.hostname, parts.port or _PORTS[parts.scheme], path, key, trust=tls)


async def connect(
    target: Target, protocols: Sequence[str] = ("http/1.1",)
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection; over TLS it offers ``protocols`` (ALPN). Raises ServerAbsent when there is none within 5 s."""
    options = {}
    if target.trust is not None:
        target.trust.set_alpn_protocols(list(protocols))
        options = {"ssl": target.trust, "server_hostname": target.host}
    try:
        async with asyncio.timeout(CONNECT_S):
            return await asyncio.open_connection(target.host, target.port, **options)  # type: ignore[arg-type]
    except (OSError, TimeoutError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        raise ServerAbsent(f"{target.authority}: {why}") from error


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once, and drop the bytes that have not been sent."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
