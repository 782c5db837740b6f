"""From a capture to spans.

The bytes are cut by hand, and each cut is compared with what a foreign parser reads in the same bytes: h11, wsproto, hyperframe
and hpack, protobuf. Every byte belongs to exactly one span.
"""

from __future__ import annotations

from collections.abc import Sequence

from compare.lines.capture import HTTP2_PREFACE, CapturedBytes, Direction
from compare.lines.spans.http1 import http1_units
from compare.lines.spans.http2 import http2_units
from compare.lines.spans.span import ByteStream, WireUnit


def units(captured: Sequence[CapturedBytes]) -> list[WireUnit]:
    """All units of a capture, in the order in which they passed.

    Raises UnexpectedBytes when the bytes are not of the protocol, or a foreign parser reads something else in them.
    """
    streams: dict[tuple[int, Direction], ByteStream] = {}
    for piece in captured:
        for direction in ("up", "down"):
            streams.setdefault((piece.connection, direction), ByteStream(piece.connection, direction))
        streams[piece.connection, piece.direction].add(piece)
    found: list[WireUnit] = []
    for connection, direction in sorted(streams, key=lambda key: (key[0], key[1] == "down")):
        stream = streams[connection, direction]
        http2 = streams[connection, "up"].data.startswith(HTTP2_PREFACE)
        found += http2_units(stream) if http2 else http1_units(stream)
    return sorted(found, key=lambda unit: unit.at)
