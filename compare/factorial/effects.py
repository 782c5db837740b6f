"""Main effects: how much one level of a factor differs from the first one, with all other factors held equal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from compare.factorial.cells import CELLS, FACTORS, Cell, pairs
from compare.measuring.metrics import Metric
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, figure
from compare.measuring.verdicts import least_that_matters

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("bytes", "bytes an event", "B", "bytes received / events, paced", "the client's sockets", None),
        Metric("delay", "delay p50", "ms", "median of e_i − at_i, paced", "appended → parsed", None),
        Metric(
            "server_us",
            "server CPU",
            "µs/event",
            "user and system time / events, saturated",
            "the CPU clock of the process",
            None,
        ),
        Metric("stream_kib", "an open stream", "KiB", "resident memory with N − without / N", "/proc", None),
    )
}


class Measured(msgspec.Struct, kw_only=True):
    """What one cell showed in one round, by metric; a metric that was not measured is missing."""

    cell: str
    round: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of a level against its factor's first level, whose own value is ``base``.

    ``least`` and ``most`` are the smallest and the largest difference of a pair, medians over rounds.
    """

    factor: str
    level: str
    metric: str
    difference: Figure
    base: Figure
    least: float
    most: float

    @property
    def found(self) -> bool:
        """Whether a difference is claimed: six rounds, an interval without 0, and as much as matters."""
        apart = self.difference.low > 0 or self.difference.high < 0
        needed = least_that_matters(METRICS[self.metric], self.base.median)
        return self.difference.n >= ENOUGH_ROUNDS and apart and abs(self.difference.median) >= needed


def effects(measured: Sequence[Measured], cells: tuple[Cell, ...] = CELLS) -> list[Effect]:
    """All main effects. In a round the effect is the mean of the differences of all pairs; then the median over rounds."""
    rounds: dict[int, dict[str, Mapping[str, float]]] = {}
    for one in measured:
        rounds.setdefault(one.round, {})[one.cell] = one.values
    found = []
    for metric in METRICS:
        for factor, levels in FACTORS.items():
            for level in levels[1:]:
                effect = _effect(metric, factor, level, [rounds[number] for number in sorted(rounds)], cells)
                if effect is not None:
                    found.append(effect)
    return found


def _effect(
    metric: str, factor: str, level: str, rounds: Sequence[Mapping[str, Mapping[str, float]]], cells: tuple[Cell, ...]
) -> Effect | None:
    differences, bases = [], []
    by_pair: dict[tuple[str, str], list[float]] = {}
    for values in rounds:
        here = []
        for base, other in pairs(factor, level, cells):
            before, after = (values.get(cell.name, {}).get(metric) for cell in (base, other))
            if before is not None and after is not None:
                here.append((before, after - before))
                by_pair.setdefault((base.name, other.name), []).append(after - before)
        if here:
            bases.append(statistics.mean(before for before, _ in here))
            differences.append(statistics.mean(difference for _, difference in here))
    difference, base_figure = figure(differences), figure(bases)
    if difference is None or base_figure is None:
        return None
    medians = [statistics.median(values) for values in by_pair.values()]
    return Effect(factor, level, metric, difference, base_figure, min(medians), max(medians))
