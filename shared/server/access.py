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

from itsdangerous import BadSignature, URLSafeSerializer

from shared.config import Settings
from shared.errors import ChatError
from shared.server.origins import canonical_origin, host_name, is_address, origin_of, parse_allowed_origins

SOCKET_TICKET_S = 30
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What a server checks before a request or a call reaches the chat. ``origins`` and ``hosts`` None: any.

    ``addresses``: a ``Host`` that is an IP address is allowed as well as the names. A page can rebind only a name.
    """

    key: str | None
    origins: frozenset[str] | None
    hosts: frozenset[str] | None
    addresses: bool
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

    def check_origin(self, origin: str | None, scheme: str, host: str) -> None:
        """Check the ``Origin`` (RFC 6454) that a browser sends; programs send none. Raises ``permission_denied``.

        The origin of the request's own ``scheme`` and ``host`` is allowed, because ``check_host`` has allowed that host.
        """
        if origin is None or self.origins is None:
            return
        sent = canonical_origin(origin)
        if sent is None or (sent not in self.origins and sent != origin_of(scheme, host)):
            raise ChatError("permission_denied", "This origin is not allowed; add it to the setting ALLOWED_ORIGINS.")

    def check_host(self, host: str) -> None:
        """Check the ``Host`` (RFC 9110, section 7.2), which a page that rebinds its name cannot choose.

        Raises ``permission_denied``.
        """
        if self.hosts is None:
            return
        name = host_name(host)
        if name is None or (name not in self.hosts and not (self.addresses and is_address(name))):
            raise ChatError(
                "permission_denied", "This host name is not allowed; add its origin to the setting ALLOWED_ORIGINS."
            )

    def ticket(self, turn_id: str | None = None) -> tuple[str, float]:
        """A ticket and its life in seconds: for one turn's stream, or for the first message of a WebSocket."""
        life_s = SOCKET_TICKET_S if turn_id is None else self.turn_ticket_s
        return self._signer.dumps({"turn": turn_id, "until": time.time() + life_s}), life_s

    def check_ticket(self, ticket: str, turn_id: str | None = None) -> None:
        """Raises ``unauthenticated`` for a ticket that is forged or expired, or that opens something else."""
        if self.key is None:
            return
        try:
            claims = self._signer.loads(ticket)
        except BadSignature:
            claims = None
        if not isinstance(claims, dict) or claims.get("turn") != turn_id or claims.get("until", 0) < time.time():
            raise ChatError(
                "unauthenticated", "The ticket is not valid, or has expired; ask for a new one with POST /tickets."
            )

    @property
    def _signer(self) -> URLSafeSerializer:
        return URLSafeSerializer(self.key or "open", salt="genai-protocols.ticket")


def access_policy(settings: Settings, host: str, ports: Collection[int], scheme: str = "http") -> AccessPolicy:
    """The checks for a server on ``host``; pages may come from this machine's servers on ``ports``, by ``scheme``.

    Raises ValueError when the server would be open to a network without a key, and for a wrong ``ALLOWED_ORIGINS``.
    """
    key = settings.api_secret_key.get_secret_value() if settings.api_secret_key else None
    turn_ticket_s = settings.turn_retention_h * 3600
    if key is None and not is_loopback(host):
        raise ValueError(f"{host} is not a loopback address: set API_SECRET_KEY first, or use --host 127.0.0.1")
    if settings.allowed_origins and settings.allowed_origins.strip():
        origins = parse_allowed_origins(settings.allowed_origins)
    else:
        origins = frozenset(origin_of(scheme, f"{name}:{number}") or "" for name in _LOOPBACK for number in ports)
    if origins is None:
        if key is None:
            raise ValueError("ALLOWED_ORIGINS=* allows every web page: set API_SECRET_KEY first, or name the origins")
        return AccessPolicy(key, None, None, True, turn_ticket_s)
    bound = host.strip("[]").lower()
    named = {host_name(origin.partition("://")[2]) or "" for origin in origins}
    hosts = frozenset({*named, *_LOOPBACK, f"[{bound}]" if ":" in bound else bound})
    return AccessPolicy(key, origins, hosts, not is_loopback(host), turn_ticket_s)


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False
