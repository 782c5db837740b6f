"""``python -m compare all``: factors, chains, and all lanes without and with TLS, into one folder with a report for each run.

It prints the plan with its times and starts. ``--plan`` prints the plan alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compare import chain, factors, results, run
from compare.measuring.lanes import ALL_LANES, FURTHER_LANES, LANES
from compare.showing.progress import minutes
from shared.usage import usage_of


@dataclass(frozen=True, slots=True)
class Step:
    """A command with its arguments, and its expected time on a quiet machine."""

    title: str
    main: Callable[[Sequence[str]], int]
    arguments: tuple[str, ...]
    expected_s: float


def steps(out: Path, *, quick: bool = False) -> list[Step]:
    """The commands in their order: the report of the first run of the lanes shows what came before it."""
    short = ("--quick",) if quick else ()
    chains = ("--tls", "both", "--out", str(out), *short)
    plain = ("--out", str(out), *short)
    usual = [name for name in LANES if ALL_LANES[name].word in {lane.word for lane in FURTHER_LANES.values()}]
    further = ("--only", ",".join([*usual, *FURTHER_LANES]), "--out", str(out / "further"), *short)
    encrypted = ("--only", ",".join(ALL_LANES), "--tls", "--out", str(out / "tls"), *short)
    rounds = factors.parse([*short]).rounds
    return [
        Step("factors", factors.main, ("--out", str(out), *short), factors.expected_s(rounds, quick=quick)),
        Step("chains, without and with TLS", chain.main, chains, chain.parse(chains).plan.expected_s()),
        Step("the usual lanes", run.main, plain, run.expected_s(run.parse(plain))),
        Step("the further lanes beside them", run.main, further, run.expected_s(run.parse(further))),
        Step("all lanes with TLS", run.main, encrypted, run.expected_s(run.parse(encrypted))),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run every step. Returns the largest exit status; a step that cannot run ends the whole."""
    parser = argparse.ArgumentParser(prog="python -m compare all", description=usage_of(__doc__.partition("\n\n")[0]))
    parser.add_argument("--out", type=Path, default=Path("compare-out"), help="folder to write (default: compare-out)")
    parser.add_argument("--quick", action="store_true", help="less of everything; no difference is claimed")
    parser.add_argument("--plan", action="store_true", help="print the plan and its times, and run nothing")
    args = parser.parse_args(argv)
    planned = steps(args.out, quick=args.quick)
    for step in planned:
        print(f"  {step.title:<32} about {minutes(step.expected_s)}")
    print(
        f"  {'together':<32} about {minutes(sum(step.expected_s for step in planned))} on a quiet machine", flush=True
    )
    if args.plan:
        return 0
    worst = 0
    for step in planned:
        print(f"\n{step.title}", flush=True)
        status = step.main(step.arguments)
        if status > 1:
            return status
        worst = max(worst, status)
    page = args.out / "results.md"
    print(f"\nall of it in short: {page}", flush=True)
    return max(worst, results.main([str(args.out), "--out", str(page)]))
