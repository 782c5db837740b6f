"""``python -m compare floor``: each transport's floor and the real server, under the same load in the same run.

A floor is the smallest server that can do a transport's job. Rounds are interleaved and shuffled; medians are printed with their
range and their goal. Server and load generator get a core each where there are two.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from compare.measuring.floors.plan import SIDES, WORDS, FloorPlan, FloorRun, SideResult
from compare.measuring.floors.rows import ROWS
from compare.showing.floor_table import show_floors
from shared.errors import ChatError, ConnectionLost


def parse(argv: Sequence[str] | None) -> tuple[FloorPlan, Path | None]:
    """The plan, and the file for the figures."""
    parser = argparse.ArgumentParser(prog="python -m compare floor", description=__doc__)
    parser.add_argument("--only", help=f"transports, comma-separated, of {', '.join(WORDS)}")
    parser.add_argument("--rows", help=f"rows, comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"of {', '.join(SIDES)} (default: all)")
    parser.add_argument("--streams", type=int, default=64, help="saturated streams (default: 64)")
    parser.add_argument("--events", type=int, default=200, help="chunk events a turn (default: 200)")
    parser.add_argument("--seconds", type=float, help="length of a window (default: 3, with --quick 1.5)")
    parser.add_argument("--rounds", type=int, help="rounds of each (default: 3, with --quick 1)")
    parser.add_argument("--idle-streams", type=int, help="open streams (default: 5000, with --quick 1000)")
    parser.add_argument("--readers", type=int, default=1000, help="readers of one turn (default: 1000)")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument("--seed", type=int, default=1, help="for the order of the sides (default: 1)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    words = tuple(args.only.split(",")) if args.only else WORDS
    rows = tuple(args.rows.split(",")) if args.rows else tuple(ROWS)
    sides = tuple(args.sides.split(","))
    for given, known in ((words, WORDS), (rows, tuple(ROWS)), (sides, SIDES)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    plan = FloorPlan(
        words=words,
        rows=rows,
        sides=sides,
        streams=args.streams,
        events=args.events,
        seconds=args.seconds or (1.5 if args.quick else 3.0),
        rounds=args.rounds or (1 if args.quick else 3),
        idle_streams=args.idle_streams or (1000 if args.quick else 5000),
        readers=args.readers,
        pin=not args.no_pin,
        seed=args.seed,
    )
    return plan, args.out


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print, and return the exit status."""
    plan, out = parse(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    pinned = plan.pin and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}, loopback, "
        f"{'server and load generator pinned to a core each' if pinned else 'not pinned'}, "
        f"windows of {plan.seconds:g} s, {plan.rounds} rounds, medians (lowest–highest)",
        markup=False,
    )
    results = asyncio.run(measure(plan, console))
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    return 0


async def measure(plan: FloorPlan, console: Console) -> list[SideResult]:
    """All rows of all transports of the plan; each row is printed when it is done.

    A row that cannot be measured for a transport says why, and the others go on.
    """
    results: list[SideResult] = []
    began = time.monotonic()
    with console.status("starting") as status:
        for name in plan.rows:
            run = FloorRun(plan, lambda text: status.update(f"{time.monotonic() - began:4.0f} s  {text}"))
            row, words = ROWS[name]
            for word in words:
                if word not in plan.words:
                    continue
                try:
                    await row(run, word)
                except (RuntimeError, OSError, ChatError, ConnectionLost) as error:
                    console.print(f"{name} {word}: not measured here: {error}", markup=False)
            show_floors(console, run)
            results += run.results.values()
    return results
