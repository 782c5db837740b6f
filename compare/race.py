"""``python -m compare race``: the lanes live in the terminal, the same tokens on the same schedule, then a table and a verdict.

Every lane's line goes through a relay of its own, which counts the bytes, shapes the network and cuts where that is asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from compare.lanes import LANES, Course, Running, generated, running, setup, shuffled, take, warm_up
from compare.lines.faults import NETWORKS, Faults
from compare.metrics import METRICS, Arrival, Figure, Take, differ, findings, summarise, verdict
from protocols.processes import catching_signals
from shared.client.protocol import Item
from shared.errors import ChatError, ConnectionLost
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens

_SHOWN = ("ttft", "icl_p50", "icl_p99", "delay_p50", "delay_p99", "e2e", "down_per_token", "coalescing")
_SHOWN_CUT = ("lost", "twice", "again", "detect", "back", "e2e")
_SHOWN_IMAGE = ("ttfe", "e2e", "up_bytes")
_JUDGED = ("ttft", "delay_p50", "delay_p99", "e2e", "down_per_token")
_JUDGED_CUT = ("lost", "twice", "again", "detect", "back")
_SPARKS = "▁▂▃▄▅▆▇█"
_FPS = 12
_WIDE = 120


@dataclass(slots=True)
class Track:
    """What one lane shows while it runs: its first stream's text and times."""

    name: str
    state: str = "waiting"
    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    arrived: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    first_ms: float | None = None
    lane: Running | None = None
    down_before: int = 0

    def begin(self, lane: Running) -> None:
        """A new round."""
        self.state, self.texts, self.tokens, self.first_ms = "asked", [], 0, None
        self.arrived, self.late = [], []
        self.lane = lane
        self.down_before = lane.relay.down_bytes if lane.relay else 0

    def watch(self, item: Item, arrival: Arrival) -> None:
        """Something arrived."""
        match arrival.type:
            case "chunk" | "reply":
                if self.first_ms is None:
                    self.first_ms = arrival.ms
                self.texts.append(arrival.text)
                self.tokens += 1
                self.arrived.append(arrival.ms)
                if arrival.logged_ms is not None:
                    self.late.append(arrival.ms - arrival.logged_ms)
                self.state = "streaming" if arrival.type == "chunk" else "done"
            case "image_chunk":
                self.tokens += 1
                self.state = "picture"
            case "picture" | "turn_completed":
                self.state = "done"
            case "lost":
                self.state = "line lost"
            case "resumed":
                self.state = "resumed"
            case kind if kind.startswith("turn_") and kind != "turn_started":
                self.state = kind.removeprefix("turn_")

    @property
    def down_bytes(self) -> int:
        """What the relay has given the client in this round."""
        return self.lane.relay.down_bytes - self.down_before if self.lane and self.lane.relay else 0

    @property
    def sparks(self) -> str:
        """The last gaps, as bars on a scale to their longest."""
        gaps = [after - before for before, after in zip(self.arrived, self.arrived[1:], strict=False)][-16:]
        top = max(gaps, default=0.0)
        return "".join(_SPARKS[min(7, int(8 * gap / top))] if top > 0 else _SPARKS[0] for gap in gaps)


class View:
    """All lanes as they stream: a live table on a terminal, a line a round where there is none."""

    def __init__(self, console: Console, tracks: Mapping[str, Track], total: int, title: str) -> None:
        self.title = title
        self.heading = ""
        self._console = console
        self._tracks = tracks
        self._total = total
        self._begun = time.perf_counter()

    def __rich__(self) -> RenderableType:
        return Group(
            Text(f"{self.title}  {self.heading}  {time.perf_counter() - self._begun:.1f} s", style="bold"),
            *(self._lane(track) for track in self._tracks.values()),
        )

    def _lane(self, track: Track) -> RenderableType:
        head = Table.grid(padding=(0, 2, 0, 0))
        for width, justify in _LIVE_COLUMNS:
            head.add_column(width=width, justify=justify, no_wrap=True)
        gaps = [after - before for before, after in zip(track.arrived, track.arrived[1:], strict=False)]
        head.add_row(
            Text(track.name, style="bold cyan"),
            Text(track.state, style=_STYLES.get(track.state, "")),
            f"{track.tokens}/{self._total}" if self._total else str(track.tokens),
            "" if track.first_ms is None else f"1st {track.first_ms:,.0f} ms",
            "" if not gaps else f"gap {statistics.median(gaps):,.0f} ms",
            "" if not track.late else f"late {statistics.median(track.late):,.1f} ms",
            f"{track.down_bytes:,} B",
            Text(track.sparks, style="green"),
        )
        width = max(20, self._console.width - 4)
        tail = " ".join("".join(track.texts).split())[-width:]
        if not tail:
            tail = "(one whole reply: nothing until everything is there)" if track.name == "rest" else ""
        return Group(head, Text("  " + tail, style="dim", no_wrap=True, overflow="crop"))

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show it while the lanes run; the last state stays on the screen."""
        if self._console.is_terminal:
            with Live(self, console=self._console, refresh_per_second=_FPS):
                yield
        else:
            yield

    def begin(self, heading: str) -> None:
        """A round begins."""
        self.heading = heading
        if not self._console.is_terminal:
            self._console.print(f"{time.perf_counter() - self._begun:5.1f} s  {heading}", markup=False)


_LIVE_COLUMNS: tuple[tuple[int, JustifyMethod], ...] = (
    (9, "left"),
    (9, "left"),
    (7, "right"),
    (12, "right"),
    (10, "right"),
    (13, "right"),
    (9, "right"),
    (16, "left"),
)
_STYLES = {
    "streaming": "green",
    "done": "bold green",
    "line lost": "bold red",
    "resumed": "bold yellow",
    "failed": "bold red",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m compare race", description=__doc__.partition("\n\n")[0])
    parser.add_argument("prompt", nargs="?", default="Tell me how this answer reached me.", metavar="PROMPT")
    parser.add_argument("--only", help=f"lanes, comma-separated, of {', '.join(LANES)}")
    parser.add_argument(
        "--network", choices=NETWORKS, help="a line of a stated delay, bandwidth and share of late packets"
    )
    parser.add_argument(
        "--cut-after", type=int, metavar="N", help="cut every line after N tokens, with and without resume"
    )
    parser.add_argument("--tokens", type=int, default=80, metavar="N", help="length of the answer (default: 80)")
    parser.add_argument("--rate", type=float, default=40.0, metavar="N", help="tokens a second (default: 40)")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="rounds after the warm-up (default: 6)")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="streams a lane (default: 1)")
    parser.add_argument("--image", metavar="WxH", help="race a picture of this size instead of an answer")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the lanes in each round")
    args = parser.parse_args(argv)
    names = args.only.split(",") if args.only else list(LANES)
    if unknown := set(names) - set(LANES):
        parser.error(f"no such lane: {', '.join(sorted(unknown))}; there are {', '.join(LANES)}")
    if args.cut_after is not None and not 0 < args.cut_after < args.tokens:
        parser.error("--cut-after must be less than --tokens, and at least 1")
    if min(args.tokens, args.rounds, args.concurrency) < 1 or args.rate <= 0:
        parser.error("--tokens, --rounds, --concurrency and --rate must be positive")
    if args.cut_after is not None and (args.concurrency > 1 or args.image):
        parser.error("--cut-after goes with one stream a lane and with text")
    args.names = names
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Race; the exit status, 130 on Ctrl-C."""
    args = parse(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    try:
        return asyncio.run(_until_signal(console, args))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


async def _until_signal(console: Console, args: argparse.Namespace) -> int:
    with catching_signals() as signals:
        work = asyncio.create_task(race(console, args))
        asked = asyncio.create_task(signals.get())
        await asyncio.wait((work, asked), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            asked.cancel()
            return work.result()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        sys.stderr.write("stopped, and the servers with it\n")
        return 128 + asked.result()


async def race(console: Console, args: argparse.Namespace) -> int:
    """Start the lanes, race, print; 0 when every turn came through."""
    faults = NETWORKS[args.network] if args.network else Faults()
    course = Course(
        experiment="race",
        message=args.prompt,
        tokens=0 if args.image else args.tokens,
        rate=args.rate,
        first_ms=150.0,
        size=args.image,
    )
    console.print(f"Starting {len(args.names)} servers, a process each …", soft_wrap=True)
    async with running(args.names, rate=args.rate, first_ms=course.first_ms, faults=faults) as lanes:
        tracks = {name: Track(name) for name in args.names}
        network = f"network {args.network}" if args.network else "loopback"
        view = View(console, tracks, course.tokens, f"{args.rate:g} tokens a second, {network}")
        takes: list[Take] = []
        with view.shown():
            view.begin("warm-up")
            for course_now in _courses(course, args.cut_after):
                takes += await _rounds(lanes, tracks, course_now, view, args)
    _report(console, args, takes, faults)
    return 0 if all(taken.error is None for taken in takes) else 1


def _courses(course: Course, cut_after: int | None) -> list[Course]:
    if cut_after is None:
        return [course]
    return [
        replace(course, experiment="cut, with resume", cut_after=cut_after),
        replace(course, experiment="cut, without resume", cut_after=cut_after, resume=False),
    ]


async def _rounds(
    lanes: Mapping[str, Running], tracks: Mapping[str, Track], course: Course, view: View, args: argparse.Namespace
) -> list[Take]:
    takes: list[Take] = []
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            name: [await stack.enter_async_context(lane.client(resume=course.resume)) for _ in range(args.concurrency)]
            for name, lane in lanes.items()
        }
        await asyncio.gather(*(warm_up(lanes[name], client) for name, some in clients.items() for client in some))
        for number in range(args.rounds):
            view.begin(
                f"{'' if course.experiment == 'race' else course.experiment + ', '}round {number + 1} of {args.rounds}"
            )
            tasks: list[asyncio.Task[Take]] = []
            async with asyncio.TaskGroup() as group:
                for name in shuffled(list(lanes), args.seed, number):
                    tracks[name].begin(lanes[name])
                    for stream, client in enumerate(clients[name]):
                        tasks.append(
                            group.create_task(
                                take(
                                    lanes[name],
                                    client,
                                    course,
                                    number=number,
                                    stream=stream,
                                    watch=tracks[name].watch if stream == 0 else None,
                                    count_bytes=args.concurrency == 1,
                                )
                            )
                        )
            for task in tasks:
                taken = task.result()
                if course.cut_after is not None:
                    with contextlib.suppress(ChatError, ConnectionLost):
                        taken.generated = await generated(lanes[taken.lane], taken.asked_at)
                takes.append(taken)
    return takes


# -- what is said afterwards -------------------------------------------------------------------------------------------------


def _report(console: Console, args: argparse.Namespace, takes: Sequence[Take], faults: Faults) -> None:

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    expected = "".join(reply_tokens([ContextMessage("user", f"/tokens {args.tokens} {args.prompt}")]))
    for experiment in dict.fromkeys(taken.experiment for taken in takes):
        some = [taken for taken in takes if taken.experiment == experiment]
        names = _SHOWN_IMAGE if args.image else _SHOWN_CUT if "cut" in experiment else _SHOWN
        judged = ("e2e",) if args.image else _JUDGED_CUT if "cut" in experiment else _JUDGED
        by_lane = {name: [taken for taken in some if taken.lane == name] for name in args.names}
        figures = {name: summarise(found, names) for name, found in by_lane.items()}
        console.print()
        console.print(table(experiment, figures, names, wide=console.width >= _WIDE))
        for name in judged:
            line = verdict(METRICS[name], {lane: found[name] for lane, found in figures.items() if name in found})
            if line:
                say(f"  {line}")
        for lane, found in by_lane.items():
            for taken in found:
                if taken.error is not None:
                    say(f"  {lane}, round {taken.round + 1}: {taken.error}")
            for line in findings(found):
                say(f"  {lane}: {line}.")
        if not args.image and "cut" not in experiment:
            equal = [lane for lane, found in by_lane.items() if all(_text(taken) == expected for taken in found)]
            where = "in every lane" if len(equal) == len(by_lane) else f"in {', '.join(equal) or 'no lane'} only"
            say(f"  The text is the model's, character by character, {where}.")
    if "rest" in args.names and not args.image:
        say(
            "\n  rest sends one whole reply: its first token is its last. rest-poll is the same server, asked again and again."
        )
    say(
        "\nHow to read it (t0 = request sent, e_i = arrival of the i-th chunk, at_i = when it was appended to the log):"
    )
    shown = _SHOWN_IMAGE if args.image else (*_SHOWN_CUT,) if args.cut_after else _SHOWN
    for name in shown:
        metric = METRICS[name]
        say(f"  {metric.title:<13} {metric.formula}  [{metric.points}]")
    say(
        f"  Medians over {args.rounds} rounds x {args.concurrency} streams after a warm-up; in brackets the 95 % interval of a "
        "bootstrap over rounds; where two intervals overlap no difference is claimed."
    )
    own = "150 ms to its first token" if not args.image else "its own time to draw"
    about = {
        "lanes": f"{args.concurrency} streams each, {args.rate:g} tokens a second; in every first token is the model's {own}"
    }
    say("\nSet-up:")
    for what, value in (about | setup(faults)).items():
        say(f"  {what:<10} {value}")


def _text(taken: Take) -> str:
    return "".join(arrival.text for arrival in taken.of("chunk", "reply"))


def table(title: str, figures: Mapping[str, Mapping[str, Figure]], names: Sequence[str], *, wide: bool = True) -> Table:
    """Lanes down, metrics across; ``wide``: with intervals. The best of each column, and what cannot be told from it, in bold."""
    made = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), title_style="bold")
    made.add_column("lane", style="cyan")
    for name in names:
        made.add_column(f"{METRICS[name].title}\n{METRICS[name].unit}", justify="right")
    for lane, found in figures.items():
        cells = []
        for name in names:
            mine = found.get(name)
            if mine is None:
                cells.append(Text("—", style="dim"))
                continue
            others = [other[name] for other in figures.values() if name in other]
            lowest = min(others, key=lambda figure: figure.median)
            best = METRICS[name].better == "lower" and (mine is lowest or not differ(mine, lowest))
            text = Text(cell(name, mine), style="bold" if best else "")
            cells.append(text.append(f"\n{spread(name, mine)}", style="dim not bold") if wide else text)
        made.add_row(lane, *cells)
    return made


def cell(name: str, figure: Figure) -> str:
    """A median."""
    if METRICS[name].unit == "share":
        return f"{figure.median:.0%}"
    return f"{figure.median:,.{_digits(name, figure)}f}"


def spread(name: str, figure: Figure) -> str:
    """The interval beside a median, nothing where all turns agree."""
    form = ".0%" if METRICS[name].unit == "share" else f",.{_digits(name, figure)}f"
    low, high = format(figure.low, form), format(figure.high, form)
    return "" if low == high else f"{low}–{high}"


def _digits(name: str, figure: Figure) -> int:
    return 0 if abs(figure.median) >= 100 or METRICS[name].unit in ("B", "tokens") else 1
