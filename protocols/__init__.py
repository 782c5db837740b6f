"""The table of the five transports: our word for each, its folder, and what it can do by itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.client.protocol import ChatClient


@dataclass(frozen=True, slots=True)
class Transport:
    """One of the five. ``tokens``: the reply arrives token by token; ``holds``: one connection for many turns, both ways."""

    word: str
    folder: str
    title: str
    default_port: int
    tokens: bool
    holds: bool
    browser: bool

    @property
    def address(self) -> str:
        """Where its server listens unless told otherwise."""
        return f"127.0.0.1:{self.default_port}"

    def server_main(self) -> Callable[[Sequence[str] | None], int]:
        """The server's ``main``; imported when it is asked for."""
        main: Callable[[Sequence[str] | None], int] = importlib.import_module(f"protocols.{self.folder}.server").main
        return main

    def client_main(self) -> Callable[[Sequence[str] | None], int]:
        """The client's ``main``; imported when it is asked for."""
        main: Callable[[Sequence[str] | None], int] = importlib.import_module(f"protocols.{self.folder}.client").main
        return main

    def client_class(self) -> type[ChatClient]:
        """The client's class; imported when it is asked for."""
        client: type[ChatClient] = importlib.import_module(f"protocols.{self.folder}.client").Client
        return client

    def client(self, address: str | None = None, **options: Any) -> ChatClient:
        """A client of this transport; ``options`` are ChatClient's."""
        return self.client_class()(address or self.address, **options)


TRANSPORTS: dict[str, Transport] = {
    transport.word: transport
    for transport in (
        Transport("rest", "http_rest", "REST", 8000, tokens=False, holds=False, browser=True),
        Transport(
            "ndjson", "streamable_http", "Streamable HTTP (NDJSON)", 8001, tokens=True, holds=False, browser=True
        ),
        Transport("sse", "sse", "Server-Sent Events", 8002, tokens=True, holds=False, browser=True),
        Transport("websocket", "websocket", "WebSocket", 8003, tokens=True, holds=True, browser=True),
        Transport("grpc", "grpc", "gRPC", 50051, tokens=True, holds=True, browser=False),
    )
}
