"""Keys, tickets, origins and host names: who may talk to a server, for every transport.

A ticket stands in for the key where a browser cannot set headers (WebSocket, EventSource). It is signed with the key, so that every
process can verify it without a store.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeSerializer

from shared.config import Settings
from shared.errors import ChatError

SOCKET_TICKET_S = 30
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What a server checks before it listens to anyone. ``origins`` and ``hosts`` None: any."""

    key: str | None
    origins: frozenset[str] | None
    hosts: frozenset[str] | None
    turn_ticket_s: float

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Check ``Authorization: Bearer`` or ``X-API-Key`` (names in lower case). Raises ``unauthenticated``."""
        if self.key is None:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Compared in constant time, as bytes, because a str with other than ASCII would raise.
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.key.encode()):
            raise ChatError("unauthenticated")

    def check_origin(self, origin: str | None) -> None:
        """Raises ``permission_denied`` for the Origin (RFC 6454) of a foreign page; programs send none."""
        if origin is not None and self.origins is not None and origin.lower() not in self.origins:
            raise ChatError("permission_denied", "This origin is not allowed; see ALLOWED_ORIGINS.")

    def check_host(self, host: str | None) -> None:
        """Raises ``permission_denied`` for a Host (RFC 9110, 7.2) that is not ours: a page that rebinds its name to us."""
        if self.hosts is not None and host is not None and _host_name(host) not in self.hosts:
            raise ChatError("permission_denied", "This host name is not allowed; see ALLOWED_ORIGINS.")

    def ticket(self, turn_id: str | None = None) -> tuple[str, float]:
        """A ticket and its life in seconds: for one turn's stream, or for the first message of a WebSocket."""
        life_s = SOCKET_TICKET_S if turn_id is None else self.turn_ticket_s
        return self._signer.dumps({"turn": turn_id, "until": time.time() + life_s}), life_s

    def check_ticket(self, ticket: str, turn_id: str | None = None) -> None:
        """Raises ``unauthenticated`` for a ticket that is forged, over, or for something else."""
        if self.key is None:
            return
        try:
            claims = self._signer.loads(ticket)
        except BadSignature:
            claims = None
        if not isinstance(claims, dict) or claims.get("turn") != turn_id or claims.get("until", 0) < time.time():
            raise ChatError("unauthenticated", "The ticket is not valid, or no longer.")

    @property
    def _signer(self) -> URLSafeSerializer:
        return URLSafeSerializer(self.key or "open", salt="genai-protocols.ticket")


def access_policy(settings: Settings, host: str, ports: Collection[int]) -> AccessPolicy:
    """The checks for a server on ``host``; pages may come from this machine's servers on ``ports``.

    Raises ValueError when it would be open to a network without a key.
    """
    key = settings.api_secret_key.get_secret_value() if settings.api_secret_key else None
    if key is None and not is_loopback(host):
        raise ValueError(f"{host} is not a loopback address: set API_SECRET_KEY first, or use --host 127.0.0.1")
    allowed = settings.allowed_origins
    if allowed is not None and allowed.strip() == "*":
        return AccessPolicy(key, None, None, settings.turn_retention_h * 3600)
    if allowed is None:
        origins = frozenset(f"http://{name}:{number}" for name in _LOOPBACK for number in ports)
    else:
        origins = frozenset(origin.strip().rstrip("/").lower() for origin in allowed.split(",") if origin.strip())
    hosts = {_host_name(urlsplit(origin).netloc) for origin in origins} | set(_LOOPBACK)
    if host not in ("0.0.0.0", "::"):
        hosts.add(f"[{host}]" if ":" in host else host.lower())
    return AccessPolicy(key, origins, frozenset(hosts), settings.turn_retention_h * 3600)


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def _host_name(host: str) -> str:
    """The name in a Host header or authority, without the port; IPv6 keeps its brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
