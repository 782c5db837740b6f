"""``python -m compare diff A B``: two runs side by side.

A change is named only where the intervals do not overlap and the difference is as large as the report's verdicts ask for.
The intervals are those of the rounds of one run: another hour of the same machine may lie outside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from compare.measuring.lanes import lane_label
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, differ
from compare.measuring.verdicts import matters, median_with_interval
from compare.showing.results import Results, read
from protocols.live import say
from shared.usage import reason, usage_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison. Returns the exit status, 2 when a folder holds no run."""
    parser = argparse.ArgumentParser(prog="python -m compare diff", description=usage_of(__doc__))
    parser.add_argument("before", type=Path, metavar="A", help="folder of a run")
    parser.add_argument("after", type=Path, metavar="B", help="folder of another run")
    parser.add_argument("--all", action="store_true", help="also print figures that did not change")
    args = parser.parse_args(argv)
    try:
        before, after = read(args.before), read(args.after)
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"no run to compare: {reason(error)}\nMake one with: python -m compare run --out FOLDER\n")
        return 2
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    show(console, before, after, everything=args.all)
    return 0


def show(console: Console, before: Results, after: Results, *, everything: bool) -> None:
    """Print what differs: the set-up, then the figures of every experiment that both runs have."""
    for change in _changes(before.setup, after.setup):
        say(console, f"set-up, {change}")
    if before.quick != after.quick:
        say(console, "One of them is a quick run: experiments of the same name are not of the same size.")
    compared = few = apart = changed = 0
    for name, experiment in after.experiments.items():
        other = before.experiments.get(name)
        if other is None:
            console.print(f"{name}: only in the second", markup=False)
            continue
        table = Table(title=experiment.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for column in ("lane", "metric", "A", "B", "B / A", ""):
            table.add_column(column, justify="left" if column in ("lane", "metric", "") else "right")
        for lane, found in experiment.figures.items():
            for metric, now in found.items():
                then = other.figure(lane, metric)
                if then is None:
                    continue
                compared += 1
                few += min(then.n, now.n) < ENOUGH_ROUNDS
                apart += differ(then, now)
                changed += matters(METRICS[metric], then, now)
                if everything or matters(METRICS[metric], then, now):
                    table.add_row(lane_label(lane), *_row(metric, then, now))
        if table.row_count:
            console.print(table)
    for name in before.experiments:
        if name not in after.experiments:
            console.print(f"{name}: only in the first", markup=False)
    say(
        console,
        f"{compared} figures compared, {changed} differ by as much as matters, {apart - changed} by less; the intervals of"
        f" {compared - apart - few} overlap; {few} have too few rounds to tell ({ENOUGH_ROUNDS} are the least).",
    )


def _row(metric: str, then: Figure, now: Figure) -> tuple[str, ...]:
    ratio = f"{now.median / then.median:.2f}" if then.median else "–"
    heading = f"{METRICS[metric].title} ({METRICS[metric].unit})"
    cells = (median_with_interval(metric, then), median_with_interval(metric, now))
    return heading, *cells, ratio, judge(metric, then, now)


def judge(metric: str, before: Figure, after: Figure) -> str:
    """One of: better, worse, changed, no difference found, no difference that matters, too few rounds."""
    if min(before.n, after.n) < ENOUGH_ROUNDS:
        return "too few rounds"
    if not differ(before, after):
        return "no difference found"
    if not matters(METRICS[metric], before, after):
        return "no difference that matters"
    better = METRICS[metric].better
    if better == "neither":
        return "changed"
    return "better" if (after.median < before.median) == (better == "lower") else "worse"


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [
        f"{what}: {before.get(what, '–')} → {after.get(what, '–')}"
        for what in dict.fromkeys((*before, *after))
        if before.get(what) != after.get(what)
    ]
