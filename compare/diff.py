"""``python -m compare diff A B``: two runs side by side; a change is named only where the intervals are apart."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from compare.metrics import ENOUGH_ROUNDS, METRICS, Figure, differ
from compare.report import cell
from compare.results import Results, read


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; the exit status, 2 when a folder holds no run."""
    parser = argparse.ArgumentParser(prog="python -m compare diff", description=__doc__)
    parser.add_argument("before", type=Path, metavar="A", help="folder of a run")
    parser.add_argument("after", type=Path, metavar="B", help="folder of another")
    parser.add_argument("--all", action="store_true", help="also what did not change")
    args = parser.parse_args(argv)
    try:
        before, after = read(args.before), read(args.after)
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"no run to compare: {error}\n")
        return 2
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    show(console, before, after, everything=args.all)
    return 0


def show(console: Console, before: Results, after: Results, *, everything: bool) -> None:
    """What differs: the set-up, then every figure of an experiment that both have."""
    for line in changed(before.setup, after.setup):
        console.print(f"set-up, {line}", markup=False, soft_wrap=True)
    if before.quick != after.quick:
        console.print(
            "One of them is a quick run: experiments of the same name are not of the same size.", soft_wrap=True
        )
    compared = apart = 0
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
                then = other.figures.get(lane, {}).get(metric)
                if then is None:
                    continue
                compared += 1
                said = judge(metric, then, now)
                apart += differ(then, now)
                if everything or differ(then, now):
                    ratio = f"{now.median / then.median:.2f}" if then.median else "–"
                    of = METRICS[metric]
                    table.add_row(lane, f"{of.title} ({of.unit})", cell(metric, then), cell(metric, now), ratio, said)
        if table.row_count:
            console.print(table)
    for name in before.experiments:
        if name not in after.experiments:
            console.print(f"{name}: only in the first", markup=False)
    console.print(f"{compared} figures compared, {apart} differ; for the rest no difference was found.")


def judge(metric: str, before: Figure, after: Figure) -> str:
    """In words: better, worse, changed, no difference found, or too few rounds to tell."""
    if min(before.n, after.n) < ENOUGH_ROUNDS:
        return "too few rounds"
    if not differ(before, after):
        return "no difference found"
    better = METRICS[metric].better
    if better == "neither":
        return "changed"
    return "better" if (after.median < before.median) == (better == "lower") else "worse"


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs between two set-ups."""
    return [
        f"{what}: {before.get(what, '–')} → {after.get(what, '–')}"
        for what in dict.fromkeys((*before, *after))
        if before.get(what) != after.get(what)
    ]
