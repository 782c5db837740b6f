"""The bytes that a relay keeps when it captures: the payload of TCP, with its direction and its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# "up" is from the client to the server, "down" is from the server to the client.
Direction = Literal["up", "down"]

# What an HTTP/2 client sends first (RFC 9113, section 3.4).
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True, slots=True)
class CapturedBytes:
    """Payload that passed the relay in one piece; ``at`` is epoch ms, ``connection`` counts from 0."""

    at: float
    connection: int
    direction: Direction
    data: bytes


@dataclass(frozen=True, slots=True)
class PassedPiece:
    """A piece of payload in its two moments at the relay, epoch ms: read at one end, written at the other end.

    ``events`` counts the events that begin in the piece; 0 where TLS hides them.
    """

    connection: int
    direction: Direction
    size: int
    events: int
    read_ms: float
    written_ms: float
