"""``python -m compare stores``: what a committed event costs on each store, and how late it comes to a reader on
another node.

SQLite and Valkey are measured in one run, in turn. The load and the speed of the machine are printed with the figures,
because a busy or slow machine changes them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from compare.measuring.stores.measure import (
    KINDS,
    CommitCost,
    ReadingCost,
    StoreKind,
    commits,
    known,
    reading,
    running_store,
)
from shared.usage import reason, usage_of

# The goals: delays in ms, for many turns, and for many readers of one turn.
GOAL_P50_MS, GOAL_P99_MS, GOAL_READERS_P50_MS = 2.0, 10.0, 10.0
# They were set on a machine where the SQLite of e38f43e had these delays, p50 and p99.
_GOALS_SQLITE_MS = (26.0, 64.0)
# SQLite has no push: each process asks it 50 times a second for the writes of other processes.
_TOKENS_PER_S = 50.0
_READERS_TOKENS = 200
_ADDITIONS = 5_000_000


@dataclass(frozen=True, slots=True)
class Side:
    """A row of the table: a store of this tree, or of the tree in ``folder``, of which only the many turns are measured."""

    name: str
    kind: StoreKind
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured of one side."""

    many: ReadingCost
    commit: CommitCost | None = None
    readers: ReadingCost | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 2 for a store that is not known or does not work."""
    parser = argparse.ArgumentParser(prog="python -m compare stores", description=usage_of(__doc__))
    parser.add_argument("--only", default=",".join(KINDS), help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--turns", type=int, default=128, help="turns at once (default: 128)")
    parser.add_argument("--readers", type=int, default=1000, help="readers of one turn (default: 1000)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a turn (default: 6)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="the table has the medians of so many rounds (default: 1)"
    )
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="another tree of this program, to compare with in the same rounds"
    )
    parser.add_argument(
        "--before-store", default="sqlite", choices=KINDS, help="the store of that tree (default: sqlite)"
    )
    args = parser.parse_args(argv)
    try:
        sides = [Side(kind.name, kind) for kind in known(args.only.split(","))]
        if args.before is not None:
            sides.insert(
                0, Side(f"{args.before_store} of {_revision(args.before)}", KINDS[args.before_store], args.before)
            )
        asyncio.run(_run(sides, args.turns, args.readers, int(args.seconds * _TOKENS_PER_S), args.rounds))
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 2
    return 0


async def _run(sides: list[Side], turns: int, readers: int, tokens: int, rounds: int) -> None:
    console = Console(width=max(Console().width, 120))
    console.print(
        f"load {_load()} on {os.cpu_count()} cores; {_ADDITIONS / 1e6:g} million additions in Python take"
        f" {_additions_s():.2f} s; {_TOKENS_PER_S:g} tokens a second a turn, {tokens} a turn; rounds: {rounds}"
    )
    measured: dict[Side, list[Round]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            measured[side].append(await _round(side, turns, readers, tokens))
    table = Table(title=f"1 turn, one event after the other; {turns} turns; {readers} readers of one turn")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column != "store" else "left")
    for side, found in measured.items():
        table.add_row(side.name, *_cells(found))
    console.print(table)
    before, *others = sides
    if before.folder is not None:
        for side in others:
            console.print(_against(side, measured[side], before, measured[before]), soft_wrap=True)
    goals = (goal / was_ms for goal, was_ms in zip((GOAL_P50_MS, GOAL_P99_MS), _GOALS_SQLITE_MS, strict=True))
    console.print(
        f"goals on a calm machine: {turns} turns p50 {GOAL_P50_MS:g} ms, p99 {GOAL_P99_MS:g} ms; {readers} readers p50"
        f" {GOAL_READERS_P50_MS:g} ms. Where they were set, the SQLite of e38f43e had p50 {_GOALS_SQLITE_MS[0]:g} ms, p99"
        f" {_GOALS_SQLITE_MS[1]:g} ms: the goals are {' and '.join(f'{goal:.0%}' for goal in goals)} of it."
        f" Load afterwards {_load()}",
        soft_wrap=True,
    )


async def _round(side: Side, turns: int, readers: int, tokens: int) -> Round:
    with running_store(side.kind) as store:
        many = await reading(
            store, turns=turns, readers=1, tokens=tokens, tokens_per_s=_TOKENS_PER_S, folder=side.folder
        )
        if side.folder is not None:
            return Round(many)
        one = await reading(store, turns=1, readers=readers, tokens=_READERS_TOKENS, tokens_per_s=_TOKENS_PER_S)
        return Round(many, await commits(store), one)


_COLUMNS = (
    "store",
    "commit p50/p99 ms",
    "CPU µs",
    "late p50/p99 ms",
    "writer µs",
    "store µs",
    "reader µs",
    "together µs",
    "readers p50 ms",
)


def _cells(rounds: Sequence[Round]) -> list[str]:
    """The cells of a row after its name, each the median of the rounds."""
    costs = [one.commit for one in rounds if one.commit is not None]
    readers = [one.readers.late_p50_ms for one in rounds if one.readers is not None]
    commit = ["", ""]
    if costs:
        p50_ms, p99_ms = median(cost.p50_ms for cost in costs), median(cost.p99_ms for cost in costs)
        commit = [f"{p50_ms:.2f}/{p99_ms:.2f}", f"{median(cost.cpu_us for cost in costs):.0f}"]
    late = f"{_many(rounds, lambda cost: cost.late_p50_ms):.2f}/{_many(rounds, lambda cost: cost.late_p99_ms):.1f}"
    parts: tuple[Callable[[ReadingCost], float], ...] = (
        lambda cost: cost.writer_us,
        lambda cost: cost.store_us,
        lambda cost: cost.reader_us,
        lambda cost: cost.cpu_us,
    )
    return [
        *commit,
        late,
        *(f"{_many(rounds, part):.0f}" for part in parts),
        f"{median(readers):.1f}" if readers else "",
    ]


def _many(rounds: Sequence[Round], figure: Callable[[ReadingCost], float]) -> float:
    return median(figure(one.many) for one in rounds)


def _against(side: Side, rounds: Sequence[Round], before: Side, rounds_before: Sequence[Round]) -> str:
    """One line: the figures of the many turns as shares of those of another tree."""
    figures: dict[str, Callable[[ReadingCost], float]] = {
        "p50": lambda cost: cost.late_p50_ms,
        "p99": lambda cost: cost.late_p99_ms,
        "CPU": lambda cost: cost.cpu_us,
    }
    shares = []
    for name, figure in figures.items():
        pairs = [figure(new.many) / figure(old.many) for new, old in zip(rounds, rounds_before, strict=True)]
        span = f" ({min(pairs):.1%} to {max(pairs):.1%})" if len(pairs) > 1 else ""
        shares.append(f"{name} {median(pairs):.1%}{span}")
    return f"{side.name}, share of {before.name}: {', '.join(shares)}"


def _revision(folder: Path) -> str:
    """The commit of a tree, or the name of its folder where git does not know it."""
    said = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or folder.name


def _additions_s() -> float:
    """How long a plain loop takes: the speed of this machine."""
    total, begun_s = 0, time.perf_counter()
    for number in range(_ADDITIONS):
        total += number
    return time.perf_counter() - begun_s


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"
