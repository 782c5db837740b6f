"""The records of TLS in captured bytes (RFC 8446, section 5): their heads are readable, their content is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compare.lines.capture import CapturedBytes, Direction

_HEAD_BYTES = 5
# RFC 8446, section 5.1. After the handshake's keys are set, everything but alerts on closing looks like application data.
_TYPES = {20: "change cipher spec", 21: "alert", 22: "handshake", 23: "application data"}


@dataclass(frozen=True, slots=True)
class TlsRecord:
    """One record; ``size`` is in bytes with its head of five bytes."""

    connection: int
    direction: Direction
    type: str
    size: int


class NotTls(Exception):
    """Captured bytes are not a sequence of whole TLS records."""


def records(captured: Iterable[CapturedBytes]) -> list[TlsRecord]:
    """The records of each connection and direction, in order. Raises NotTls where the bytes are no whole records."""
    streams: dict[tuple[int, Direction], bytearray] = {}
    for piece in captured:
        streams.setdefault((piece.connection, piece.direction), bytearray()).extend(piece.data)
    found = []
    for (connection, direction), data in streams.items():
        at = 0
        while at < len(data):
            head = data[at : at + _HEAD_BYTES]
            size = _HEAD_BYTES + int.from_bytes(head[3:], "big")
            if len(head) < _HEAD_BYTES or head[0] not in _TYPES or head[1] != 3 or at + size > len(data):
                raise NotTls(f"no TLS record at byte {at} of connection {connection}, {direction}")
            found.append(TlsRecord(connection, direction, _TYPES[head[0]], size))
            at += size
    return found
