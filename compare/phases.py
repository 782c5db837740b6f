"""``python -m compare phases``: the ladder from the wish to ask to the first token, for each lane, cold and warm, with TLS.

The rungs stand beside the names that AIPerf and k6 have for them. A model that thinks shows both moments that are called the
first token.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compare.measuring.experiments.phases import phases, thoughts
from compare.measuring.experiments.run import FULL, Run
from compare.measuring.ladder import NOT_TOLD, PHASES
from compare.measuring.lanes import ALL_LANES, LANES, lane_title, running_lanes
from compare.measuring.statistics import ENOUGH_ROUNDS
from compare.showing.figures_table import figures_table
from compare.showing.results import conclude
from protocols.live import open_console
from shared.signals import run_until_signal
from shared.usage import reason, usage_of

_RATE = 50.0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m compare phases", description=usage_of(__doc__.partition("\n\n")[0])
    )
    parser.add_argument("--only", help=f"lanes, comma-separated, of {', '.join(ALL_LANES)}")
    parser.add_argument(
        "--rounds", type=int, default=ENOUGH_ROUNDS, metavar="N", help=f"rounds (default: {ENOUGH_ROUNDS})"
    )
    parser.add_argument("--seed", type=int, default=1, help="for the order of the lanes (default: 1)")
    args = parser.parse_args(argv)
    args.names = args.only.split(",") if args.only else list(LANES)
    if unknown := set(args.names) - set(ALL_LANES):
        parser.error(f"no such lane: {', '.join(sorted(unknown))}; there are {', '.join(ALL_LANES)}")
    if args.rounds < 1:
        parser.error("--rounds must be positive")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit status, 2 when a server does not start, 130 on Ctrl-C."""
    args = parse(argv)
    try:
        return asyncio.run(run_until_signal(_run(open_console(), args), "stopped, and the servers with it"))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 2


async def _run(console: Console, args: argparse.Namespace) -> int:
    with console.status("starting the servers") as status:
        run = Run(replace(FULL, passes=args.rounds), args.names, args.seed, _RATE, status.update)
        for run.pass_number in range(args.rounds):
            status.update(f"round {run.pass_number + 1} of {args.rounds}: starting the servers")
            async with running_lanes(args.names, rate=_RATE) as run.lanes:
                await phases(run)
                await thoughts(run)
    experiments = conclude(run.names, run.descriptions, run.turns, run.samples)
    for experiment in experiments.values():
        metrics = [name for name in experiment.metrics if any(name in found for found in experiment.figures.values())]
        console.print(
            figures_table(experiment.title, experiment.figures, metrics, intervals=False, width=console.width)
        )
        for sentence in experiment.verdicts:
            console.print(Padding(Text(sentence), (0, 0, 0, 2)))
        console.print()
    console.print(_names_elsewhere())
    for lane, why in NOT_TOLD.items():
        if lane in args.names:
            console.print(Padding(Text(f"{lane_title(lane)}: {why}."), (0, 0, 0, 2)))
    for what, why in run.unmeasured.items():
        console.print(Padding(Text(f"Not measured: {what}: {why}."), (0, 0, 0, 2)))
    failures = [failure for experiment in experiments.values() for failure in experiment.failures]
    for failure in failures:
        console.print(f"  failed: {failure}", markup=False)
    return 1 if failures else 0


def _names_elsewhere() -> Table:
    """The rungs with what ends each, and the names of other tools."""
    table = Table(
        title="The rungs, and their names elsewhere (there: the length of the phase)",
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for head in ("rung", "when", "AIPerf", "k6"):
        table.add_column(head)
    for phase in PHASES.values():
        table.add_row(phase.title, phase.ends, phase.aiperf, phase.k6)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
