"""Quantiles, and medians with an interval.

The interval is made from rounds, not from single tokens, streams or repetitions: what delays one of these also delays the others
beside it, so they are not independent.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Sequence

import msgspec

# With fewer rounds no interval of a median reaches 95 % (in a sign test it is 1 − 2 / 2^n), so no difference is claimed.
ENOUGH_ROUNDS = 6
_RESAMPLES = 1000
_LEVEL = 0.95


class Figure(msgspec.Struct, frozen=True):
    """The median over ``n`` rounds, the 95 % interval of its bootstrap, and the largest single value."""

    median: float
    low: float
    high: float
    n: int
    worst: float


def quantile(values: Iterable[float], q: float) -> float | None:
    """The q-quantile, interpolated linearly between order statistics (Hyndman and Fan's type 7); None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def figure(values: Sequence[float], seed: int = 1) -> Figure | None:
    """The median of one value a round, with a percentile bootstrap (1,000 resamples, seeded); None without values."""
    if not values:
        return None
    middle = statistics.median(values)
    if len(values) == 1:
        return Figure(middle, middle, middle, 1, middle)
    dice = random.Random(seed)
    medians = [statistics.median(dice.choices(values, k=len(values))) for _ in range(_RESAMPLES)]
    low, high = quantile(medians, (1 - _LEVEL) / 2), quantile(medians, (1 + _LEVEL) / 2)
    assert low is not None and high is not None
    return Figure(middle, low, high, len(values), max(values))


def figure_of_rounds(measured: Iterable[tuple[int, float]]) -> Figure | None:
    """The figure of values with the numbers of their rounds: the values of one round count as one, their median."""
    rounds: dict[int, list[float]] = {}
    for number, value in measured:
        rounds.setdefault(number, []).append(value)
    made = figure([statistics.median(values) for values in rounds.values()])
    if made is None:
        return None
    return msgspec.structs.replace(made, worst=max(value for values in rounds.values() for value in values))


def median_with_range(values: Sequence[float], digits: int) -> str:
    """The median of at least one value, and in brackets the lowest and the highest."""
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def differ(a: Figure, b: Figure) -> bool:
    """Whether the two intervals do not overlap; False when one figure has fewer than six rounds."""
    return min(a.n, b.n) >= ENOUGH_ROUNDS and (a.high < b.low or b.high < a.low)
