"""``python -m compare floor``: each transport's floor and the real server, under the same load in the same run.

A floor is the smallest server that can do a transport's job. Rounds are interleaved and shuffled; medians are printed with their
range and their goal. Server and load generator get a core each where there are two. ``--tls`` encrypts every line. ``--beside``
adds the servers of another checkout. ``--scale`` shows instead how cost grows with streams, readers, history, the store's size and
processes; ``--proxies`` shows what a proxy costs that speaks HTTP/2 in front of a server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Console

from compare.lines.fronts import FRONTS
from compare.measuring.floors import fronts
from compare.measuring.floors.before_after import compared, conclusion
from compare.measuring.floors.cells import Cell, cells
from compare.measuring.floors.checkout import commit_of, missing_in
from compare.measuring.floors.grpcio_layer import grpcio_layer
from compare.measuring.floors.language import language
from compare.measuring.floors.node_floor import NodeMissing, node_folder
from compare.measuring.floors.plan import BEFORE, LANES, NODE, SIDES, USUAL, FloorPlan, FloorRun, SideResult
from compare.measuring.floors.rows import ROWS
from compare.measuring.floors.scale.axes import AXES, expected_s, sides_of
from compare.measuring.floors.scale.plan import QUICK, SIZES, GrowthLine, ScalePlan, ScaleRun
from compare.measuring.statistics import ENOUGH_ROUNDS
from compare.showing.floor_table import show_before_after, show_floors, show_fronts
from compare.showing.folder import prepare
from compare.showing.growth import pictures, show_growth
from compare.showing.progress import minutes, progress
from protocols import certs
from shared.client.text import plural
from shared.errors import ChatError, ConnectionLost
from shared.usage import usage_of


def parse(argv: Sequence[str] | None) -> tuple[FloorPlan, Path | None, ScalePlan | None]:
    """The plan, the file for the figures, and the plan of growth with ``--scale``.

    With ``--proxies`` the plan has no rows.
    """
    parser = argparse.ArgumentParser(prog="python -m compare floor", description=usage_of(__doc__))
    parser.add_argument(
        "--only",
        help=f"lanes, comma-separated, of {', '.join(LANES)}, or all (default: {', '.join(USUAL)}, and grpc-asgi beside gRPC"
        " in the row saturated)",
    )
    parser.add_argument(
        "--scale",
        nargs="?",
        const="all",
        metavar="AXES",
        help=f"show how cost grows, by all or some of {', '.join(AXES)}",
    )
    parser.add_argument(
        "--proxies",
        action="store_true",
        help=f"show what {', '.join(FRONTS)} cost an event, with HTTP/2 in front of {' and '.join(fronts.LANES)}",
    )
    parser.add_argument("--rows", help=f"rows, comma-separated, of {', '.join(ROWS)}")
    parser.add_argument(
        "--sides", help=f"of {', '.join((*SIDES, NODE))} (default: without {NODE}, but in the row saturated)"
    )
    parser.add_argument("--tls", action="store_true", help="encrypt every line, with a certificate made for this run")
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="DIR",
        help=f"another checkout, such as a git worktree, whose servers are the further sides {', '.join(BEFORE)}",
    )
    parser.add_argument(
        "--at-once",
        action="store_true",
        help="with --beside: load the servers of both checkouts in the same windows, on one core. What else the machine does then"
        " hits both alike, so fewer ranges overlap; delays and rates are those of a server that shares its core",
    )
    parser.add_argument("--streams", type=int, default=64, help="saturated streams (default: 64)")
    parser.add_argument("--events", type=int, default=200, help="chunk events a turn (default: 200)")
    parser.add_argument("--seconds", type=float, help="length of a window (default: 2.5, with --quick 1.5)")
    parser.add_argument(
        "--rounds",
        type=int,
        help="rounds of each (default: 3, of the row saturated and with --beside 6; with --quick or --scale 1)",
    )
    parser.add_argument("--idle-streams", type=int, help="open streams (default: 5000, with --quick 1000)")
    parser.add_argument("--readers", type=int, default=1000, help="readers of one turn (default: 1000)")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument("--seed", type=int, default=1, help="for the order of the sides (default: 1)")
    parser.add_argument(
        "--out", type=Path, help="write the figures as JSON; with --scale, the pictures are beside that file"
    )
    args = parser.parse_args(argv)
    words = {None: USUAL, "all": LANES}.get(args.only) or tuple(args.only.split(","))
    rows = tuple(args.rows.split(",")) if args.rows else tuple(ROWS)
    if args.proxies:
        words, rows = tuple(args.only.split(",")) if args.only else fronts.LANES, ()
    known_sides = (*SIDES, NODE, *(BEFORE if args.beside else ()))
    sides = tuple(args.sides.split(",")) if args.sides else (*SIDES, *(BEFORE if args.beside else ()))
    axes = tuple(AXES) if args.scale in (None, "all") else tuple(args.scale.split(","))
    for given, known in (
        (words, fronts.LANES if args.proxies else LANES),
        (rows, tuple(ROWS)),
        (sides, known_sides),
        (axes, tuple(AXES)),
    ):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if (args.scale or args.proxies) and (args.tls or args.beside):
        parser.error("--scale and --proxies go neither with --tls nor with --beside")
    if args.at_once and not args.beside:
        parser.error("--at-once needs --beside")
    if args.beside and (path := missing_in(args.beside)):
        parser.error(f"{args.beside} is no checkout of this program: it has no {path}")
    plan = FloorPlan(
        words=words,
        rows=rows,
        sides=sides,
        streams=args.streams,
        events=args.events,
        seconds=args.seconds or (1.5 if args.quick else 2.5),
        rounds=args.rounds or (1 if args.quick or args.scale else 6 if args.beside else 3),
        saturated_rounds=args.rounds or (1 if args.quick or args.scale else ENOUGH_ROUNDS),
        idle_streams=args.idle_streams or (1000 if args.quick else 5000),
        readers=args.readers,
        pin=not args.no_pin,
        seed=args.seed,
        usual=args.only is None and args.sides is None and args.beside is None,
        tls=args.tls,
        beside=args.beside and args.beside.resolve(),
        beside_commit=commit_of(args.beside) if args.beside else "",
        at_once=args.at_once,
    )
    sizes = {axis: (QUICK if args.quick else SIZES)[axis] for axis in axes}
    return plan, args.out, ScalePlan(sizes, plan) if args.scale else None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit status, 2 when the file cannot be written."""
    plan, out, scale = parse(argv)
    try:
        if out is not None:
            prepare(out.parent)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    console = Console(width=None if sys.stdout.isatty() else 160)
    pinned = plan.pin and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}, loopback"
        f"{', every line encrypted with TLS' if plan.tls else ''}, "
        f"{'server and load generator pinned to a core each' if pinned else 'not pinned'}, "
        f"{'the servers of both checkouts loaded at once, ' if plan.at_once else ''}"
        f"windows of {plan.seconds:g} s, {_rounds(plan)}, medians (lowest–highest)",
        markup=False,
    )
    if scale is not None:
        lines = asyncio.run(measure_growth(scale, console))
        if out is not None:
            _write(out, lines)
            for name, svg in pictures(lines).items():
                out.with_name(f"{out.stem}-{name}.svg").write_text(svg, encoding="utf-8")
        return 0
    if not plan.rows:
        costs = asyncio.run(measure_fronts(plan, console))
        if out is not None:
            _write(out, costs)
        return 0
    planned = with_node(cells(plan), console)
    expected = minutes(sum(cell.expected_s for cell in planned))
    console.print(f"{len(plan.rows)} rows, {len(planned)} lanes in them, about {expected}", markup=False)
    results = asyncio.run(measure(plan, planned, console))
    if out is not None:
        _write(out, results)
    return 0


def _rounds(plan: FloorPlan) -> str:
    more = f" ({plan.saturated_rounds} of the row saturated)" if plan.saturated_rounds != plan.rounds else ""
    return f"{plural(plan.rounds, 'round')}{more}"


def _write(out: Path, found: Sequence[SideResult] | Sequence[GrowthLine] | Sequence[fronts.FrontCost]) -> None:
    out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))


def with_node(planned: list[Cell], console: Console) -> list[Cell]:
    """The cells that this machine can measure: without the floors in Node where Node is missing, and the reason is printed."""
    if not any(NODE in cell.sides for cell in planned):
        return planned
    try:
        node_folder()
    except NodeMissing as error:
        console.print(f"The floors in Node are not measured here. {error}", markup=False)
    else:
        return planned
    without = [replace(cell, sides=tuple(name for name in cell.sides if name != NODE)) for cell in planned]
    return [cell for cell in without if cell.sides]


async def measure(plan: FloorPlan, planned: Sequence[Cell], console: Console) -> list[SideResult]:
    """All cells of the plan; each row is printed when it is done, and what it says of grpcio and of Python.

    A lane that cannot be measured in a row says why, and the others go on.
    """
    results: list[SideResult] = []
    left_out: dict[tuple[str, str, str], str] = {}
    with _certificate(plan) as certificate, progress(console, sum(cell.expected_s for cell in planned)) as tick:
        for name in plan.rows:
            run = FloorRun(plan.of_row(name), lambda text: tick(text, 0), certificate=certificate)
            for cell in planned:
                if cell.row != name:
                    continue
                run.sides = cell.sides
                try:
                    await ROWS[name][0](run, cell.word)
                except (RuntimeError, OSError, ChatError, ConnectionLost) as error:
                    console.print(f"{name} {cell.word}: not measured here: {error}", markup=False)
                tick(f"{name} {cell.word}", cell.expected_s)
            show_floors(console, run)
            for sentence in (*grpcio_layer(run.results.values()), *language(run.results.values())):
                console.print(sentence, markup=False)
            results += run.results.values()
            left_out |= run.left_out
    if plan.beside is not None:
        pairs = compared(results)
        show_before_after(console, pairs)
        for sentence in conclusion(pairs, left_out):
            console.print(sentence, markup=False)
    return results


@contextlib.contextmanager
def _certificate(plan: FloorPlan) -> Iterator[Mapping[str, str]]:
    """The settings of a certificate that is made for this run; none without TLS."""
    if not plan.tls:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="genai-certs-", ignore_cleanup_errors=True) as folder:
        certs.make(Path(folder))
        yield certs.files(Path(folder))


async def measure_fronts(plan: FloorPlan, console: Console) -> list[fronts.FrontCost]:
    """Each lane behind each proxy of this machine, printed as one table.

    A lane that cannot be measured says why, and the other goes on.
    """
    for name in sorted(set(FRONTS) - set(fronts.installed())):
        console.print(f"{name} is not installed and not measured", markup=False)
    costs: list[fronts.FrontCost] = []
    expected_s = fronts.expected_s(plan)
    console.print(f"{len(plan.words)} lanes, about {minutes(expected_s)}", markup=False)
    with progress(console, expected_s) as tick:
        run = FloorRun(plan, lambda text: tick(text, 0))
        for lane in plan.words:
            try:
                costs += await fronts.measure(run, lane)
            except (RuntimeError, OSError) as error:
                console.print(f"{lane}: not measured here: {error}", markup=False)
            tick(lane, expected_s / len(plan.words))
    show_fronts(console, costs)
    said = fronts.conclusion(costs)
    if said is not None:
        console.print(said, markup=False)
    return costs


async def measure_growth(plan: ScalePlan, console: Console) -> list[GrowthLine]:
    """All axes of the plan; each axis is printed with the shapes of its lines when it is done.

    A size that cannot be measured says why, and the others go on.
    """
    points = {
        axis: [
            (lane, side, size)
            for _ in range(plan.floors.rounds)
            for lane, side in sides_of(axis, plan.floors.words)
            for size in sizes
        ]
        for axis, sizes in plan.sizes.items()
    }
    expected = {
        axis: [expected_s(axis, size, plan.floors.seconds) for _, _, size in found] for axis, found in points.items()
    }
    total_s = sum(map(sum, expected.values()))
    console.print(
        f"{len(points)} axes, {sum(map(len, points.values()))} points, about {minutes(total_s)}", markup=False
    )
    dice = random.Random(plan.floors.seed)
    lines: list[GrowthLine] = []
    with progress(console, total_s) as tick:
        for axis, found in points.items():
            run = ScaleRun(plan, lambda text: tick(text, 0))
            # Shuffled, so that a machine that gets busier does not look like growth.
            order = list(zip(found, expected[axis], strict=True))
            dice.shuffle(order)
            for (lane, side, size), seconds in order:
                try:
                    await AXES[axis](run, lane, side, size)
                except (RuntimeError, OSError, ChatError, ConnectionLost) as error:
                    console.print(f"{axis} {size:,}, {lane} {side}: not measured here: {error}", markup=False)
                tick(f"{axis} {size:,}, {lane} {side}", seconds)
            run.classify()
            lines += run.lines.values()
            show_growth(console, axis, list(run.lines.values()))
    return lines
