"""The hops of a token: how long the model, the server with its commit, the line and the client had it.

The times are those of the log, of a timed relay and of the client, read from one clock. TLS hides the events from the relay.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from compare.lines.capture import PassedPiece
from compare.measuring.turns import TurnRecord


class Hops(msgspec.Struct, frozen=True, kw_only=True):
    """The way of one event, ms.

    ``model``: appended to the log − the event before was appended. ``server``: the relay reads the event − appended, the commit
    included. ``line``: the relay writes the event − reads it. ``client``: the client has parsed the event − the relay wrote it.
    """

    seq: int
    model: float
    server: float
    line: float
    client: float


HOPS = ("model", "server", "line", "client")


def hops(turn: TurnRecord, passed: Sequence[PassedPiece]) -> list[Hops]:
    """The hops of each event after the first one. ``passed`` are the pieces of a relay that carried this turn alone meanwhile.

    Raises ValueError when the relay saw another number of events than the client.
    """
    events = [arrival for arrival in turn.arrivals if arrival.logged_ms is not None]
    last_ms = turn.asked_at + max((arrival.ms for arrival in events), default=0.0)
    pieces = [
        piece
        for piece in passed
        if piece.direction == "down" and piece.read_ms >= turn.asked_at and piece.written_ms <= last_ms
    ]
    places = [piece for piece in pieces for _ in range(piece.events)]
    if len(places) != len(events):
        raise ValueError(f"the relay saw {len(places)} events, the client {len(events)}")
    found = []
    before_ms = 0.0
    for nth, (arrival, piece) in enumerate(zip(events, places, strict=True)):
        logged_ms = arrival.logged_ms or 0.0
        read_ms, written_ms = piece.read_ms - turn.asked_at, piece.written_ms - turn.asked_at
        if nth:
            found.append(
                Hops(
                    seq=arrival.seq,
                    model=logged_ms - before_ms,
                    server=read_ms - logged_ms,
                    line=written_ms - read_ms,
                    client=arrival.ms - written_ms,
                )
            )
        before_ms = logged_ms
    return found
