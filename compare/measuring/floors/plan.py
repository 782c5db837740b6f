"""What the benchmark of the floors measures, and what it has measured."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from compare.measuring.floors.further import FURTHER
from compare.measuring.floors.goals import GOALS, Goal
from compare.measuring.floors.load.job import Result
from protocols.processes import Server

T = TypeVar("T")

STREAMING = ("ndjson", "sse", "websocket", "grpc")
WORDS = ("rest", *STREAMING)
# The transports and the further lanes.
LANES = (*WORDS, *FURTHER)
SIDES = ("floor", "memory", "sqlite")
# The same floor in Node, to tell the language from the chat.
NODE = "node"
FLOORS = ("floor", NODE)
PACED_STREAMS = 128
# With fewer rounds no sentence claims a difference: one round has no range that could overlap.
ENOUGH_ROUNDS = 3
PACED_PER_S = 50.0


@dataclass(frozen=True, slots=True)
class FloorPlan:
    """How much to measure, of which lanes (``words``), rows and sides. ``seconds`` is the length of a window.

    ``pin`` keeps server and load generator on a core each. ``usual``: nothing was asked for by name, so the lane that explains a
    row stands in it.
    """

    words: tuple[str, ...]
    rows: tuple[str, ...]
    sides: tuple[str, ...]
    streams: int
    events: int
    seconds: float
    rounds: int
    idle_streams: int
    readers: int
    pin: bool
    seed: int
    usual: bool = False


@dataclass(frozen=True, slots=True)
class Side:
    """A running server of the lane ``word``: ``floor``, ``node``, or the real one on the store ``memory`` or ``sqlite``.

    ``server`` is the real one; a floor has none.
    """

    name: str
    word: str
    address: str
    pid: int
    server: Server | None = None


@dataclass(slots=True)
class SideResult:
    """What one side of one row showed, a value a round."""

    row: str
    word: str
    side: str
    goal: Goal | None = None
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    delay_p50_ms: list[float] = field(default_factory=list)
    delay_p99_ms: list[float] = field(default_factory=list)
    ttft_p50_ms: list[float] = field(default_factory=list)
    rss_kib: list[float] = field(default_factory=list)
    load_share: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, result: Result, work: float | None = None) -> None:
        """Add a round; its cost is divided by ``work``, by default the number of events."""
        amount = result.events if work is None else work
        if result.cpu_s is not None and amount:
            self.cpu_us.append(result.cpu_s * 1e6 / amount)
        self.per_s.append(amount / result.seconds)
        self.load_share.append(result.load_cpu_s / result.seconds)
        for name in ("ttft_p50_ms", "delay_p50_ms", "delay_p99_ms"):
            value = getattr(result, name)
            if value is not None:
                getattr(self, name).append(value)


@dataclass(slots=True)
class FloorRun:
    """The state of a run: the plan, the results by row, word and side, and ``say``, which shows progress.

    ``sides`` are those of the cell that is being measured.
    """

    plan: FloorPlan
    say: Callable[[str], None]
    sides: tuple[str, ...] = ()
    results: dict[tuple[str, str, str], SideResult] = field(default_factory=dict)

    def result(self, row: str, side: Side) -> SideResult:
        """The result of a side in a row, made when it is first asked for."""
        key = (row, side.word, side.name)
        return self.results.setdefault(key, SideResult(*key, GOALS.get(key)))

    def floor_of(self, result: SideResult) -> SideResult | None:
        """The floor in the row of a result."""
        return self.results.get((result.row, result.word, "floor"))

    def rounds(self, title: str, sides: Sequence[Side]) -> Iterator[Side]:
        """All sides, once in each round, in a new order each time."""
        for number, shuffled in enumerate(self.orders(sides)):
            for side in shuffled:
                self.say(f"{title} {side.word} {side.name}, round {number + 1} of {self.plan.rounds}")
                yield side

    def orders(self, sides: Sequence[T]) -> Iterator[list[T]]:
        """The sides in a random order, for each round."""
        dice = random.Random(self.plan.seed)
        for _ in range(self.plan.rounds):
            order = list(sides)
            dice.shuffle(order)
            yield order


def ratio_to(result: SideResult, floor: SideResult | None) -> float | None:
    """The real server's cost over the floor's, from the medians; None for the floor and without known CPU times."""
    if floor is None or result is floor or not result.cpu_us or not floor.cpu_us:
        return None
    return statistics.median(result.cpu_us) / statistics.median(floor.cpu_us)
