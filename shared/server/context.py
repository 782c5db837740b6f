"""What a leaf's server gets to work with: its address, the settings, the chat and who may use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.chat.service import ChatService
from shared.config import Settings
from shared.server.access import AccessPolicy
from shared.server.tls import Certificate
from shared.transports import Transport

# Relays that damage the line on purpose, and how many times ``relay_offset`` above a server each of them listens
# (``python -m compare page``). The first is also where ``python -m compare relay --all`` listens.
RELAYS = {"phone": 1, "proxy": 2, "stalls": 3}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A port of this machine's servers. ``for_pages``: a browser's page can speak with it."""

    transport: Transport
    port: int
    for_pages: bool

    @property
    def relay_ports(self) -> dict[str, int]:
        """Where the relays before this server listen, if they run, by the names of ``RELAYS``."""
        return {name: self.port + steps * self.transport.relay_offset for name, steps in RELAYS.items()}


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What a leaf's server gets to work with; ``address`` is as clients write it.

    ``neighbours`` are the ports of this machine's servers by word, this server's among them, whether they run or not. A
    server whose own protocol no page can speak may have a second port, under its ``page_word``.
    ``certificate`` is None where the server speaks no TLS. ``no_pages``: why the server has no port for pages, where
    it could have one.
    """

    transport: Transport
    host: str
    port: int
    neighbours: Mapping[str, Neighbour]
    settings: Settings
    service: ChatService
    access: AccessPolicy
    certificate: Certificate | None = None
    no_pages: str | None = None

    @property
    def http2(self) -> bool:
        """Whether the HTTP of this server is HTTP/2 beside HTTP/1.1."""
        return self.settings.http2 and not self.transport.http1_only

    @property
    def web_scheme(self) -> str:
        """The scheme of this server's pages, and of its neighbours': ``https`` with TLS, else ``http``."""
        return "http" if self.certificate is None else "https"

    @property
    def address(self) -> str:
        """``host:port``, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address with its scheme, as a client takes it. Without TLS gRPC's has no scheme."""
        return self.transport.scheme_prefix(tls=self.certificate is not None) + self.address

    @property
    def page_url(self) -> str | None:
        """Where pages reach a server that has a port of its own for them; None where there is none."""
        there = self.pages.get(self.transport.page_word or "")
        return None if there is None else f"{self.web_scheme}://{self.address.rpartition(':')[0]}:{there.port}"

    @property
    def pages(self) -> dict[str, Neighbour]:
        """The neighbours that a browser's page can reach."""
        return {word: there for word, there in self.neighbours.items() if there.for_pages}
