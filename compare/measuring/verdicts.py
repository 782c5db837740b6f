"""From the turns of several lanes to figures, and from figures to a sentence: which lane is better, or that none is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from compare.measuring.causes import causes
from compare.measuring.lanes import lane_title
from compare.measuring.metrics import METRICS, Metric
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, differ, figure_of_rounds
from compare.measuring.turns import TurnRecord

# Smaller differences are not ranked: nobody feels 5 ms, and a tenth is within what two machines differ by.
FELT_MS = 5.0
FELT_SHARE = 0.1
# A lane whose chunks arrive together more often than this is not ranked by the gaps between them.
BUNCHED_SHARE = 0.2


def summarise(turns: Sequence[TurnRecord], names: Iterable[str] = METRICS) -> dict[str, Figure]:
    """The figures of these metrics, as far as the turns have them; a failed turn counts in none.

    The turns of one round give one value, their median.
    """
    found = {}
    for name in names:
        of_turn = METRICS[name].of_turn
        if of_turn is None:
            continue
        of_turns = [
            (turn.round, value) for turn in turns if turn.error is None and (value := of_turn(turn)) is not None
        ]
        if (made := figure_of_rounds(of_turns)) is not None:
            found[name] = made
    return found


def least_that_matters(metric: Metric, value: float) -> float:
    """The smallest difference from ``value`` that is ranked: a tenth of it, and for a time in ms at least 5 ms."""
    return max(FELT_MS if metric.unit == "ms" else 0.0, FELT_SHARE * abs(value))


def matters(metric: Metric, a: Figure, b: Figure) -> bool:
    """Whether two figures differ, and by as much as matters."""
    return differ(a, b) and abs(a.median - b.median) > least_that_matters(metric, min(a.median, b.median))


def bunched(figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, float]:
    """The lanes of an experiment whose chunks mostly arrived together, with the share that did.

    The gaps of such a lane say nothing: what was held back for a second and comes at once has gaps of almost 0 ms.
    """
    shares = {lane: found["coalescing"].median for lane, found in figures.items() if "coalescing" in found}
    return {lane: share for lane, share in shares.items() if share > BUNCHED_SHARE}


def verdict(metric: Metric, by_lane: Mapping[str, Figure], bunched: Mapping[str, float] = MappingProxyType({})) -> str:
    """One sentence on a metric; empty when there is nothing to compare.

    Lanes that do not differ from the best lane, or by less than matters, are called equal to it. The cause of a difference is
    named where it is known. Lanes that are ``bunched``
    are not ranked by the gaps between their chunks.
    """
    left_out = [lane for lane in by_lane if lane in bunched] if metric.of_gaps else []
    by_lane = {lane: figure for lane, figure in by_lane.items() if lane not in left_out}
    said = _ranking(metric, by_lane)
    if left_out:
        shares = ", ".join(f"{bunched[lane]:.0%}" for lane in left_out)
        together = f"{metric.title}: not ranked for {titles(left_out)}, whose chunks arrived together ({shares})."
        return f"{said} {together}".strip()
    return said


def _ranking(metric: Metric, by_lane: Mapping[str, Figure]) -> str:
    if len(by_lane) < 2 or metric.better == "neither":
        return ""
    if all(figure.median == figure.high == 0 for figure in by_lane.values()):
        once = [f"{number(figure.worst)} on {lane_title(lane)}" for lane, figure in by_lane.items() if figure.worst]
        seldom = f", but once at least {listed(once)}" if once else ""
        return f"{metric.title}: 0 {metric.unit} on all lanes{seldom}."
    least = min(figure.n for figure in by_lane.values())
    if least < ENOUGH_ROUNDS:
        rounds = "1 round" if least == 1 else f"{least} rounds"
        return f"{metric.title}: {rounds} a lane cannot tell a difference; it takes {ENOUGH_ROUNDS}."
    order = sorted(by_lane, key=lambda lane: by_lane[lane].median, reverse=metric.better == "higher")
    best = order[0]
    equal = [lane for lane in order if lane == best or not matters(metric, by_lane[best], by_lane[lane])]
    small = any(differ(by_lane[best], by_lane[lane]) for lane in equal)
    no_difference = "no difference that matters" if small else "no difference found"
    if len(equal) == len(order):
        return f"{metric.title}: {no_difference} between {titles(order)}."
    behind = [f"{lane_title(lane)} ({_median(metric, by_lane[lane])})" for lane in order if lane not in equal]
    head = f"{metric.title}: {titles(equal)} {metric.better} ({_median(metric, by_lane[best])})"
    if len(equal) > 1:
        head += f", {no_difference} between them,"
    apart = [lane for lane in order if lane not in equal] + [lane for lane in equal if metric.name == "down_per_token"]
    return f"{head} than {', '.join(behind)}. {causes(metric.name, apart)}".strip()


def titles(lanes: Sequence[str], conjunction: str = "and") -> str:
    """The names of lanes in a text: ``a, b and c``."""
    return listed([lane_title(lane) for lane in lanes], conjunction)


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
