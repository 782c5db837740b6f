"""What the benchmark of the floors measures, and what it has measured."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from compare.measuring.floors.further import FURTHER
from compare.measuring.floors.goals import GOALS, Goal
from compare.measuring.floors.load.job import Result
from protocols.processes import Server
from shared.errors import ChatError, ConnectionLost

T = TypeVar("T")

STREAMING = ("ndjson", "sse", "websocket", "grpc")
WORDS = ("rest", *STREAMING)
# The five servers that one command starts; it is a lane of the row ``start`` alone.
SERVE_ALL = "serve-all"
USUAL = (*WORDS, SERVE_ALL)
# The transports and the further lanes.
LANES = (*USUAL, *FURTHER)
SIDES = ("floor", "memory", "sqlite")
# The same floor in Node, to tell the language from the chat.
NODE = "node"
FLOORS = ("floor", NODE)
# The servers of another checkout, each on the store that the name begins with.
BEFORE = ("memory-before", "sqlite-before")
PACED_STREAMS = 128
PACED_PER_S = 50.0


@dataclass(frozen=True, slots=True)
class FloorPlan:
    """How much to measure, of which lanes (``words``), rows and sides. ``seconds`` is the length of a window.

    ``saturated_rounds`` are the rounds of the row ``saturated``, whose sentences claim a difference: that takes six.
    ``pin`` keeps server and load generator on a core each. ``usual``: nothing was asked for by name, so the lane that explains a
    row stands in it. ``tls``: every line is encrypted. ``beside``: another checkout of this program, whose servers are measured
    as further sides; ``beside_commit``: the hash of its commit, empty where it is unknown. ``at_once``: today's server and the
    one of the other checkout are loaded in the same windows, on the same core.
    """

    words: tuple[str, ...]
    rows: tuple[str, ...]
    sides: tuple[str, ...]
    streams: int
    events: int
    seconds: float
    rounds: int
    saturated_rounds: int
    idle_streams: int
    readers: int
    pin: bool
    seed: int
    usual: bool = False
    tls: bool = False
    beside: Path | None = None
    beside_commit: str = ""
    at_once: bool = False

    @property
    def once_rounds(self) -> int:
        """The rounds of a row that is measured once in the usual run, because one round tells a cost but no difference."""
        return self.rounds if self.beside is not None else 1

    def of_row(self, row: str) -> FloorPlan:
        """The plan with the rounds of this row."""
        return replace(self, rounds=self.saturated_rounds) if row == "saturated" else self


@dataclass(frozen=True, slots=True)
class Side:
    """A running server of the lane ``word``: ``floor``, ``node``, or the real one on the store ``memory`` or ``sqlite``.

    ``server`` is the real one; a floor has none. ``ca``: the CA of its certificate, a PEM file; empty without TLS.
    """

    name: str
    word: str
    address: str
    pid: int
    server: Server | None = None
    ca: str = ""


@dataclass(slots=True)
class SideResult:
    """What one side of one row showed, a value a round."""

    row: str
    word: str
    side: str
    goals: tuple[Goal, ...] = ()
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    delay_p50_ms: list[float] = field(default_factory=list)
    delay_p99_ms: list[float] = field(default_factory=list)
    ttft_p50_ms: list[float] = field(default_factory=list)
    rss_kib: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    load_share: list[float] = field(default_factory=list)
    note: str = ""
    tls: bool = False

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

    ``sides`` are those of the cell that is being measured, ``certificate`` the settings of TLS, empty without it. ``left_out`` has
    the reason for each server of another checkout that cannot be measured, by row, word and side.
    """

    plan: FloorPlan
    say: Callable[[str], None]
    sides: tuple[str, ...] = ()
    certificate: Mapping[str, str] = field(default_factory=dict)
    results: dict[tuple[str, str, str], SideResult] = field(default_factory=dict)
    left_out: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def result(self, row: str, side: Side) -> SideResult:
        """The result of a side in a row, made when it is first asked for."""
        return self.result_of(row, side.word, side.name)

    def result_of(self, row: str, word: str, name: str) -> SideResult:
        """The same by the side's lane and name."""
        key = (row, word, name)
        # The goals are for lines without TLS.
        goals = () if self.plan.tls else GOALS.get(key, ())
        return self.results.setdefault(key, SideResult(*key, goals, tls=self.plan.tls))

    @contextmanager
    def leaving_out(self, row: str, word: str, name: str) -> Iterator[None]:
        """Where a server of another checkout cannot do what a row asks for, the reason is kept and the row goes on without it.

        Any other side's error is raised.
        """
        try:
            yield
        except (RuntimeError, OSError, ChatError, ConnectionLost) as error:
            if name not in BEFORE:
                raise
            self.left_out.setdefault((row, word, name), str(error))

    def floor_of(self, result: SideResult) -> SideResult | None:
        """The floor in the row of a result."""
        return self.results.get((result.row, result.word, "floor"))

    def rounds(self, row: str, sides: Sequence[Side]) -> Iterator[list[Side]]:
        """All sides, once in each round, in a new order each time, without those that are left out.

        Each list has the sides that are loaded at the same time.
        """
        by_name = {side.name: side for side in sides}
        for number, names in enumerate(self.orders(loaded_together(list(by_name), self.plan), self.plan.rounds)):
            for group in names:
                found = [by_name[name] for name in group if (row, by_name[name].word, name) not in self.left_out]
                if found:
                    self.say(f"{row} {found[0].word} {', '.join(group)}, round {number + 1} of {self.plan.rounds}")
                    yield found

    def orders(self, sides: Sequence[T], rounds: int) -> Iterator[list[T]]:
        """The sides in a random order, for each round."""
        dice = random.Random(self.plan.seed)
        for _ in range(rounds):
            order = list(sides)
            dice.shuffle(order)
            yield order


def loaded_together(names: Sequence[str], plan: FloorPlan) -> list[tuple[str, ...]]:
    """The sides by name, each alone; with ``at_once`` the two checkouts' servers on the same store together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.removesuffix("-before") if plan.at_once else name, []).append(name)
    return [tuple(group) for group in groups.values()]


def without_sqlite(sides: Sequence[str]) -> list[str]:
    """The sides of a row that does not depend on the store: those on SQLite only where no server is on the memory."""
    rest = [name for name in sides if not name.startswith("sqlite")]
    return rest if set(rest) - set(FLOORS) else list(sides)


def ratio_to(result: SideResult, floor: SideResult | None) -> float | None:
    """The real server's cost over the floor's, from the medians; None for the floor and without known CPU times."""
    if floor is None or result is floor or not result.cpu_us or not floor.cpu_us:
        return None
    return statistics.median(result.cpu_us) / statistics.median(floor.cpu_us)
