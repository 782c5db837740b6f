"""``python -m compare numbers --users 1000``: what your load costs on each transport, from a run of this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from compare.measuring.lanes import lane_label
from compare.measuring.verdicts import number
from compare.showing.numbers import CONSTANTS, FORMULAS, INPUTS, Coefficients, coefficients, predict
from compare.showing.results import read
from shared.usage import reason, usage_of

_MEASURE = "python -m compare run --quick --experiments loads,cuts,pictures"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, a column a transport. Returns the exit status, 2 where there is no run to compute from."""
    parser = argparse.ArgumentParser(prog="python -m compare numbers", description=usage_of(__doc__))
    for one in INPUTS:
        unit = f", {one.unit}" if one.unit else ""
        parser.add_argument(
            f"--{one.name}",
            type=float,
            default=one.default,
            help=f"{one.title}{unit} (default: {one.default:g})".replace("%", "%%"),
        )
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("compare-out"),
        metavar="FOLDER",
        help="folder of the run (default: compare-out)",
    )
    parser.add_argument("--formulas", action="store_true", help="print each formula, and the coefficients of the run")
    parser.add_argument("--json", action="store_true", help="the results and the coefficients as JSON")
    args = parser.parse_args(argv)
    given = {one.name: getattr(args, one.name) for one in INPUTS}
    for one in INPUTS:
        if not one.least <= given[one.name] <= one.most:
            parser.error(f"--{one.name} {given[one.name]:g}: give a value from {one.least:g} to {one.most:g}")
    try:
        known = coefficients(read(args.run))
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{args.run}: no results of a run: {reason(error)}\nMake some with: {_MEASURE}\n")
        return 2
    if not known:
        sys.stderr.write(f"{args.run}: that run has no load points. Make some with: {_MEASURE}\n")
        return 2
    found = {word: predict(one, given) for word, one in known.items()}
    if args.json:
        made = {word: {"results": found[word], "coefficients": known[word]} for word in known}
        print(msgspec.json.format(msgspec.json.encode(made), indent=1).decode())
        return 0
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(_results(found, formulas=args.formulas))
    asked = ", ".join(f"{one.name} {given[one.name]:g}" for one in INPUTS)
    console.print(
        f"\nFor {asked}. Computed from the run in {args.run}: servers as they are by default, on SQLite, loopback, no TLS."
        " Beyond the measured load the last measured cost of a token is used.",
        highlight=False,
        markup=False,
    )
    if args.formulas:
        console.print(_measured(known))
    else:
        console.print(
            "The formulas: --formulas. A form for other numbers: report.html, “Your numbers”.", highlight=False
        )
    return 0


def _results(found: Mapping[str, Mapping[str, float | None]], *, formulas: bool) -> Table:
    table = _table("Your numbers", found)
    for formula in FORMULAS:
        title = f"{formula.title}, {formula.unit}" if formula.unit else formula.title
        text = f"{title}\n[dim]{formula.name} = {formula.text}[/]" if formulas else title
        table.add_row(text, *(_cell(results[formula.name]) for results in found.values()))
    return table


def _measured(known: Mapping[str, Coefficients]) -> Table:
    table = _table("\nWhat the run measured", known)
    for name in Coefficients.__struct_fields__:
        table.add_row(name, *(_said(getattr(one, name)) for one in known.values()))
    for name, value in CONSTANTS.items():
        table.add_row(name, *(_cell(value) for _ in known))
    return table


def _table(title: str, words: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), title_style="bold")
    table.add_column("")
    for word in words:
        table.add_column(lane_label(word), justify="right", style="cyan")
    return table


def _said(value: float | list[tuple[float, float]] | None) -> str:
    """A coefficient; a curve as its points, a line each."""
    if isinstance(value, list):
        return "\n".join(f"{number(y)} at {x:,.0f}/s" for x, y in value)
    return _cell(value)


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else number(value)


if __name__ == "__main__":
    raise SystemExit(main())
