"""What ``compare floor --scale`` measures: five axes with their sizes, and the lines that come of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from compare.measuring.floors.plan import FloorPlan
from compare.measuring.floors.scale.shape import Shape, shape_of

# The sizes of each axis, and those of a quick run.
SIZES: dict[str, tuple[int, ...]] = {
    "streams": (1, 10, 100, 1000, 5000),
    "readers": (1, 10, 100, 1000),
    "history": (1, 10, 100, 1000, 2000),
    "store": (10, 1000, 100_000, 1_000_000),
    "processes": (1, 2),
}
QUICK: dict[str, tuple[int, ...]] = {
    "streams": (1, 20, 400),
    "readers": (1, 20, 400),
    "history": (1, 20, 400),
    "store": (10, 1000, 50_000),
    "processes": (1, 2),
}
WHAT = {
    "streams": "open streams, which share 1,000 tokens a second",
    "readers": "readers of one turn, who get 1,000 events a second together",
    "history": "turns that the session has before the new one",
    "store": "ended turns in the SQLite file",
    "processes": "server processes on one store, which share 128 streams at 50 tokens a second",
}
# Values of a unit that differ by less count as equal.
_RESOLUTION = {"ms": 2.0, "µs": 5.0, "MiB": 2.0}


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """The sizes by axis, and in ``floors`` the lanes, the rounds and the length of a window."""

    sizes: Mapping[str, tuple[int, ...]]
    floors: FloorPlan


@dataclass(slots=True)
class GrowthLine:
    """One figure of one side of a lane against the sizes of an axis: a value a round at each size.

    ``cores``: how many cores the server used at each size.
    """

    axis: str
    figure: str
    unit: str
    lane: str
    side: str
    values: dict[int, list[float]] = field(default_factory=dict)
    cores: dict[float, float] = field(default_factory=dict)
    shape: Shape | None = None

    def points(self) -> list[tuple[float, float]]:
        """The medians."""
        return [(size, statistics.median(values)) for size, values in sorted(self.values.items())]


@dataclass(slots=True)
class ScaleRun:
    """The state of a run: its plan, ``say``, which shows progress, and the lines so far by axis, figure, lane and side."""

    plan: ScalePlan
    say: Callable[[str], None]
    lines: dict[tuple[str, str, str, str], GrowthLine] = field(default_factory=dict)

    def add(
        self, axis: str, lane: str, side: str, size: int, figures: Mapping[str, float | None], cores: float
    ) -> None:
        """Add what was measured at a size. A figure is named with its unit at the end: ``CPU an event, µs``."""
        for name, value in figures.items():
            if value is None:
                continue
            figure, _, unit = name.rpartition(", ")
            key = (axis, figure, lane, side)
            line = self.lines.setdefault(key, GrowthLine(axis, figure, unit, lane, side))
            line.values.setdefault(size, []).append(value)
            line.cores[size] = max(cores, line.cores.get(size, 0.0))

    def classify(self) -> None:
        """Give every line of at least two sizes its shape."""
        for (axis, figure, lane, _), line in self.lines.items():
            floor = self.lines.get((axis, figure, lane, "floor"))
            if len(line.values) > 1:
                line.shape = shape_of(
                    line.points(),
                    line.unit,
                    floor=floor.points() if floor is not None and floor is not line else (),
                    cores=line.cores,
                    resolution=_RESOLUTION.get(line.unit, 0.0),
                )
