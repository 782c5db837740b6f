"""Where a chain's saving comes from: handshakes, upload, state on the server, and what is left for the transport.

The four cells of a wire are a factorial of two factors, history and connection. The effect of a factor is the mean of its two
differences, so both effects add up to the whole saving. An effect is booked by the span in which it appears.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from compare.chains.play import CELLS, Chain, Connection, History, TurnSpans

Cells = Mapping[tuple[History, Connection], Sequence[TurnSpans]]
SPANS = ("to_server", "server", "model", "back")


class Saving(msgspec.Struct, kw_only=True):
    """What keeping both saves against sending the history on new connections, ms a turn, and the columns that add up to it.

    ``handshake``: the way to the server with a new connection − with the kept one. ``upload``: the way to the server with the
    history − without. ``server_state``: from the whole request to the first token with the history in the request − in the
    store. ``rest``: both effects on all other spans, such as the way back of the first event, which repeats the message.
    """

    before: float
    after: float
    handshake: float
    upload: float
    server_state: float
    rest: float

    @property
    def whole(self) -> float:
        """Before − after."""
        return self.before - self.after


def saving(cells: Cells) -> Saving:
    """The columns of one wire in one round, from the spans of the same turns in its four cells."""

    def mean(cell: tuple[History, Connection], span: Callable[[TurnSpans], float]) -> float:
        return sum(map(span, cells[cell])) / len(cells[cell])

    def effects(name: str) -> tuple[float, float]:
        """The effects of a new connection and of a history that is sent on one span."""

        def span(turn: TurnSpans) -> float:
            return float(getattr(turn, name))

        sent_new, sent_kept, kept_new, kept_kept = (mean(cell, span) for cell in CELLS)
        return (sent_new - sent_kept + kept_new - kept_kept) / 2, (sent_new - kept_new + sent_kept - kept_kept) / 2

    by_span = {name: effects(name) for name in SPANS}
    handshake, upload = by_span["to_server"]
    other_connection, server_state = by_span["server"]
    return Saving(
        before=mean(("sent", "new"), lambda turn: turn.whole),
        after=mean(("kept", "kept"), lambda turn: turn.whole),
        handshake=handshake,
        upload=upload,
        server_state=server_state,
        rest=other_connection + sum(by_span["model"]) + sum(by_span["back"]),
    )


def savings(chains: Sequence[Chain]) -> dict[tuple[float, bool], dict[str, list[Saving]]]:
    """The savings of each wire, one a round, by round-trip time and TLS; a round with a failed chain is left out."""
    grouped: dict[tuple[float, bool], dict[str, dict[int, dict[tuple[History, Connection], list[TurnSpans]]]]] = {}
    for chain in chains:
        if chain.error is None:
            rounds = grouped.setdefault((chain.rtt_ms, chain.tls), {}).setdefault(chain.wire, {})
            rounds.setdefault(chain.round, {})[chain.history, chain.connection] = chain.turns
    return {
        line: {
            wire: [saving(cells) for _, cells in sorted(rounds.items()) if len(cells) == len(CELLS)]
            for wire, rounds in wires.items()
        }
        for line, wires in grouped.items()
    }
