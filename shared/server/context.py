"""What a leaf's server gets to work with: its address, the settings, the chat and who may use it."""

from __future__ import annotations

from dataclasses import dataclass

from shared.chat.service import ChatService
from shared.config import Settings
from shared.server.access import AccessPolicy


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What a leaf's server gets to work with; ``address`` is as clients write it."""

    transport: str
    host: str
    port: int
    settings: Settings
    service: ChatService
    access: AccessPolicy

    @property
    def address(self) -> str:
        """``host:port``, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
