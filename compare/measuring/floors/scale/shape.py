"""The shape of a line of growth, found by a fit: flat, falling, linear, or another one with its reason.

Every fit is a least-squares fit of the relative errors, so that a small value counts as much as a large one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# A size and the value that was measured there.
Points = Sequence[tuple[float, float]]
Name = Literal["flat", "falls", "linear", "other"]

# A line is flat when its fit changes by no more than this factor from the smallest to the largest size.
FLAT = 1.5
# A fit describes a line when no point differs from it by more than this share.
_CLOSE = 0.35
_FULL_CORE = 0.9


@dataclass(frozen=True, slots=True)
class Shape:
    """The name of a shape, and the fit or the reason in words."""

    name: Name
    words: str


@dataclass(frozen=True, slots=True)
class _Fit:
    """``y = fixed + factor * term(x)``; ``worst`` is the largest share by which a point differs from it."""

    fixed: float
    factor: float
    worst: float


def shape_of(
    points: Points,
    unit: str,
    *,
    floor: Points = (),
    cores: Mapping[float, float] | None = None,
    resolution: float = 0.0,
) -> Shape:
    """The shape of a line of at least two sizes.

    ``floor``: the floor's line, if it has one. ``cores``: how much of a core the server used at each size. Values that differ by no
    more than ``resolution`` count as equal.
    """
    points = sorted((size, max(value, 1e-9)) for size, value in points)
    values = [value for _, value in points]
    if max(values) - min(values) <= resolution:
        return Shape("flat", f"{statistics.median(values):.3g} {unit}, within {resolution:g} {unit}")
    ends = points[-1][1] / points[0][1]
    if len(points) < 3:
        flat = 1 / FLAT <= ends <= FLAT
        return Shape("flat" if flat else "other", f"× {ends:.2f}; two sizes allow no fit")
    exponent = _exponent(points)
    grown = (points[-1][0] / points[0][0]) ** exponent
    constant = _fit(points, lambda size: 0.0)
    if 1 / FLAT <= grown <= FLAT and constant.worst <= FLAT - 1:
        return Shape("flat", f"{constant.fixed:.3g} {unit}, × {grown:.2f} over all sizes by the fit")
    shared, linear = _fit(points, lambda size: 1 / size), _fit(points, lambda size: size)
    if shared.factor > 0 and shared.fixed >= 0 and shared.worst <= _CLOSE and shared.worst < linear.worst:
        words = f"{shared.fixed:.3g} + {shared.factor:.3g} / size {unit}: a fixed cost that all share"
        return Shape("falls", words)
    if linear.factor > 0 and linear.worst <= _CLOSE:
        return Shape("linear", f"{linear.fixed:.3g} + {linear.factor:.3g} × size {unit}")
    return Shape("other", f"size^{exponent:.2f}, × {ends:.2f} in all; {_reason(points, ends, floor, cores or {})}")


def _reason(points: Points, ends: float, floor: Points, cores: Mapping[float, float]) -> str:
    """The reason that the measurements themselves give for a line that no fit describes."""
    full = [size for size, _ in points if cores.get(size, 0.0) >= _FULL_CORE]
    if full:
        return f"the server's core is full from {full[0]:g} on"
    step = max(range(1, len(points)), key=lambda nth: abs(math.log(points[nth][1] / points[nth - 1][1])))
    at = f"most of it between {points[step - 1][0]:g} and {points[step][0]:g}"
    if len(floor) > 1:
        of_floor = max(max(floor)[1], 1e-9) / max(min(floor)[1], 1e-9)
        if math.log(ends) * math.log(of_floor) > 0 and abs(math.log(of_floor)) >= abs(math.log(ends)) / 2:
            return f"the floor changes likewise, × {of_floor:.2f}: loop, kernel and sockets; {at}"
        return f"the floor changes × {of_floor:.2f}, so the server is the cause; {at}"
    return at


def _exponent(points: Points) -> float:
    """The exponent of the power law that fits best: the slope on logarithmic axes."""
    xs, ys = [math.log(size) for size, _ in points], [math.log(value) for _, value in points]
    return statistics.linear_regression(xs, ys).slope


def _fit(points: Points, term: Callable[[float], float]) -> _Fit:
    """The least-squares fit of the relative errors."""
    weights = [1 / value**2 for _, value in points]
    terms = [term(size) for size, _ in points]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, terms, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, terms, strict=True))
    both = sum(w * (x - mean_x) * (y - mean_y) for w, x, (_, y) in zip(weights, terms, points, strict=True))
    factor = both / spread if spread > 0 else 0.0
    fixed = mean_y - factor * mean_x
    worst = max(abs(fixed + factor * x - y) / y for x, (_, y) in zip(terms, points, strict=True))
    return _Fit(fixed, factor, worst)
