"""What a leaf's server gets to work with: its address, the settings, the chat and who may use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from shared.chat.service import ChatService
from shared.config import Settings
from shared.server.access import AccessPolicy
from shared.server.tls import Certificate
from shared.transports import Transport


@dataclass(frozen=True, slots=True)
class PagePorts:
    """Where a page finds one server: its port, and the port of the relay that damages the line on purpose."""

    port: int
    relay_port: int

    @classmethod
    def of(cls, transport: Transport, port: int) -> Self:
        """The ports of a transport whose server listens on ``port``."""
        return cls(port, port + transport.relay_offset)


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What a leaf's server gets to work with; ``address`` is as clients write it.

    ``pages`` are the servers of this machine that a browser can reach, by word; this server is among them if a browser
    can reach it. ``certificate`` is None where the server speaks no TLS. ``no_pages``: why the server has no port for pages,
    where it could have one.
    """

    transport: Transport
    host: str
    port: int
    pages: Mapping[str, PagePorts]
    settings: Settings
    service: ChatService
    access: AccessPolicy
    certificate: Certificate | None = None
    no_pages: str | None = None

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
