"""The project's performance benchmark: each transport's floor and ours, under the same load in the same run.

A floor is the smallest server that can do a transport's job (``compare/floors``). Rounds are interleaved and shuffled, medians are
printed with their range, and every row has its goal. Server and load generator get a core each where there are two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from compare.floors.load import Job, Result
from protocols.processes import Server, serving
from shared.client.protocol import Ask, collect, collect_picture
from shared.errors import ChatError, ConnectionLost

STREAMING = ("ndjson", "sse", "websocket", "grpc")
WORDS = ("rest", *STREAMING)
ROWS = ("saturated", "paced", "readers", "rest", "idle", "image", "slow-model")
_PACED_STREAMS = 128
_PACED_PER_S = 50.0
_IMAGE_SIZE = "1936x1936"
_LOAD_TRIES = 2


@dataclass(frozen=True, slots=True)
class Target:
    """A running server under test: ``side`` is ``floor``, ``memory`` or ``sqlite``."""

    side: str
    word: str
    address: str
    pid: int
    server: Server | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    words: tuple[str, ...]
    rows: tuple[str, ...]
    sides: tuple[str, ...]
    streams: int
    events: int
    seconds: float
    rounds: int
    idle_streams: int
    readers: int
    pin: bool
    seed: int


@dataclass(slots=True)
class Figure:
    """One side of one row: what was seen in each round."""

    row: str
    word: str
    side: str
    goal: float | None = None
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    delay_p50_ms: list[float] = field(default_factory=list)
    delay_p99_ms: list[float] = field(default_factory=list)
    ttft_p50_ms: list[float] = field(default_factory=list)
    rss_kib: list[float] = field(default_factory=list)
    load_share: list[float] = field(default_factory=list)
    note: str = ""


Board = dict[tuple[str, str, str], Figure]


# -- processes -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def floor_server(word: str, *arguments: str) -> AsyncIterator[Target]:
    """A floor server, up."""
    module = ("compare.floors.bare_grpc",) if word == "grpc" else ("compare.floors.asgi", "--wire", word)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *module, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        address = (await process.stdout.readline()).decode().strip()
        if not address:
            raise RuntimeError(f"the floor of {word} did not start")
        yield Target("floor", word, address, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def our_server(word: str, side: str, env: dict[str, str]) -> AsyncIterator[Target]:
    """The real leaf's server, on the in-memory store or on SQLite in a file of its own."""
    with tempfile.TemporaryDirectory(prefix="floor-") as folder:
        url = "sqlite://" if side == "memory" else f"sqlite:///{folder}/chat.db"
        offline = {"GENAI_PROVIDER": "offline", "IMAGE_PROVIDER": "offline", "OFFLINE_FIRST_TOKEN_MS": "0"}
        async with serving(word, env={**offline, "STORE_URL": url, **env}) as server:
            yield Target(side, word, server.address, server.process.pid, server)


@asynccontextmanager
async def targets(
    plan: Plan, word: str, floor_arguments: Sequence[str], env: dict[str, str], sides: Sequence[str] | None = None
) -> AsyncIterator[list[Target]]:
    """All sides of one transport, up at once."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for side in sides or plan.sides:
            if side == "floor":
                target = await stack.enter_async_context(floor_server(word, *floor_arguments))
            else:
                target = await stack.enter_async_context(our_server(word, side, env))
            if plan.pin:
                pin(target.pid, 0)
            found.append(target)
        yield found


def pin(pid: int, core: int) -> None:
    """Keep a process, with the threads it has now, on one of our cores; nothing where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(thread.name), {cores[core]})


async def load(plan: Plan, job: Job) -> Result:
    """Run the load generator. Raises RuntimeError with what it said."""
    said = b""
    for _ in range(_LOAD_TRIES):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "compare.floors.load",
            msgspec.json.encode(job).decode(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        if plan.pin:
            with contextlib.suppress(OSError):
                pin(process.pid, -1)
        out, said = await process.communicate()
        if process.returncode == 0:
            return msgspec.json.decode(out, type=Result)
    raise RuntimeError(said.decode(errors="replace").strip().rpartition("\n")[2] or "the load generator failed")


# -- the rows --------------------------------------------------------------------------------------------------------------


async def saturated(plan: Plan, word: str, board: Board, say: Callable[[str], None]) -> None:
    """Every stream asks again as soon as it has its answer; the model does not wait."""
    goals = {"memory": 1.2 if word == "grpc" else 1.0, "sqlite": 1.5}
    message = f"/tokens {plan.events} floor"
    env = {"OFFLINE_TOKENS_PER_S": "0"}
    async with targets(plan, word, ["--tokens", str(plan.events)], env) as found:
        await rounds(
            plan,
            found,
            board,
            "saturated",
            goals,
            plan.streams,
            message,
            plan.seconds,
            say,
            least_cpu_s=plan.seconds * 0.7,
        )
        for target in found:
            say(f"first event {word} {target.side}")
            one = await load(plan, _job(target, "loop", 1, message=message, seconds=min(1.0, plan.seconds)))
            if one.first_p50_ms is not None:
                figure_of(board, "saturated", target, goals).first_ms.append(one.first_p50_ms)


async def rounds(
    plan: Plan,
    found: list[Target],
    board: Board,
    row: str,
    goals: dict[str, float],
    streams: int,
    message: str,
    seconds: float,
    say: Callable[[str], None],
    **more: object,
) -> None:
    """Interleaved rounds over all sides, in a new order each time."""
    dice = random.Random(plan.seed)
    for number in range(plan.rounds):
        order = list(found)
        dice.shuffle(order)
        for target in order:
            say(f"{row} {target.word} {target.side}, round {number + 1} of {plan.rounds}")
            job = _job(target, "loop", streams, message=message, seconds=seconds)
            result = await load(plan, msgspec.structs.replace(job, **more))
            note(figure_of(board, row, target, goals), result)


async def paced(plan: Plan, word: str, board: Board, say: Callable[[str], None]) -> None:
    """128 streams at 50 tokens a second: what people see; the transport delay is from the event's own ``at``."""
    tokens = int(_PACED_PER_S * 2)
    env = {"OFFLINE_TOKENS_PER_S": str(_PACED_PER_S)}
    arguments = ["--tokens", str(tokens), "--rate", str(_PACED_PER_S)]
    async with targets(plan, word, arguments, env) as found:
        await rounds(
            plan,
            found,
            board,
            "paced",
            {"memory": 1.5, "sqlite": 2.5},
            _PACED_STREAMS,
            f"/tokens {tokens} floor",
            max(4.0, plan.seconds),
            say,
            stamps=True,
            spread_s=1.0,
        )


async def readers(plan: Plan, word: str, board: Board, say: Callable[[str], None]) -> None:
    """Many readers of one turn at 50 tokens a second; the floor pushes the same to as many streams."""
    tokens = int(_PACED_PER_S * 4)
    hold_s = 3 + plan.readers / 250
    env = {"OFFLINE_TOKENS_PER_S": str(_PACED_PER_S)}
    dice = random.Random(plan.seed)
    for number in range(plan.rounds):
        sides = [side for side in plan.sides if side != "sqlite" or len(plan.sides) == 2]
        dice.shuffle(sides)
        for side in sides:
            say(f"readers {word} {side}, round {number + 1} of {plan.rounds}")
            # One more than there are: the gate opens after the window has begun.
            arguments = ["--tokens", str(tokens), "--rate", str(_PACED_PER_S), "--gate", str(plan.readers)]
            async with targets(plan, word, arguments, env, [side]) as (target,):
                turn_id = "floor"
                if target.server is not None:
                    async with target.server.client() as client:
                        ask = Ask(text=f"/slow {hold_s:g} /tokens {tokens} floor")
                        turn_id = (await client.start(ask)).turn_id
                job = _job(target, "once", plan.readers, turn_id=turn_id)
                result = await load(plan, msgspec.structs.replace(job, stamps=True, warm_s=0.0))
                note(figure_of(board, "readers", target, {"memory": 0.7, "sqlite": 0.7}), result)


async def rest(plan: Plan, word: str, board: Board, say: Callable[[str], None]) -> None:
    """REST: a whole reply, of one token and of many, and a small request."""
    env = {"OFFLINE_TOKENS_PER_S": "0"}
    goals = {"memory": 2.0}
    for tokens, path, row in (
        (plan.events, None, "POST /chat, {n} tokens"),
        (1, None, "POST /chat, 1 token"),
        (1, "", "GET /turns/…"),
    ):
        name = row.format(n=tokens)
        async with targets(plan, "rest", ["--tokens", str(tokens)], env) as found:
            where = dict.fromkeys((target.side for target in found), path)
            for target in found:
                if path is not None:
                    where[target.side] = "/turns/floor"
                    if target.server is not None:
                        async with target.server.client() as client:
                            turn_id = (await collect(client.chat("/tokens 1 floor"))).turn_id
                        where[target.side] = f"/turns/{turn_id}"
            dice = random.Random(plan.seed)
            for number in range(plan.rounds):
                order = list(found)
                dice.shuffle(order)
                for target in order:
                    say(f"REST {name} {target.side}, round {number + 1} of {plan.rounds}")
                    job = _job(target, "loop", plan.streams, message=f"/tokens {tokens} floor", seconds=plan.seconds)
                    job = msgspec.structs.replace(job, path=where[target.side], least_cpu_s=plan.seconds * 0.7)
                    note(figure_of(board, name, target, goals), await load(plan, job))


async def idle(plan: Plan, word: str, board: Board, say: Callable[[str], None]) -> None:
    """Memory of an open stream that waits for its next event."""
    goals = {"memory": 40.0 if word == "grpc" else 30.0}
    async with targets(plan, word, ["--hold"], {}, [side for side in plan.sides if side != "sqlite"]) as found:
        for target in found:
            say(f"{plan.idle_streams} idle streams {word} {target.side}")
            turn_id = "floor"
            if target.server is not None:
                async with target.server.client() as client:
                    turn_id = (await client.start(Ask(text="/slow 3600 floor"))).turn_id
            result = await load(plan, _job(target, "idle", plan.idle_streams, turn_id=turn_id))
            figure = figure_of(board, "idle", target, goals)
            if result.rss_bytes is not None:
                figure.rss_kib.append(result.rss_bytes / 1024 / plan.idle_streams)


async def image(plan: Plan, word: str, board: Board, say: Callable[[str], None]) -> None:
    """A picture of 4 MB, read again and again; CPU a MB. REST: the bytes from ``/images/{id}``."""
    binary = word in ("rest", "websocket", "grpc")
    goals = {"memory": 1000.0, "sqlite": 1000.0} if binary else {}
    async with targets(plan, word, ["--image-bytes", str(4_000_000)], {}) as found:
        dice = random.Random(plan.seed)
        asked: dict[str, tuple[str, str, int]] = {"floor": ("floor", "floor", 4_000_000)}
        for target in found:
            if target.server is not None:
                async with target.server.client() as client:
                    picture = await collect_picture(client.image("floor", size=_IMAGE_SIZE))
                asked[target.side] = (picture.turn_id, picture.image_id, len(picture.image))
        for number in range(plan.rounds):
            order = list(found)
            dice.shuffle(order)
            for target in order:
                say(f"image {word} {target.side}, round {number + 1} of {plan.rounds}")
                turn_id, image_id, size = asked[target.side]
                job = _job(target, "loop", 4, turn_id=turn_id, seconds=plan.seconds)
                if word == "rest":
                    job = msgspec.structs.replace(job, path=f"/images/{image_id}", turn_id=None)
                result = await load(plan, job)
                figure = figure_of(board, "image", target, goals)
                megabytes = result.turns * size / 1e6
                figure.note = (
                    f"{size / 1e6:.1f} MB, {result.bytes / 1e6 / max(megabytes, 1e-9):.2f} bytes on the wire a byte"
                )
                note(figure, result, work=megabytes)


async def slow_model(plan: Plan, word: str, board: Board, say: Callable[[str], None]) -> None:
    """16 chats at once on a model that takes a second before it says anything."""
    async with targets(
        plan, word, [], {"OFFLINE_TOKENS_PER_S": "0"}, [side for side in plan.sides if side != "floor"]
    ) as found:
        for target in found:
            say(f"16 chats on a slow model {word} {target.side}")
            result = await load(plan, _job(target, "burst", 16, message="/slow 1 /tokens 5 floor"))
            figure = figure_of(board, "slow-model", target, {"memory": 1.1, "sqlite": 1.1})
            figure.per_s.append(result.seconds)


ROW = {
    "saturated": (saturated, STREAMING),
    "paced": (paced, STREAMING),
    "readers": (readers, STREAMING),
    "rest": (rest, ("rest",)),
    "idle": (idle, STREAMING),
    "image": (image, WORDS),
    "slow-model": (slow_model, WORDS),
}


def _job(target: Target, mode: str, streams: int, **more: object) -> Job:
    fields = {"wire": target.word, "address": target.address, "pid": target.pid, "mode": mode, "streams": streams}
    return msgspec.convert({**fields, **more}, Job)


def figure_of(board: Board, row: str, target: Target, goals: dict[str, float]) -> Figure:
    """The figure of a side of a row, made when it is first asked for."""
    key = (row, target.word, target.side)
    if key not in board:
        board[key] = Figure(row, target.word, target.side, goals.get(target.side))
    return board[key]


def note(figure: Figure, result: Result, work: float | None = None) -> None:
    """Add a round; ``work`` is what the cost is divided by, else events."""
    amount = result.events if work is None else work
    if result.cpu_s is not None and amount:
        figure.cpu_us.append(result.cpu_s * 1e6 / amount)
    figure.per_s.append(amount / result.seconds)
    figure.load_share.append(result.load_cpu_s / result.seconds)
    for name in ("ttft_p50_ms", "delay_p50_ms", "delay_p99_ms"):
        value = getattr(result, name)
        if value is not None:
            getattr(figure, name).append(value)


# -- the table -------------------------------------------------------------------------------------------------------------

_HEADS = {
    "saturated": ("events", "{streams} saturated streams, {events} chunks a turn"),
    "paced": ("events", f"{_PACED_STREAMS} streams at {_PACED_PER_S:g} tokens a second"),
    "readers": ("events", f"{{readers}} readers of one turn at {_PACED_PER_S:g} tokens a second"),
    "idle": ("streams", "{idle_streams} idle streams, a connection each"),
    "image": ("MB", "a picture, read from the log (REST: GET /images)"),
    "slow-model": ("s", "16 chats at once, the model waits 1 s: seconds until all are done"),
}


def show(console: Console, plan: Plan, board: Board) -> None:
    """Print what was seen, a table for each kind of load."""
    for name in dict.fromkeys(figure.row for figure in board.values()):
        unit, title = "requests", f"REST, {name}, {plan.streams} connections"
        if name in _HEADS:
            unit, template = _HEADS[name]
            title = template.format(**{key: getattr(plan, key) for key in Plan.__slots__})
        table = Table(title=title, title_justify="left")
        columns = ["transport", "side", *_columns(name, unit)]
        for column in columns:
            table.add_column(column, justify="left" if column in ("transport", "side", "goal") else "right")
        for figure in sorted(board.values(), key=lambda figure: (WORDS.index(figure.word), figure.side)):
            if figure.row == name:
                table.add_row(*_row(figure, board.get((name, figure.word, "floor"))))
        console.print(table)


def _columns(row: str, unit: str) -> list[str]:
    if row == "idle":
        return ["KiB a stream", "goal"]
    if row == "slow-model":
        return ["seconds", "goal"]
    one = "an event" if unit == "events" else f"a {unit.removesuffix('s')}"
    cost = [f"CPU µs {one}", f"{unit}/s", "to the floor", "goal"]
    if row == "saturated":
        return [*cost, "first event ms", "load gen. CPU"]
    if row in ("paced", "readers"):
        return [*cost, "delay p50 ms", "p99 ms", *(["TTFT p50 ms"] if row == "paced" else []), "load gen. CPU"]
    if row == "image":
        return [*cost, ""]
    return [*cost, "load gen. CPU"]


def _row(figure: Figure, floor: Figure | None) -> list[str]:
    cells = [figure.word, figure.side]
    if figure.row == "idle":
        return [*cells, _range(figure.rss_kib, 1), _verdict(figure.rss_kib, figure.goal)]
    if figure.row == "slow-model":
        return [*cells, _range(figure.per_s, 2), _verdict(figure.per_s, figure.goal)]
    ratio = ratio_to(figure, floor)
    judged = figure.cpu_us if figure.row == "image" else [] if ratio is None else [ratio]
    cells += [
        _range(figure.cpu_us, 1),
        f"{statistics.median(figure.per_s):,.0f}",
        "" if ratio is None else f"{ratio:.2f}",
        _verdict(judged, figure.goal),
    ]
    share = f"{statistics.median(figure.load_share):.0%}"
    if figure.row == "saturated":
        return [*cells, _range(figure.first_ms, 2), share]
    if figure.row in ("paced", "readers"):
        cells += [_range(figure.delay_p50_ms, 2), _range(figure.delay_p99_ms, 2)]
        # The readers' first token waits until all of them are there.
        cells += [_range(figure.ttft_p50_ms, 2)] if figure.row == "paced" else []
        return [*cells, share]
    return [*cells, figure.note if figure.row == "image" else share]


def ratio_to(figure: Figure, floor: Figure | None) -> float | None:
    """Our cost over the floor's, of the medians; None for the floor itself and where CPU time is not known."""
    if floor is None or figure is floor or not figure.cpu_us or not floor.cpu_us:
        return None
    return statistics.median(figure.cpu_us) / statistics.median(floor.cpu_us)


def _range(values: Sequence[float], digits: int) -> str:
    if not values:
        return "not measured here"
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def _verdict(values: Sequence[float], goal: float | None) -> str:
    if goal is None or not values:
        return ""
    return f"≤ {goal:g} {'met' if statistics.median(values) <= goal else 'missed'}"


# -- the command -----------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> tuple[Plan, Path | None]:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m compare floor", description=__doc__)
    parser.add_argument("--only", help=f"transports, comma-separated, of {', '.join(WORDS)}")
    parser.add_argument("--rows", help=f"rows, comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--sides", default="floor,memory,sqlite", help="of floor, memory, sqlite")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--events", type=int, default=200, help="chunk events a turn")
    parser.add_argument("--seconds", type=float, help="length of a window (default: 3, with --quick 1.5)")
    parser.add_argument("--rounds", type=int, help="rounds of each (default: 3, with --quick 1)")
    parser.add_argument("--idle-streams", type=int, help="open streams (default: 5000, with --quick 1000)")
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    words = tuple(args.only.split(",")) if args.only else WORDS
    rows = tuple(args.rows.split(",")) if args.rows else ROWS
    for given, known in ((words, WORDS), (rows, ROWS), (args.sides.split(","), ("floor", "memory", "sqlite"))):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    plan = Plan(
        words=words,
        rows=rows,
        sides=tuple(args.sides.split(",")),
        streams=args.streams,
        events=args.events,
        seconds=args.seconds or (1.5 if args.quick else 3.0),
        rounds=args.rounds or (1 if args.quick else 3),
        idle_streams=args.idle_streams or (1000 if args.quick else 5000),
        readers=args.readers,
        pin=not args.no_pin,
        seed=args.seed,
    )
    return plan, args.out


async def measure(plan: Plan, console: Console) -> Board:
    """All rows of all transports asked for, printed as they come; one that cannot be measured says why and the others go on."""
    whole: Board = {}
    began = time.monotonic()
    with console.status("starting") as status:
        for row in plan.rows:
            board: Board = {}
            run, words = ROW[row]
            for word in words:
                if word not in plan.words:
                    continue
                try:
                    await run(
                        plan, word, board, lambda text: status.update(f"{time.monotonic() - began:4.0f} s  {text}")
                    )
                except (RuntimeError, OSError, ChatError, ConnectionLost) as error:
                    console.print(f"{row} {word}: not measured here: {error}", markup=False)
            show(console, plan, board)
            whole |= board
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    plan, out = parse(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    pinned = plan.pin and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}, loopback, "
        f"{'server and load generator pinned to a core each' if pinned else 'not pinned'}, "
        f"windows of {plan.seconds:g} s, {plan.rounds} rounds, medians (lowest–highest)",
        markup=False,
    )
    board = asyncio.run(measure(plan, console))
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(list(board.values())), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
