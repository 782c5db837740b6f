"""``python -m compare run``: the whole experiment, unattended, into one folder.

``arrivals.jsonl`` is what was seen, ``results.json`` what follows from it, ``report.md`` and ``report.html`` what it means.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from compare import report
from compare.experiments import FULL, QUICK, Bench, Work, plan
from compare.lanes import LANES, now_ms, running, setup
from compare.metrics import Objectives
from compare.results import Results, conclude
from protocols.processes import catching_signals
from shared.errors import ChatError, ConnectionLost

_START_S = 6.0
Tick = Callable[[str, float], None]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m compare run", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("compare-out"), help="folder to write (default: compare-out)")
    parser.add_argument("--quick", action="store_true", help="two to three minutes, with less of everything")
    parser.add_argument("--only", help=f"lanes, comma-separated, of {', '.join(LANES)}")
    parser.add_argument("--experiments", help="experiments, comma-separated; unset: all")
    parser.add_argument("--seed", type=int, default=1, help="of the lanes' order, the cuts and the arrivals")
    parser.add_argument("--brief", type=Path, metavar="FILE", help="write a few results for a README too")
    args = parser.parse_args(argv)
    args.names = args.only.split(",") if args.only else list(LANES)
    if unknown := set(args.names) - set(LANES):
        parser.error(f"no such lane: {', '.join(sorted(unknown))}; there are {', '.join(LANES)}")
    args.scale = QUICK if args.quick else FULL
    known = [name for _, group in plan(args.scale, len(args.names)) for name, _, _ in group]
    args.chosen = args.experiments.split(",") if args.experiments else known
    if unknown := set(args.chosen) - set(known):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment and write the report; the exit status, 130 on Ctrl-C."""
    args = parse(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    try:
        return asyncio.run(_until_signal(console, args))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


async def _until_signal(console: Console, args: argparse.Namespace) -> int:
    with catching_signals() as signals:
        work = asyncio.create_task(_experiment(console, args))
        asked = asyncio.create_task(signals.get())
        await asyncio.wait((work, asked), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            asked.cancel()
            return work.result()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        sys.stderr.write("stopped, and the servers with it; nothing was written\n")
        return 128 + asked.result()


async def _experiment(console: Console, args: argparse.Namespace) -> int:
    groups = [
        (rate, [entry for entry in group if entry[0] in args.chosen and entry[1] > 0])
        for rate, group in plan(args.scale, len(args.names))
    ]
    groups = [(rate, group) for rate, group in groups if group]
    expected = sum(_START_S + sum(seconds for _, seconds, _ in group) for _, group in groups)
    console.print(
        f"{len(args.names)} lanes, {sum(len(group) for _, group in groups)} experiments: about "
        f"{_minutes(expected)} on a quiet machine. "
        f"Everything is written to {args.out}/ at the end.",
        soft_wrap=True,
    )
    begun, begun_at = time.monotonic(), now_ms()
    about = setup()
    bench = Bench(args.scale, args.names, args.seed, 0.0, lambda text: None)
    with _progress(console, expected) as tick:
        for rate, group in groups:
            bench.rate = rate
            tick("starting the servers", 0)
            try:
                async with running(args.names, rate=rate, relayed=True) as bench.lanes:
                    tick("servers are up", _START_S)
                    for name, seconds, work in group:
                        bench.say = lambda text, name=name: tick(f"{name}: {text}", 0)  # type: ignore[misc]
                        tick(name, 0)
                        await _attempt(bench, name, work)
                        tick(f"{name}: done", seconds)
            except (RuntimeError, OSError) as error:
                # A server that does not start costs its experiments, not the whole run.
                bench.unmeasured |= {name: str(error) for name, _, _ in group if name not in bench.about}
    results = Results(
        begun_at=begun_at,
        seconds=time.monotonic() - begun,
        quick=args.quick,
        seed=args.seed,
        lanes=bench.names,
        setup=about,
        experiments=conclude(bench.names, bench.about, bench.takes, bench.samples),
        unmeasured=bench.unmeasured,
        objectives=Objectives(),
    )
    await asyncio.to_thread(report.write, args.out, results, bench.takes, bench.samples)
    if args.brief is not None:
        command = "python -m compare run --quick" if args.quick else "python -m compare run"
        await asyncio.to_thread(args.brief.write_text, report.brief(results, command), encoding="utf-8")
    console.print(f"Done after {_minutes(results.seconds)}.", soft_wrap=True)
    for name in ("arrivals.jsonl", "results.json", "report.md", "report.html"):
        console.print(f"  {args.out / name}", markup=False, soft_wrap=True)
    failures = [line for experiment in results.experiments.values() for line in experiment.failures]
    for line in failures[:10]:
        console.print(f"  failed: {line}", markup=False, soft_wrap=True)
    return 0


async def _attempt(bench: Bench, name: str, work: Work) -> None:
    """One experiment; what goes wrong with it as a whole is said in the report."""
    try:
        await work(bench)
    except (ChatError, ConnectionLost) as error:
        bench.unmeasured[name] = f"broken off: {error}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


@contextlib.contextmanager
def _progress(console: Console, expected: float) -> Iterator[Tick]:
    """A bar over the expected seconds, with what is done now; lines where there is no terminal."""
    begun = time.monotonic()
    done = 0.0

    def left() -> str:
        """By how much slower it goes than expected."""
        elapsed = time.monotonic() - begun
        pace = max(1.0, elapsed / done) if done > 10 else 1.0
        return f"about {_minutes(max(0.0, expected - done) * pace)} left"

    if not console.is_terminal:

        def line(text: str, seconds: float) -> None:
            nonlocal done
            done += seconds
            if seconds:
                console.print(f"{time.monotonic() - begun:5.0f} s  {text}, {left()}", markup=False, soft_wrap=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=expected, left="")

        def move(text: str, seconds: float) -> None:
            nonlocal done
            done += seconds
            bar.update(task, description=f"{text:<44.44}", completed=done, left=left())

        yield move
