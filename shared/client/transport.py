"""What one transport's client does by itself: send a request once and read one answer, without resuming.

``TransportClient`` lists everything a leaf has to provide. ``shared/client/protocol.py`` adds resuming and the checks to it.
"""

from __future__ import annotations

import functools
import ssl
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from shared.client.events import UnknownEvent
from shared.client.strangers import stranger_at
from shared.client.tls import client_context, uses_tls
from shared.errors import ChatError
from shared.events import AnyEvent, CursorLost, Kind
from shared.reply import Picture, Reply, Snapshot
from shared.session import MessagePage, ModelInfo, Session, SessionPage, SessionUpdate
from shared.stats import ServerStats

_HOLDS_NO_CONNECTION = "This transport holds no connection between two requests."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request for a turn, the same on every wire. ``text`` is the message or the prompt, ``size`` is WIDTHxHEIGHT."""

    text: str
    kind: Kind = "chat"
    session_id: str | None = None
    model_id: str | None = None
    size: str | None = None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(slots=True)
class ClientCounts:
    """What a client has counted. ``bytes_received``: bytes of bodies and frames, as far as the library shows them."""

    connections: int = 0
    lost: int = 0
    resumed: int = 0
    bytes_received: int = 0


# After ``CursorLost`` come the turn's events from seq 1, or the stream ends.
TurnItem = AnyEvent | UnknownEvent | CursorLost
Received = TurnItem | Reply | Picture
Watched = TurnItem | SessionUpdate


class Transport(Protocol):
    """What a client program needs to know of one row of the table of transports."""

    @property
    def word(self) -> str:
        """The short name, such as ``sse``."""

    @property
    def title(self) -> str:
        """The full name, such as ``Server-Sent Events``."""

    @property
    def also(self) -> tuple[str, ...]:
        """Other names that one may type for it."""

    @property
    def tokens(self) -> bool:
        """Whether the reply arrives token by token."""

    def port(self) -> int:
        """The configured port of the server."""

    def client(self, address: str | None = None, **options: Any) -> Any:
        """A client of the transport; ``options`` are those of ChatClient."""


Transports = Mapping[str, Transport]


class TransportClient(ABC):
    """A client of one transport. Every method may raise ChatError and ConnectionLost (see ``shared/errors.py``).

    ``address``: HOST:PORT or a URL. ``key``: the server's API_SECRET_KEY. ``silence_s``: a connection on which nothing arrives for
    so long, not even a heartbeat, is lost. ``tls``, ``ca`` (a PEM file), or the address's scheme make the client speak TLS.
    ``http2_word``: the transport whose server speaks HTTP/2 alone, so that its server can be named when it answers here.
    """

    transport: ClassVar[str]
    holds_connection: ClassVar[bool] = False

    def __init__(
        self,
        address: str,
        *,
        key: str | None = None,
        silence_s: float = 45.0,
        tls: bool = False,
        ca: Path | None = None,
        http2_word: str | None = None,
    ) -> None:
        self.address = address
        self._uses_tls = uses_tls(address, tls=tls, ca=ca)
        self._ca = ca
        self.counts = ClientCounts()
        self._key = key
        self._silence_s = silence_s
        self._http2_word = http2_word

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext | None:
        """The TLS that this client speaks; None without it. Reading the system's certificates takes 70 ms, once."""
        return client_context(self._ca) if self._uses_tls else None

    async def _stranger(self) -> str | None:
        """One line about the program that answers in place of this transport's server; see ``stranger_at``."""
        return await stranger_at(self.address, self.transport, http2_word=self._http2_word, tls=self._tls)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @abstractmethod
    async def connect(self) -> None:
        """Get ready to send. Where the protocol holds a connection, open it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection."""

    @abstractmethod
    async def cut(self) -> None:
        """Drop the open connections as a broken cable would. Streams that are being read fail with ConnectionLost."""

    @abstractmethod
    def stream_chat(self, ask: Ask) -> AsyncGenerator[Received, None]:
        """Send a message once and yield the events as they arrive (plain REST: one Reply).

        Closing the generator returns after the connection or call under it is closed, or free for another turn.
        """

    @abstractmethod
    def stream_image(self, ask: Ask) -> AsyncGenerator[Received, None]:
        """Ask for a picture once and yield its events (plain REST: one Picture). Closing it is as for ``stream_chat``."""

    @abstractmethod
    def stream_turn(self, turn_id: str, after: int, epoch: int = 0) -> AsyncGenerator[TurnItem, None]:
        """The events of a turn after seq ``after``, as the turn was in ``epoch``. Closing it is as for ``stream_chat``."""

    def watch(self, session_id: str) -> AsyncGenerator[Watched, None]:
        """Join a session: the events of turns that others start in it from now on, and hints such as typing.

        Only where a connection is held (WebSocket, gRPC); elsewhere it raises ``invalid_request`` at once. It ends when its reader
        closes it, or with ConnectionLost. Joining replays nothing: watch again, and read what ran meanwhile.
        """
        raise ChatError("invalid_request", _HOLDS_NO_CONNECTION)

    async def typing(self, session_id: str, typing: bool) -> None:
        """Tell the other connections of the session that someone types, or stopped. Joins the session if need be."""
        raise ChatError("invalid_request", _HOLDS_NO_CONNECTION)

    @abstractmethod
    async def create_session(self, model_id: str | None = None) -> Session:
        """Make a session."""

    @abstractmethod
    async def get_session(self, session_id: str) -> Session:
        """One session."""

    @abstractmethod
    async def list_sessions(self, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        """A page of sessions, newest first."""

    @abstractmethod
    async def message_page(self, session_id: str, limit: int | None = None, cursor: str | None = None) -> MessagePage:
        """A page of a session's messages, in order. ``limit``: 1 to 500; without it as many as fit into 3 MiB."""

    @abstractmethod
    async def clear_session(self, session_id: str) -> None:
        """Drop the messages of a session."""

    @abstractmethod
    async def delete_session(self, session_id: str) -> None:
        """Drop a session."""

    @abstractmethod
    async def start(self, ask: Ask) -> Snapshot:
        """Start a turn that runs even without a reader. The same ``request_id`` again gives the same turn."""

    @abstractmethod
    async def get_turn(self, turn_id: str) -> Snapshot:
        """Where a turn stands."""

    @abstractmethod
    async def cancel(self, turn_id: str) -> Snapshot:
        """Stop a turn. Returns its state after it has stopped."""

    @abstractmethod
    async def get_image(self, image_id: str) -> bytes:
        """The bytes of a picture."""

    @abstractmethod
    async def list_models(self) -> list[ModelInfo]:
        """The model ids that a request may name."""

    @abstractmethod
    async def stats(self) -> ServerStats:
        """What the server has counted since it started."""

    @abstractmethod
    async def health(self) -> dict[str, Any]:
        """The server's readiness: at least ``status``."""

    @abstractmethod
    async def ping(self) -> float:
        """One round trip, in milliseconds."""

    def page(self, path: str) -> str | None:
        """The address of one of the server's pages, such as ``/docs``, for a browser. None where there are no pages."""
        return None

    async def services(self) -> list[str]:
        """The names of the services that the server lists by reflection; empty where a page lists them."""
        return []
