"""``python -m compare factors``: how much of a difference is the encoding, the HTTP version, the framing, the server library.

Each combination that is possible is a server of its own. Two servers that differ in one factor alone show what the factor costs.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from compare.factorial.cells import CELLS, LEVELS, Cell
from compare.factorial.effects import Measured
from compare.factorial.measure import FULL, QUICK, FactorScale, measure
from compare.factorial.view import sections
from compare.measuring.lanes import shuffled
from compare.measuring.statistics import ENOUGH_ROUNDS
from compare.showing.folder import prepare
from compare.showing.progress import minutes, progress
from compare.showing.section import show, write
from protocols.live import open_console, say
from shared.signals import run_until_signal
from shared.usage import reason, usage_of

NAME = "factors"
# The seconds of a cell in a round: the server's start, and then the three loads.
_CELL_S, _QUICK_CELL_S = 9.0, 5.0
_QUICK_ROUNDS = 1
_NEEDS = ("connectrpc", "zttp")
_PLANT = re.compile(r"(.+)=([0-9.]+)us")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments; ``planted`` is a level and its µs."""
    parser = argparse.ArgumentParser(
        prog="python -m compare factors", description=usage_of(__doc__.partition("\n\n")[0])
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds (default: {ENOUGH_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="one small round; no difference is claimed")
    parser.add_argument(
        "--plant",
        metavar="LEVEL=20us",
        help="make each event cost more CPU time on the servers with this level, to see where it is booked",
    )
    parser.add_argument("--out", type=Path, default=Path("compare-out"), help="folder to write (default: compare-out)")
    parser.add_argument("--seed", type=int, default=1, help="for the order of the servers (default: 1)")
    args = parser.parse_args(argv)
    args.planted = ("", 0.0)
    if args.plant is not None:
        match = _PLANT.fullmatch(args.plant)
        if match is None or match[1] not in LEVELS:
            parser.error(f"--plant: LEVEL=20us with a level of {', '.join(LEVELS)}")
        args.planted = (match[1], float(match[2]))
    args.rounds = args.rounds or (_QUICK_ROUNDS if args.quick else ENOUGH_ROUNDS)
    if args.rounds < 1:
        parser.error("--rounds must be positive")
    return args


def expected_s(rounds: int, *, quick: bool = False) -> float:
    """The expected time on a quiet machine."""
    return rounds * len(CELLS) * (_QUICK_CELL_S if quick else _CELL_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit status, 2 when a server does not start or a package is missing, 130 on Ctrl-C."""
    args = parse(argv)
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        sys.stderr.write(f'factors needs {", ".join(missing)}: pip install -e ".[web,http2]"\n')
        return 2
    try:
        prepare(args.out)
        return asyncio.run(run_until_signal(_run(open_console(), args), "stopped; nothing was written"))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 2


async def _run(console: Console, args: argparse.Namespace) -> int:
    expected = expected_s(args.rounds, quick=args.quick)
    say(
        console,
        f"{len(CELLS)} servers, {args.rounds} rounds: about {minutes(expected)} on a quiet machine."
        f" Everything is written to {args.out}/ at the end.",
    )
    scale = QUICK if args.quick else FULL
    measured: list[Measured] = []
    with progress(console, expected) as tick:
        for number in range(args.rounds):
            for cell in order(number, args.seed):
                tick(f"round {number + 1} of {args.rounds}: {cell.name}", 0)
                measured.append(await measure_planted(cell, scale, number, *args.planted))
                tick(f"round {number + 1} of {args.rounds}: {cell.name}", expected / args.rounds / len(CELLS))
    found = sections(measured, args.plant or "")
    for one in found:
        show(console, one)
    console.print()
    for path in await asyncio.to_thread(write, args.out, NAME, found, measured):
        console.print(f"  {path}", markup=False, soft_wrap=True)
    return 0


def order(number: int, seed: int, cells: Sequence[Cell] = CELLS) -> list[Cell]:
    """The cells of round ``number``, shuffled."""
    by_name = {cell.name: cell for cell in cells}
    return [by_name[name] for name in shuffled(list(by_name), seed, number)]


async def measure_planted(cell: Cell, scale: FactorScale, number: int, level: str, plant_us: float) -> Measured:
    """One round of one cell, with so many µs an event more where the cell has ``level``."""
    has_it = level in (cell.encoding, cell.http, cell.framing, cell.library)
    return await measure(cell, scale, number, plant_us if has_it else 0.0)
