"""``python -m compare stores``: what a committed event costs on each store, and how late it comes to a reader on
another node.

SQLite and Valkey are measured in one run. The load of the machine is printed with the figures, because a busy machine
spoils them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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

# The goals: delays in ms, for many turns, and for many readers of one turn.
GOAL_P50_MS, GOAL_P99_MS, GOAL_READERS_P50_MS = 2.0, 10.0, 10.0
# SQLite has no push: each process asks it 50 times a second for the writes of other processes.
_TOKENS_PER_S = 50.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 2 for a store that is not known or does not work."""
    parser = argparse.ArgumentParser(prog="python -m compare stores", description=__doc__)
    parser.add_argument("--only", default=",".join(KINDS), help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--turns", type=int, default=128, help="turns at once (default: 128)")
    parser.add_argument("--readers", type=int, default=1000, help="readers of one turn (default: 1000)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a turn (default: 6)")
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="another tree of this program, whose SQLite is measured first"
    )
    args = parser.parse_args(argv)
    try:
        kinds = known(args.only.split(","))
        asyncio.run(_run(kinds, args.turns, args.readers, int(args.seconds * _TOKENS_PER_S), args.before))
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def _run(kinds: list[StoreKind], turns: int, readers: int, tokens: int, before: Path | None) -> None:
    console = Console(width=max(Console().width, 120))
    console.print(
        f"load {_load()} on {os.cpu_count()} cores; {_TOKENS_PER_S:g} tokens a second a turn, {tokens} a turn"
    )
    table = Table(title=f"1 turn, one event after the other; {turns} turns; {readers} readers of one turn")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column != "store" else "left")
    if before is not None:
        with running_store(KINDS["sqlite"]) as store:
            many = await reading(
                store, turns=turns, readers=1, tokens=tokens, tokens_per_s=_TOKENS_PER_S, folder=before
            )
        table.add_row("sqlite, before", "", "", *_many_cells(many), "")
    for kind in kinds:
        with running_store(kind) as store:
            cost = await commits(store)
            many = await reading(store, turns=turns, readers=1, tokens=tokens, tokens_per_s=_TOKENS_PER_S)
            one = await reading(store, turns=1, readers=readers, tokens=200, tokens_per_s=_TOKENS_PER_S)
        table.add_row(kind.name, *_commit_cells(cost), *_many_cells(many), f"{one.late_p50_ms:.1f}")
    console.print(table)
    console.print(
        f"goals on a calm machine: {turns} turns p50 {GOAL_P50_MS:g} ms, p99 {GOAL_P99_MS:g} ms; {readers} readers p50"
        f" {GOAL_READERS_P50_MS:g} ms; load afterwards {_load()}"
    )


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


def _commit_cells(cost: CommitCost) -> tuple[str, str]:
    return f"{cost.p50_ms:.2f}/{cost.p99_ms:.2f}", f"{cost.cpu_us:.0f}"


def _many_cells(cost: ReadingCost) -> tuple[str, ...]:
    parts = (cost.writer_us, cost.store_us, cost.reader_us, cost.cpu_us)
    return (f"{cost.late_p50_ms:.2f}/{cost.late_p99_ms:.1f}", *(f"{part:.0f}" for part in parts))


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"
