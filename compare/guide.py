"""``python -m compare guide --need browser,resume``: one answer to all needs, its price, and what would change it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from compare.showing.facts import of_results, published
from compare.showing.guide import NEEDS, answer, guide_of, sentences
from compare.showing.results import read
from protocols.live import open_console, say
from shared.client.text import visible
from shared.usage import reason, usage_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer. Returns the exit status, 2 when the run cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m compare guide", description=usage_of(__doc__))
    parser.add_argument(
        "--need",
        type=_needs,
        default=[],
        metavar="NAME,NAME",
        help=f"what is needed, of {', '.join(NEEDS)} (default: nothing)",
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="a run of your own (default: the published one)")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    args = parser.parse_args(argv)
    if args.run is None:
        facts = published()
    else:
        try:
            facts = of_results(read(args.run), f"the run in {args.run}")
        except (OSError, msgspec.MsgspecError) as error:
            sys.stderr.write(
                f"{args.run}: no results of a run: {reason(error)}\nMake some with: python -m compare run --quick\n"
            )
            return 2
    found = answer(guide_of(facts), args.need)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
        return 0
    console = open_console()
    wanted = [f"- {title}" for name, title in NEEDS.items() if name in args.need] or ["- nothing in particular"]
    for line in ("You need:", *wanted, "", *sentences(found)):
        say(console, visible(line))
    if not args.need:
        say(console, "\nSay what you need: --need NAME,NAME with")
        for name, title in NEEDS.items():
            say(console, f"{name:<10} {title}", indent=2)
    where = " (compare/RESULTS.md)" if args.run is None else ""
    say(console, f"\nNumbers: {facts.source}{where}.")
    return 0


def _needs(given: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    if unknown := [name for name in names if name not in NEEDS]:
        raise argparse.ArgumentTypeError(f"no such need: {', '.join(unknown)}; there are {', '.join(NEEDS)}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
