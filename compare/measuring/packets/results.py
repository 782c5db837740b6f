"""From the turns on the line to figures: how late tokens are, and whether tokens of several streams are released together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from compare.lines.packets.carrier import Packets
from compare.lines.packets.line import loss_bounds
from compare.measuring.formulas import delays
from compare.measuring.packets.ways import Connections
from compare.measuring.statistics import Figure, figure, quantile
from compare.measuring.turns import TurnRecord
from compare.measuring.verdicts import summarise

# A token is late when it needs so much longer than the line's own delay.
LATE_MS = 30.0
# Late tokens that arrive so close to each other were released by the same packet.
_TOGETHER_MS = 2.0
MOVE_METRICS = ("lost", "twice", "again", "detect", "back")


class Cell(msgspec.Struct, kw_only=True):
    """One protocol with one or many connections at one loss. ``figures``: over rounds, by name.

    ``p50``, ``p95``, ``p99``: e_i − at_i in ms, of all tokens of a round. ``late``: the share of the tokens for which this is more
    than 30 ms above the line's delay. ``together``: the share of the late tokens that arrive within 2 ms of a late token of another
    stream.
    """

    way: str
    connections: Connections
    loss: float
    figures: dict[str, Figure]
    tokens: int
    packets: int
    dropped: int
    failures: list[str]

    @property
    def loss_as_asked(self) -> bool:
        """Whether the carrier dropped as many packets as the share that was asked for lets expect."""
        low, high = loss_bounds(self.loss, self.packets)
        return low <= self.dropped <= high


class PacketResults(msgspec.Struct, kw_only=True):
    """The results of a run. ``moves``: by experiment and way, the figures of the address that changed in mid-answer.

    ``unmeasured`` says why a protocol is missing. ``kernel_dropped``: packets that the kernel sent and did not receive;
    ``dropped``: the packets that the carrier has dropped meanwhile.
    """

    version: int = 1
    begun_at: float
    seconds: float
    delay_ms: float
    streams: int
    tokens: int
    rate: float
    rounds: int
    seed: int
    setup: dict[str, str]
    cells: list[Cell]
    moves: dict[str, dict[str, dict[str, Figure]]]
    move_failures: list[str]
    unmeasured: dict[str, str]
    dropped: int
    kernel_dropped: int

    def cell(self, way: str, connections: Connections, loss: float) -> Cell | None:
        """One cell; None where it was not measured."""
        found = (cell for cell in self.cells if (cell.way, cell.connections, cell.loss) == (way, connections, loss))
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a cell."""

    way: str
    connections: Connections
    loss: float
    number: int
    turns: Sequence[TurnRecord]
    packets: Packets


@dataclass(frozen=True, slots=True)
class LateToken:
    """A token that came late: when it was due and when it came, epoch ms."""

    stream: int
    due_ms: float
    came_ms: float


def late_tokens(turns: Sequence[TurnRecord], delay_ms: float) -> list[LateToken]:
    """The late tokens of a round, in the order of their arrival. ``delay_ms``: the delay of the line."""
    found = [
        LateToken(turn.stream, turn.asked_at + arrival.logged_ms + delay_ms, turn.asked_at + arrival.ms)
        for turn in turns
        for arrival in turn.of("chunk")
        if arrival.logged_ms is not None and arrival.ms - arrival.logged_ms - delay_ms > LATE_MS
    ]
    return sorted(found, key=lambda token: token.came_ms)


def together_share(late: Sequence[LateToken]) -> float | None:
    """The share of late tokens that arrive within 2 ms of a late token of another stream; None without late tokens."""
    if not late:
        return None

    def released_together(token: LateToken) -> bool:
        return any(
            other.stream != token.stream and abs(other.came_ms - token.came_ms) <= _TOGETHER_MS for other in late
        )

    return sum(map(released_together, late)) / len(late)


def cell_of(rounds: Sequence[Round], delay_ms: float) -> Cell:
    """The figures of all rounds of one cell; failed turns count as failures only."""
    first = rounds[0]
    values: dict[str, list[float]] = {}
    tokens = 0
    failures = []
    for one in rounds:
        whole = [turn for turn in one.turns if turn.error is None]
        failures += [f"round {one.number + 1}, stream {turn.stream}: {turn.error}" for turn in one.turns if turn.error]
        of_round = [value for turn in whole for value in delays(turn)]
        tokens += len(of_round)
        late = late_tokens(whole, delay_ms)
        made = {
            "p50": quantile(of_round, 0.5),
            "p95": quantile(of_round, 0.95),
            "p99": quantile(of_round, 0.99),
            "late": len(late) / len(of_round) if of_round else None,
            "together": together_share(late),
        }
        for name, value in made.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return Cell(
        way=first.way,
        connections=first.connections,
        loss=first.loss,
        figures={name: found for name, some in values.items() if (found := figure(some)) is not None},
        tokens=tokens,
        packets=sum(one.packets.down for one in rounds),
        dropped=sum(one.packets.dropped for one in rounds),
        failures=failures,
    )


def moves_of(turns: Sequence[TurnRecord]) -> dict[str, dict[str, dict[str, Figure]]]:
    """The figures of the address that changed, by experiment and way."""
    found: dict[str, dict[str, dict[str, Figure]]] = {}
    for experiment, way in sorted({(turn.experiment, turn.lane) for turn in turns}):
        some = [turn for turn in turns if (turn.experiment, turn.lane) == (experiment, way)]
        found.setdefault(experiment, {})[way] = summarise(some, MOVE_METRICS)
    return found
