"""The protocols that are compared on the line: each with its lane, and with how many connections ten streams may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compare.lines.programs import program
from compare.measuring.http2_sender import http3_sender
from compare.measuring.lanes import ALL_LANES, LANES, Lane

# "many": each stream has a connection of its own. "one": all streams share one.
Connections = Literal["many", "one"]

# The server is ndjson's; Caddy stands before it in the server's namespace and speaks HTTP/3 (RFC 9114).
_HTTP3 = Lane("ndjson-h3", "ndjson", {"sender": http3_sender}, needs=("pyqwest", "trustme"))


@dataclass(frozen=True, slots=True)
class Way:
    """A protocol. ``tcp``: it runs over TCP, which delivers bytes in order; else over QUIC, which does so in each stream."""

    name: str
    title: str
    lane: Lane
    connections: tuple[Connections, ...]
    tcp: bool = True

    @property
    def missing(self) -> list[str]:
        """What this machine lacks for it."""
        return [*self.lane.missing, *(["caddy"] if not self.tcp and program("caddy") is None else [])]


WAYS: dict[str, Way] = {
    way.name: way
    for way in (
        # HTTP/1.1 carries one answer at a time on a connection (RFC 9112, section 9.3.2).
        Way("h1", "HTTP/1.1", LANES["ndjson"], ("many",)),
        Way("h2", "HTTP/2", ALL_LANES["ndjson-h2"], ("many", "one")),
        Way("grpc", "gRPC", LANES["grpc"], ("many", "one")),
        Way("h3", "HTTP/3", _HTTP3, ("many", "one"), tcp=False),
    )
}
# The protocols whose client changes its address in mid-answer.
MOVED: dict[str, Way] = {
    "h1": WAYS["h1"],
    "websocket": Way("websocket", "WebSocket", LANES["websocket"], ("one",)),
    "grpc": WAYS["grpc"],
    "h3": WAYS["h3"],
}
