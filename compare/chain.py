"""``python -m compare chain``: turns in a row, as agents make them, and what a kept conversation and a kept connection save.

The report says how much of a saving is handshakes, how much upload, how much state on the server, and what the transport adds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from compare.chains.columns import savings
from compare.chains.plan import ChainPlan, known_wires, play_all
from compare.chains.play import Chain
from compare.chains.view import section
from compare.measuring.lanes import LANES, lane_title
from compare.showing.folder import prepare
from compare.showing.progress import minutes, progress
from compare.showing.section import show, write
from protocols.live import open_console, say
from shared.signals import run_until_signal
from shared.usage import reason, usage_of

NAME = "chain"
_WIRES = tuple(name for name in LANES if name != "rest-poll")
_QUICK_ROUNDS, _QUICK_TURNS = 1, 5
_FAILURES_SHOWN = 10


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments; ``plan`` is what they ask for."""
    usual = ChainPlan(wires=_WIRES)
    parser = argparse.ArgumentParser(prog="python -m compare chain", description=usage_of(__doc__.partition("\n\n")[0]))
    parser.add_argument(
        "--only", default=",".join(_WIRES), help=f"lanes, comma-separated (default: {','.join(_WIRES)})"
    )
    parser.add_argument("--turns", type=int, metavar="N", help=f"turns of a chain (default: {usual.turns})")
    parser.add_argument("--rtt", default="1,150", help="round-trip times in ms, comma-separated (default: 1,150)")
    parser.add_argument("--tls", choices=("off", "on", "both"), default="off", help="encrypt the lines (default: off)")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds (default: {usual.rounds})")
    parser.add_argument(
        "--prompt-bytes",
        type=int,
        default=usual.question_bytes,
        metavar="N",
        help=f"size of each question; 60000 is a long prompt (default: {usual.question_bytes})",
    )
    parser.add_argument(
        "--mbit", type=float, default=usual.mbit_per_s, help=f"bandwidth in Mbit/s (default: {usual.mbit_per_s:g})"
    )
    parser.add_argument("--quick", action="store_true", help="one round of five turns; no difference is claimed")
    parser.add_argument("--out", type=Path, default=Path("compare-out"), help="folder to write (default: compare-out)")
    parser.add_argument("--seed", type=int, default=usual.seed, help="for the order of the cells (default: 1)")
    args = parser.parse_args(argv)
    try:
        plan = ChainPlan(
            wires=known_wires(args.only.split(",")),
            turns=args.turns or (_QUICK_TURNS if args.quick else usual.turns),
            rtts_ms=tuple(float(each) for each in args.rtt.split(",")),
            tls={"off": (False,), "on": (True,), "both": (False, True)}[args.tls],
            rounds=args.rounds or (_QUICK_ROUNDS if args.quick else usual.rounds),
            question_bytes=args.prompt_bytes,
            mbit_per_s=args.mbit,
            seed=args.seed,
        )
    except ValueError as error:
        parser.error(str(error))
    if min(plan.turns, plan.rounds, plan.question_bytes) < 1 or plan.mbit_per_s <= 0 or min(plan.rtts_ms) < 0:
        parser.error("--turns, --rounds, --prompt-bytes, --mbit and --rtt must be positive")
    args.plan = plan
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Play the chains. Returns the exit status, 1 when a chain failed, 2 when a server does not start, 130 on Ctrl-C."""
    args = parse(argv)
    try:
        prepare(args.out)
        return asyncio.run(run_until_signal(_run(open_console(), args), "stopped; nothing was written"))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 2


async def _run(console: Console, args: argparse.Namespace) -> int:
    plan: ChainPlan = args.plan
    expected_s = plan.expected_s()
    say(
        console,
        f"{len(plan.wires)} lanes, chains of {plan.turns} turns, {plan.rounds} rounds: about {minutes(expected_s)} on a quiet"
        f" machine. Everything is written to {args.out}/ at the end.",
    )
    chains: list[Chain] = []
    with progress(console, expected_s) as tick:
        tick("starting the servers", 0)
        async for some, seconds in play_all(plan):
            chains += some
            done = (
                f"round {some[0].round + 1} of {plan.rounds}, RTT {some[0].rtt_ms:g} ms" if some else "servers are up"
            )
            tick(done, seconds)
    sections = [section(plan, rtt_ms, tls, found) for (rtt_ms, tls), found in savings(chains).items()]
    for one in sections:
        show(console, one)
    files = await asyncio.to_thread(write, args.out, NAME, sections, chains)
    failures = [chain for chain in chains if chain.error is not None]
    for chain in failures[:_FAILURES_SHOWN]:
        say(console, f"failed: {lane_title(chain.wire)}, round {chain.round + 1}: {chain.error}", indent=2)
    console.print()
    for path in files:
        console.print(f"  {path}", markup=False, soft_wrap=True)
    return 1 if failures else 0
