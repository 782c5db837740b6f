"""``python -m compare run``: all experiments, unattended, into one folder.

A full run goes through them in six passes, each on servers that are started for it; a quick run has one pass.
``arrivals.jsonl`` holds the raw arrivals and ``results.json`` what follows from them. ``report.md`` and ``report.html`` are for
people.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from compare.measuring.experiments.breaks import cut_tokens
from compare.measuring.experiments.run import FULL, QUICK, Run
from compare.measuring.experiments.schedule import START_S, Entry, Group, schedule
from compare.measuring.experiments.schedule import expected_s as expected_s_of
from compare.measuring.goodput import Objectives
from compare.measuring.lanes import ALL_LANES, FURTHER_LANES, LANES, running_lanes
from compare.measuring.packets.run import PacketRun
from compare.measuring.recording import now_ms
from compare.measuring.setup import setup
from compare.showing import report
from compare.showing.folder import prepare
from compare.showing.packets_report import picture_of
from compare.showing.progress import Tick, minutes, progress
from compare.showing.results import Results, conclude
from protocols.live import open_console, say
from shared.client.text import plural
from shared.errors import ChatError, ConnectionLost
from shared.signals import run_until_signal
from shared.usage import reason, usage_of

# Experiments with servers of their own, or with clients that speak the usual lanes without TLS alone.
_USUAL_ONLY = ("proxies", "phases", "loads", "stores", "packets", "gRPC libraries")
_FAILURES_SHOWN = 10


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m compare run", description=usage_of(__doc__.partition("\n\n")[0]))
    parser.add_argument("--out", type=Path, default=Path("compare-out"), help="folder to write (default: compare-out)")
    parser.add_argument("--quick", action="store_true", help="less than three minutes, with less of everything")
    parser.add_argument(
        "--only",
        help=f"lanes, comma-separated, of {', '.join(ALL_LANES)} (default: without {', '.join(FURTHER_LANES)})",
    )
    parser.add_argument("--tls", action="store_true", help="encrypt every line, with a certificate made for this run")
    parser.add_argument("--experiments", help="experiments, comma-separated (default: all)")
    parser.add_argument(
        "--seed", type=int, default=1, help="for the order of the lanes, the cuts and the arrivals (default: 1)"
    )
    args = parser.parse_args(argv)
    args.names = args.only.split(",") if args.only else list(LANES)
    if unknown := set(args.names) - set(ALL_LANES):
        parser.error(f"no such lane: {', '.join(sorted(unknown))}; there are {', '.join(ALL_LANES)}")
    if not set(args.names) & set(LANES):
        parser.error(f"--only: at least one lane of {', '.join(LANES)}, which the further lanes are compared with")
    args.scale = QUICK if args.quick else FULL
    known = [entry.name for group in schedule(args.scale, len(args.names))[0] for entry in group.entries]
    args.chosen = args.experiments.split(",") if args.experiments else known
    if unknown := set(args.chosen) - set(known):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiments and write the report. Returns the exit status, 2 when that fails, 130 on Ctrl-C."""
    args = parse(argv)
    stopped = "stopped, and the servers with it; nothing was written"
    try:
        prepare(args.out)
        return asyncio.run(run_until_signal(_run(open_console(), args), stopped))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 2


def expected_s(args: argparse.Namespace) -> float:
    """The expected time on a quiet machine, for what ``parse`` has returned."""
    return expected_s_of(_passes(args))


def _passes(args: argparse.Namespace) -> list[list[Group]]:
    """The passes with the chosen experiments alone. A pass that has none of them is left out."""
    chosen = set(args.chosen) - set(_left_out(args))
    passes = [
        [Group(group.rate, [entry for entry in group.entries if entry.name in chosen]) for group in groups]
        for groups in schedule(args.scale, len(args.names))
    ]
    filled = [[group for group in groups if group.entries] for groups in passes]
    return [groups for groups in filled if groups]


def _left_out(args: argparse.Namespace) -> Sequence[str]:
    """The experiments that this run does not have."""
    return _USUAL_ONLY if args.tls or set(args.names) - set(LANES) else ()


async def _run(console: Console, args: argparse.Namespace) -> int:
    passes = _passes(args)
    expected = expected_s(args)
    experiments = sum(len(group.entries) for group in passes[0]) if passes else 0
    console.print(
        f"{plural(len(args.names), 'lane')}, {plural(experiments, 'experiment')}, "
        f"{'1 pass' if len(passes) == 1 else f'{len(passes)} passes, each on new servers'}: about {minutes(expected)} on a quiet"
        f" machine. Everything is written to {args.out}/ at the end.",
        highlight=False,
    )
    begun, begun_at, about = time.monotonic(), now_ms(), setup(tls=args.tls)
    run = Run(args.scale, args.names, args.seed, 0.0, lambda text: None, tls=args.tls)
    run.unmeasured |= dict.fromkeys(_left_out(args), "only with the usual lanes, without TLS")
    with progress(console, expected) as tick:
        for run.pass_number, groups in enumerate(passes):
            for group in groups:
                await _run_group(run, group, _in_pass(tick, run.pass_number, len(passes)))
    results = Results(
        begun_at=begun_at,
        seconds=time.monotonic() - begun,
        quick=args.quick,
        passes=args.scale.passes,
        tls=args.tls,
        seed=args.seed,
        lanes=run.names,
        setup=about,
        experiments=conclude(run.names, run.descriptions, run.turns, run.samples, run.said),
        unmeasured=run.unmeasured,
        objectives=Objectives(),
        loads=run.loads,
        connections=run.connections,
        cut_tokens=cut_tokens(args.scale),
        pictures=_pictures(run.packets),
    )
    await asyncio.to_thread(report.write, args.out, results, run.turns, run.samples)
    console.print(f"Done after {minutes(results.seconds)}.", soft_wrap=True)
    for name in report.FILES:
        console.print(f"  {args.out / name}", markup=False, soft_wrap=True)
    console.print()
    for sentence in report.in_short(results):
        say(console, sentence, indent=2)
    failures = [failure for experiment in results.experiments.values() for failure in experiment.failures]
    for failure in failures[:_FAILURES_SHOWN]:
        say(console, f"failed: {failure}", indent=2)
    if results.loads:
        console.print(f"\nyour own load: python -m compare numbers --run {args.out}", markup=False, soft_wrap=True)
    console.print(f"\nopen {args.out / 'report.html'}", markup=False, soft_wrap=True)
    return 0


def _pictures(measured: PacketRun | None) -> dict[str, tuple[str, str]]:
    """The title and the SVG of the pictures that need raw arrivals, by the name of a file."""
    svg = picture_of(measured.rounds, measured.results.delay_ms) if measured is not None else ""
    return {"head-of-line": ("Tokens of ten streams while packets are lost", svg)} if svg else {}


def _in_pass(tick: Tick, number: int, passes: int) -> Tick:
    """The same progress, with the pass before each text where there are several."""
    head = f"pass {number + 1} of {passes}, " if passes > 1 else ""
    return lambda text, seconds: tick(f"{head}{text}", seconds)


async def _run_group(run: Run, group: Group, tick: Tick) -> None:
    """The experiments that share a rate, on servers that are started for them.

    A server that does not start costs only its experiments of this pass, and an experiment that fails costs no other: the reason
    goes into ``unmeasured``.
    """
    run.rate = group.rate
    tick("starting the servers", 0)
    try:
        async with running_lanes(run.names, rate=run.rate, relayed=True, tls=run.tls) as run.lanes:
            tick("servers are up", START_S)
            for entry in group.entries:
                await _run_one(run, entry, tick)
    except (RuntimeError, OSError) as error:
        run.unmeasured |= {entry.name: _broken_off(run, error) for entry in group.entries}


async def _run_one(run: Run, entry: Entry, tick: Tick) -> None:
    run.say = lambda text: tick(f"{entry.name}: {text}", 0)
    tick(entry.name, 0)
    try:
        await entry.work(run)
    except (ChatError, ConnectionLost, RuntimeError, OSError) as error:
        run.unmeasured[entry.name] = _broken_off(run, error)
    tick(f"{entry.name}: done", entry.expected_s + (0.0 if run.pass_number else entry.first_pass_s))


def _broken_off(run: Run, error: Exception) -> str:
    where = f" in pass {run.pass_number + 1} of {run.scale.passes}" if run.scale.passes > 1 else ""
    return f"broken off{where}: {error}"
