"""From the turns of several lanes to figures, and from figures to a sentence: which lane is better, or that none is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from compare.measuring.metrics import METRICS, Metric
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, differ, figure
from compare.measuring.turns import TurnRecord


def summarise(turns: Sequence[TurnRecord], names: Iterable[str] = METRICS) -> dict[str, Figure]:
    """The figures of these metrics, as far as the turns have them; a failed turn counts in none.

    The turns of one round give one value, their median.
    """
    found = {}
    for name in names:
        of_turn = METRICS[name].of_turn
        if of_turn is None:
            continue
        rounds: dict[int, list[float]] = {}
        for turn in turns:
            if turn.error is None and (value := of_turn(turn)) is not None:
                rounds.setdefault(turn.round, []).append(value)
        made = figure([statistics.median(values) for values in rounds.values()])
        if made is not None:
            found[name] = made
    return found


def verdict(metric: Metric, by_lane: Mapping[str, Figure]) -> str:
    """One sentence on a metric; empty when there is nothing to compare.

    Lanes whose interval overlaps the best lane's interval are called equal to the best lane.
    """
    if len(by_lane) < 2 or metric.better == "neither":
        return ""
    least = min(figure.n for figure in by_lane.values())
    if least < ENOUGH_ROUNDS:
        return (
            f"{metric.title}: {least} rounds a lane are too few to tell a difference ({ENOUGH_ROUNDS} are the least)."
        )
    order = sorted(by_lane, key=lambda lane: by_lane[lane].median, reverse=metric.better == "higher")
    best = order[0]
    equal = [lane for lane in order if lane == best or not differ(by_lane[best], by_lane[lane])]
    if len(equal) == len(order):
        return f"{metric.title}: no difference found between {listed(order)}."
    behind = [f"{lane} ({_median(metric, by_lane[lane])})" for lane in order if lane not in equal]
    head = f"{metric.title}: {listed(equal)} {metric.better} ({_median(metric, by_lane[best])})"
    if len(equal) > 1:
        head += ", no difference found between them,"
    return f"{head} than {', '.join(behind)}."


def listed(names: Sequence[str], conjunction: str = "and") -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {conjunction} {names[-1]}"


def number(value: float, like: float | None = None) -> str:
    """A value with three digits, or with all digits before the point; with as many decimals as ``like`` would have."""
    size = abs(value if like is None else like)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def median_with_interval(metric: str, found: Figure) -> str:
    """``12.3 (11.8–12.9)``, without the interval where it is a point; shares as percentages."""
    if METRICS[metric].unit == "share":
        low, middle, high = (f"{value:.0%}" for value in (found.low, found.median, found.high))
    else:
        low, middle, high = (number(value, found.median) for value in (found.low, found.median, found.high))
    return middle if low == high else f"{middle} ({low}–{high})"


def _median(metric: Metric, found: Figure) -> str:
    return f"{found.median:.0%}" if metric.unit == "share" else f"{number(found.median)} {metric.unit}"
