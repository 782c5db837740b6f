"""What the probe received of one answer: every piece and event with the time of arrival, and the answer's end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

TERMINAL = frozenset({"turn_completed", "turn_failed", "turn_cancelled", "turn_interrupted"})
# open: it goes on. whole: the terminal event came. ended: it ended in good order without the terminal event.
# cut: the connection or the stream broke. refused: the answer is an error.
End = Literal["open", "whole", "ended", "cut", "refused"]
_KEPT_BYTES = 64 * 1024
_GATEWAY, _UNAVAILABLE = frozenset({502, 503, 504}), 14
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class HeardEvent:
    """One event. ``at_s`` is the server's stamp in seconds (None: it has none); ``piece`` counts the reads, from 0."""

    kind: str
    seq: int
    at_s: float | None
    arrived_s: float
    piece: int


@dataclass(slots=True)
class Heard:
    """One answer. Times are those of the event loop, in seconds; sizes are bytes of payload as they arrived.

    ``status`` is HTTP's, ``rpc_status`` the number in gRPC's trailers; header names are in lower case.
    """

    sent_s: float
    status: int | None = None
    rpc_status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    events: list[HeardEvent] = field(default_factory=list)
    pieces: list[tuple[float, int]] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    body: bytes = b""
    turn_id: str | None = None
    session_id: str | None = None
    end: End = "open"
    ended_s: float = 0.0
    detail: str = ""

    def took_piece(self, size: int) -> None:
        """Note that some bytes have arrived now."""
        self.pieces.append((now(), size))

    def add(self, kind: str, seq: int, at_s: float | None) -> None:
        """Note an event of the piece that has just arrived; the terminal one makes the answer whole."""
        self.events.append(HeardEvent(kind, seq, at_s, self.pieces[-1][0] if self.pieces else now(), len(self.pieces)))
        if kind in TERMINAL:
            self.finish("whole")

    def keep(self, data: bytes) -> None:
        """Keep the beginning of a body that is not a stream of events."""
        self.body = (self.body + data)[:_KEPT_BYTES]

    def took_rpc_status(self) -> None:
        """Note gRPC's status, where the headers and trailers so far have it."""
        if self.headers.get("grpc-status", "").isdecimal():
            self.rpc_status = int(self.headers["grpc-status"])

    def finish(self, end: End, detail: str = "") -> None:
        """Note how the answer ended; only the first end counts."""
        if self.end == "open":
            self.end, self.ended_s, self.detail = end, now(), detail

    @property
    def tokens(self) -> list[HeardEvent]:
        """The events that carry text."""
        return [event for event in self.events if event.kind == "chunk"]

    @property
    def last_s(self) -> float:
        """When the last bytes arrived; before any have, when the request was sent."""
        return self.pieces[-1][0] if self.pieces else self.sent_s

    @property
    def words(self) -> str:
        """How the answer ended, for people."""
        by = f" by {self.headers['server']}" if "server" in self.headers else ""
        to = f", a redirect to {self.headers.get('location', 'nowhere')}" if self.redirected else ""
        match self.end:
            case "refused" if self.status not in (None, 200):
                return f"HTTP {self.status}{by}{to}"
            case "refused":
                return self.detail or f"gRPC status {self.rpc_status}"
            case "cut":
                return f"the connection broke ({self.detail})" if self.detail else "the connection broke"
            case "ended":
                return "the answer ended without its last event"
            case "open":
                return "the answer goes on" if self.pieces else "no answer came"
            case _:
                return self.end

    @property
    def redirected(self) -> bool:
        """Whether the answer sends the client to another address (RFC 9110, section 15.4)."""
        return self.status in _REDIRECTS

    @property
    def by_gateway(self) -> bool:
        """Whether the status is one that a hop sends which has no answer of its server (RFC 9110, section 15.6)."""
        return self.status in _GATEWAY or self.rpc_status == _UNAVAILABLE

    @property
    def media_type(self) -> str:
        """The media type without its parameters; empty where the answer has none."""
        return self.headers.get("content-type", "").partition(";")[0].strip()


def now() -> float:
    """The event loop's time in seconds."""
    return asyncio.get_running_loop().time()
