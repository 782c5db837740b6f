"""``python -m compare race``: the lanes live in the terminal, the same tokens on the same schedule, then a table and a verdict.

Each lane's line goes through a relay of its own. The relay counts the bytes, shapes the network, and cuts when asked to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from compare.lines.faults import NETWORKS, Faults
from compare.measuring.hops import Hops, hops
from compare.measuring.lanes import ALL_LANES, FURTHER_LANES, LANES, RunningLane, running_lanes, shuffled
from compare.measuring.recording import TurnSpec, count_generated, record_turn, warm_up
from compare.measuring.turns import TurnRecord
from compare.showing.race_report import RaceSettings, show_race
from compare.showing.race_view import RaceView, Track
from protocols.live import open_console
from shared.client.protocol import ChatClient
from shared.signals import run_until_signal
from shared.usage import reason, usage_of

_FIRST_MS = 150.0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m compare race", description=usage_of(__doc__.partition("\n\n")[0]))
    parser.add_argument("prompt", nargs="?", default="Tell me how this answer reached me.", metavar="PROMPT")
    parser.add_argument(
        "--only",
        help=f"lanes, comma-separated, of {', '.join(ALL_LANES)} (default: without {', '.join(FURTHER_LANES)})",
    )
    parser.add_argument("--tls", action="store_true", help="encrypt every line, with a certificate made for this run")
    parser.add_argument(
        "--network", choices=NETWORKS, help="a network of known delay, bandwidth and share of late packets"
    )
    parser.add_argument(
        "--cut-after", type=int, metavar="N", help="cut every line after N tokens, with and without resume"
    )
    parser.add_argument("--tokens", type=int, default=80, metavar="N", help="length of the reply (default: 80)")
    parser.add_argument("--rate", type=float, default=40.0, metavar="N", help="tokens a second (default: 40)")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="rounds after the warm-up (default: 6)")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="streams a lane (default: 1)")
    parser.add_argument("--image", metavar="WxH", help="race a picture of this size instead of a reply")
    parser.add_argument("--seed", type=int, default=1, help="for the order of the lanes in each round (default: 1)")
    parser.add_argument("--explain", action="store_true", help="also print the formulas and the set-up")
    args = parser.parse_args(argv)
    names = args.only.split(",") if args.only else list(LANES)
    if unknown := set(names) - set(ALL_LANES):
        parser.error(f"no such lane: {', '.join(sorted(unknown))}; there are {', '.join(ALL_LANES)}")
    if args.cut_after is not None and not 0 < args.cut_after < args.tokens:
        parser.error("--cut-after must be less than --tokens, and at least 1")
    if min(args.tokens, args.rounds, args.concurrency) < 1 or args.rate <= 0:
        parser.error("--tokens, --rounds, --concurrency and --rate must be positive")
    if args.cut_after is not None and (args.concurrency > 1 or args.image):
        parser.error("--cut-after goes with one stream a lane and with text")
    args.names = names
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Race. Returns the exit status, 1 when a turn failed, 2 when a server does not start, 130 on Ctrl-C."""
    args = parse(argv)
    try:
        return asyncio.run(run_until_signal(race(open_console(), args), "stopped, and the servers with it"))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 2


async def race(console: Console, args: argparse.Namespace) -> int:
    """Start the lanes, race, print; 0 when no turn failed."""
    faults = NETWORKS[args.network] if args.network else Faults()
    spec = TurnSpec(
        experiment="race",
        message=args.prompt,
        tokens=0 if args.image else args.tokens,
        rate=args.rate,
        first_ms=_FIRST_MS,
        size=args.image,
    )
    console.print(f"Starting {len(args.names)} servers, a process each …", soft_wrap=True)
    hops_of: dict[str, list[Hops]] = {}
    async with running_lanes(
        args.names, rate=args.rate, first_ms=_FIRST_MS, faults=faults, tls=args.tls, timed=_hops_seen(args)
    ) as lanes:
        tracks = {name: Track(name) for name in args.names}
        network = (f"network {args.network}" if args.network else "loopback") + ", TLS" * args.tls
        view = RaceView(console, tracks, spec.tokens, f"{args.rate:g} tokens a second, {network}")
        turns: list[TurnRecord] = []
        with view.shown(keep=True):
            view.begin("warm-up")
            for each in _specs(spec, args.cut_after):
                turns += await _rounds(lanes, tracks, each, view, args, hops_of)
    settings = RaceSettings(
        names=args.names,
        prompt=args.prompt,
        tokens=args.tokens,
        rate=args.rate,
        rounds=args.rounds,
        concurrency=args.concurrency,
        cut_after=args.cut_after,
        image=args.image,
        tls=args.tls,
    )
    show_race(console, settings, turns, faults, explain=args.explain, hops_of=hops_of)
    return 0 if all(turn.error is None for turn in turns) else 1


def _hops_seen(args: argparse.Namespace) -> bool:
    """Whether the relay sees the events of one turn alone, from their first byte to their last."""
    return bool(args.explain and args.concurrency == 1 and not (args.tls or args.image or args.cut_after))


def _specs(spec: TurnSpec, cut_after: int | None) -> list[TurnSpec]:
    if cut_after is None:
        return [spec]
    return [
        replace(spec, experiment="cut, with resume", cut_after=cut_after),
        replace(spec, experiment="cut, without resume", cut_after=cut_after, resume=False),
    ]


async def _rounds(
    lanes: Mapping[str, RunningLane],
    tracks: Mapping[str, Track],
    spec: TurnSpec,
    view: RaceView,
    args: argparse.Namespace,
    hops_of: dict[str, list[Hops]],
) -> list[TurnRecord]:
    """All rounds of one spec; in a round all streams of all lanes run at once. ``hops_of`` gets the hops of each lane's tokens."""
    turns: list[TurnRecord] = []
    title = "" if spec.cut_after is None else f"{spec.experiment}, "
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            name: [await stack.enter_async_context(lane.client(resume=spec.resume)) for _ in range(args.concurrency)]
            for name, lane in lanes.items()
        }
        await asyncio.gather(*(warm_up(lanes[name], client) for name, some in clients.items() for client in some))
        for number in range(args.rounds):
            view.begin(f"{title}round {number + 1} of {args.rounds}")
            async with asyncio.TaskGroup() as group:
                running = [
                    group.create_task(_turn(lanes[name], client, spec, tracks[name], number, stream, args.concurrency))
                    for name in shuffled(list(lanes), args.seed, number)
                    for stream, client in enumerate(clients[name])
                ]
            found = [task.result() for task in running]
            if spec.cut_after is not None:
                for turn in found:
                    await count_generated(lanes[turn.lane], turn)
            turns += found
            if _hops_seen(args):
                _add_hops(lanes, found, hops_of)
    return turns


def _add_hops(lanes: Mapping[str, RunningLane], found: Sequence[TurnRecord], hops_of: dict[str, list[Hops]]) -> None:
    for turn in found:
        relay = lanes[turn.lane].relay
        if relay is not None and turn.error is None and lanes[turn.lane].lane.tokens:
            # A reader that polls gets events in its first answer that it reads again, so they cannot be matched.
            with contextlib.suppress(ValueError):
                hops_of.setdefault(turn.lane, []).extend(hops(turn, relay.passed))
            relay.passed.clear()


async def _turn(
    lane: RunningLane, client: ChatClient, spec: TurnSpec, track: Track, number: int, stream: int, concurrency: int
) -> TurnRecord:
    """One turn. The first stream of a lane is shown while it runs; bytes are counted when the lane has one stream."""
    if stream == 0:
        track.begin(lane)
    watch = track.watch if stream == 0 else None
    return await record_turn(
        lane, client, spec, number=number, stream=stream, watch=watch, count_bytes=concurrency == 1
    )
