"""Where in a stream of bytes an event starts, and where a fault is due. Nothing here does I/O.

The relay knows no protocol. An event of the chat is found by its first bytes, so a cut can fall behind event n on every transport.
"""

from __future__ import annotations

import re

from compare.lines.faults import Faults

# An event starts as JSON (REST, NDJSON, SSE, WebSocket), or as protobuf with a UUID in field 1 and the seq in field 2 (gRPC).
# Compression hides events from this search. On gRPC a text that quotes an event's JSON looks like an event.
EVENT_START = re.compile(rb'\{"type":"(?:turn_|chunk|image_)[a-z]*"|\x0a\x24[0-9a-f]{8}-[0-9a-f-]{27}\x10')
_LONGEST_START = 48


class EventFinder:
    """Finds the starts of events in bytes that arrive in pieces."""

    def __init__(self) -> None:
        self._tail = b""

    def starts(self, data: bytes) -> list[int]:
        """Positions in ``data`` where events start; 0 for an event whose first bytes were in the piece before."""
        tail = self._tail
        text = tail + data
        self._tail = text[-_LONGEST_START:]
        return [max(0, match.start() - len(tail)) for match in EVENT_START.finditer(text) if match.end() > len(tail)]


def fault_position(
    faults: Faults, data: bytes, starts: list[int], *, passed_bytes: int, passed_events: int
) -> int | None:
    """The position in ``data`` where the fault is due; None when it is due elsewhere.

    ``starts`` are the positions of events in ``data``; ``passed_bytes`` and ``passed_events`` came before ``data``.
    """
    if faults.cut_after_event is not None:
        nth = faults.cut_after_event - passed_events
        return starts[nth] if 0 <= nth < len(starts) else None
    for after in (faults.cut_after_bytes, faults.stall_after_bytes, faults.black_hole_after_bytes):
        if after is not None and passed_bytes <= after < passed_bytes + len(data):
            return after - passed_bytes
    return None
