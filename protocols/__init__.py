"""The table of the five transports: the word for each, its folder, its port, and what it can do by itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared import transports

if TYPE_CHECKING:
    # A server imports this table too and must not load a client, so the class is named for the type checker only.
    from shared.client.protocol import ChatClient

# The relays that damage the line on purpose listen this far above the servers' ports.
RELAY_OFFSET = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport(transports.Transport):
    """One of the five transports, with its folder in this package. ``abbreviation``: a shorter title, if it has one."""

    folder: str
    abbreviation: str = ""
    relay_offset: int = RELAY_OFFSET

    @property
    def label(self) -> str:
        """The name in tables and pictures; texts have the title."""
        return self.abbreviation or self.title

    @property
    def address(self) -> str:
        """The address on which the server listens by default."""
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
        return self.client_class()(address or self.address, **{"http2_word": HTTP2_WORD, **options})

    def page_client(self, address: str, **options: Any) -> ChatClient:
        """A client of the port for pages, of a transport that has one; imported when it is asked for."""
        client: type[ChatClient] = importlib.import_module(f"protocols.{self.folder}.web_client").Client
        return client(address, **options)


_ROWS = (
    Transport(
        word="rest", folder="http_rest", title="REST", scheme="http", default_port=8000, also=("http_rest", "http")
    ),
    Transport(
        word="ndjson",
        folder="streamable_http",
        title="NDJSON",
        scheme="http",
        default_port=8001,
        tokens=True,
        also=("streamable_http", "streamable"),
    ),
    Transport(
        word="sse",
        folder="sse",
        title="Server-Sent Events",
        abbreviation="SSE",
        scheme="http",
        default_port=8002,
        tokens=True,
    ),
    Transport(
        word="websocket",
        folder="websocket",
        title="WebSocket",
        scheme="http",
        default_port=8003,
        tokens=True,
        holds=True,
        also=("ws", "websockets"),
        # Where a server speaks HTTP/2, a browser opens its WebSockets over it (RFC 8441), which uvicorn does not serve.
        http1_only=True,
    ),
    Transport(
        word="grpc",
        folder="grpc",
        title="gRPC",
        scheme="grpc",
        default_port=50051,
        tokens=True,
        holds=True,
        http2=True,
        page_word="grpc-web",
    ),
)
TRANSPORTS: dict[str, Transport] = {row.word: row for row in _ROWS}
HTTP2_WORD = next(row.word for row in _ROWS if row.http2)
