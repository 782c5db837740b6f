"""From captured bytes to steps. The first bytes of a connection show its protocol.

The parsers see only bytes and not the chat's own events, so a step has the size and the time of its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from compare.lines.capture import HTTP2_PREFACE, CapturedBytes
from compare.lines.steps.http1 import Http1Reader
from compare.lines.steps.http2 import Http2Reader
from compare.lines.steps.step import Step


def steps(captured: Iterable[CapturedBytes]) -> list[Step]:
    """The steps of all connections, in the order in which their last bytes passed.

    Raises the parsers' own errors for bytes that are not the protocol.
    """
    readers: dict[int, ConnectionReader] = {}
    found: list[Step] = []
    for piece in captured:
        reader = readers.setdefault(piece.connection, ConnectionReader(piece.connection))
        found += reader.read(piece)
    return found


class ConnectionReader:
    """Reads the pieces of one connection, in order."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._reader: Http1Reader | Http2Reader | None = None

    def read(self, piece: CapturedBytes) -> Iterator[Step]:
        """The steps that this piece completes."""
        if self._reader is None:
            # In HTTP/1.1 a server never sends first; in HTTP/2 it may.
            http2 = piece.direction == "down" or HTTP2_PREFACE.startswith(piece.data[: len(HTTP2_PREFACE)])
            self._reader = Http2Reader(self._number) if http2 else Http1Reader(self._number)
        yield from self._reader.read(piece)
