"""What a capture is cut into: spans of bytes with their meaning, gathered in what the wire sends as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compare.lines.capture import CapturedBytes, Direction

# text: the tokens. event: the fields of the chat's events around the text, in the wire's encoding. framing: the protocol's bytes.
ByteKind = Literal["text", "event", "framing"]
BYTE_KINDS: tuple[ByteKind, ...] = ("text", "event", "framing")


@dataclass(frozen=True, slots=True)
class Span:
    """Adjacent bytes with one meaning."""

    data: bytes
    kind: ByteKind
    meaning: str


@dataclass(frozen=True, slots=True)
class WireUnit:
    """What the wire sends as one: a head, a chunk, a frame; ``at`` is when its last byte passed (epoch ms)."""

    at: float
    connection: int
    direction: Direction
    title: str
    spans: tuple[Span, ...]

    def size(self, kind: ByteKind | None = None) -> int:
        """The number of bytes of this kind; None counts all bytes."""
        return sum(len(span.data) for span in self.spans if kind in (None, span.kind))


class UnexpectedBytes(Exception):
    """The bytes are not of the expected protocol, or a foreign parser reads something else in them."""


class ByteStream:
    """All bytes of one direction of one connection, with the time of each."""

    def __init__(self, connection: int, direction: Direction) -> None:
        self.connection = connection
        self.direction: Direction = direction
        self.data = b""
        self._ends: list[tuple[int, float]] = []

    def add(self, piece: CapturedBytes) -> None:
        """Append a piece of the capture."""
        self.data += piece.data
        self._ends.append((len(self.data), piece.at))

    def unit(self, end: int, title: str, spans: list[Span]) -> WireUnit:
        """A unit whose last byte is the one before position ``end``."""
        at = next(at for piece_end, at in self._ends if piece_end >= end)
        return WireUnit(at, self.connection, self.direction, title, tuple(spans))


def shorten(data: bytes, most_chars: int = 72) -> str:
    """Bytes as text on one line; the middle of a long text is left out."""
    text = repr(data.decode("utf-8", "backslashreplace"))[1:-1]
    return text if len(text) <= most_chars else f"{text[: most_chars - 30]} … {text[-28:]}"
