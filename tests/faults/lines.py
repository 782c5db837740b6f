"""Lines that break: cuts at every event, cuts at random bytes, the relay's faults, and hand-overs between transports."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

from compare.lines.capture import Direction
from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.lanes import LANES, Lane
from shared.client.protocol import ChatClient
from shared.events import CursorLost
from tests.faults.harness import (
    Plan,
    Shown,
    Totals,
    World,
    audit,
    judge,
    spread,
    timed,
)

Job = tuple[str, Callable[[], Coroutine[Any, Any, None]]]

EVENTS = 200
CUTS_AT_BYTES = 2000
SEEDS = 20
CUT_POINTS = 10
# A client gives up a line that is silent for this long; the servers send heartbeats ten times as often.
SILENCE_S = 3.0


async def cuts_at_events(world: World, plan: Plan) -> Totals:
    """A turn of 200 events, cut after event 0, 1, 2 … 199, on each transport; plain REST after as many parts of its reply."""
    totals = Totals("events", plan.seed)
    shown: list[Shown] = []
    async with timed(totals):
        whole = f"/tokens {EVENTS - 2} how long is a reply"
        reply_bytes = await _bytes_of(world, LANES["rest"], whole) if "rest" in plan.words else 0
        jobs: list[Job] = []
        for nth in plan.pick(EVENTS, 3):
            for lane in plan.lanes:
                asked = f"/tokens {EVENTS - 2} cut after event {nth} on {lane.name}"
                reset = bool(plan.random("events", lane.name, nth).getrandbits(1))
                if not lane.tokens:
                    faults = Faults(reset=reset, cut_after_bytes=reply_bytes * nth // EVENTS)
                else:
                    faults = Faults(reset=reset, cut_after_event=nth)
                jobs.append((asked, partial(_cut_once, world, totals, lane, asked, faults, shown)))
        await spread(world, totals, jobs, plan.parallel)
        await audit(world, totals, shown)
    return totals


async def _cut_once(world: World, totals: Totals, lane: Lane, asked: str, faults: Faults, shown: list[Shown]) -> None:
    one = await _through(world, totals, lane, asked, faults, shown)
    if not one.lost:
        totals.blame("other", f"{asked}: the cut was not noticed")


async def _through(
    world: World,
    totals: Totals,
    lane: Lane,
    asked: str,
    faults: Faults,
    shown: list[Shown],
    *,
    seed: int = 0,
    image: bool = False,
    **options: Any,
) -> Shown:
    """Ask once through a relay and read to the end."""
    one = Shown(asked)
    shown.append(one)
    async with Relay(world.servers[lane.word].address, faults, seed=seed) as relay:
        # The client connects when it asks, so the line may break while it connects.
        async with aclosing(world.client(lane, relay.address, **options)) as client:
            await one.follow(client.image(asked, size="256x192") if image else client.chat(asked))
        totals.notes["cuts"] += relay.fault_count
        if one.lost > relay.fault_count + sum(connection.state == "refused" for connection in relay.connections):
            totals.blame("other", f"{asked}: lost its line {one.lost} times, and it was cut {relay.fault_count} times")
    judge(totals, one, asked)
    return one


async def _bytes_of(world: World, lane: Lane, asked: str, direction: str = "down", *, image: bool = False) -> int:
    """The bytes of an uncut turn in one direction."""
    async with Relay(world.servers[lane.word].address) as relay, world.client(lane, relay.address) as client:
        async with asyncio.timeout(2 * world.patience_s):
            await Shown(asked).follow(client.image(asked, size="256x192") if image else client.chat(asked))
        return relay.down_bytes if direction == "down" else relay.up_bytes


async def cuts_at_bytes(world: World, plan: Plan) -> Totals:
    """One to three cuts after random bytes, in either direction, with FIN or RST; every tenth turn is a picture."""
    totals = Totals("bytes", plan.seed)
    shown: list[Shown] = []
    sizes = {
        (lane.name, direction, image): await _bytes_of(world, lane, "/tokens 80 measure", direction, image=image)
        for lane in plan.lanes
        for direction in ("up", "down")
        for image in (False, True)
    }
    lanes = plan.lanes

    async def run(nth: int) -> None:
        dice = plan.random("bytes", nth)
        lane = lanes[nth % len(lanes)]
        image = nth // len(lanes) % 10 == 9
        direction: Direction = "up" if dice.random() < 0.2 else "down"
        faults = Faults(
            cut_after_bytes=dice.randrange(sizes[lane.name, direction, image]),
            direction=direction,
            reset=dice.random() < 0.5,
            times=dice.choice((1, 1, 2, 3)),
            slice_bytes=dice.choice((None, None, None, 997 if image else 7)),
        )
        await _through(world, totals, lane, f"/tokens 80 cut {nth} at a byte", faults, shown, image=image)

    async with timed(totals):
        await spread(
            world, totals, [(f"bytes {nth}", partial(run, nth)) for nth in plan.pick(CUTS_AT_BYTES, 12)], plan.parallel
        )
        await audit(world, totals, shown)
    return totals


def _fault(name: str, dice: random.Random, size: int) -> Faults:
    at = dice.randrange(size)
    match name:
        case "fin":
            return Faults(cut_after_bytes=at, times=dice.randint(1, 3))
        case "rst":
            return Faults(cut_after_bytes=at, times=dice.randint(1, 3), reset=True)
        case "stall":
            return Faults(stall_after_bytes=at, stall_s=dice.choice((0.2, 0.5, None)))
        case "black hole":
            return Faults(black_hole_after_bytes=at)
        case "delay":
            return Faults(delay_s=dice.uniform(0.005, 0.08))
        case "throttle":
            return Faults(bytes_per_s=dice.uniform(20e3, 200e3), late_share=0.02, late_s=0.05)
        case "slices":
            return Faults(slice_bytes=dice.choice((1, 1, 2, 3)))
        case "buffer":
            return Faults(buffer_bytes=dice.choice((1000, 4096, 1_000_000)), buffer_s=dice.uniform(0.05, 0.4))
        case _:
            return Faults(cut_after_bytes=at, reset=True, refuse_s=dice.uniform(0.1, 0.6))


FAULTS = ("fin", "rst", "stall", "black hole", "delay", "throttle", "slices", "buffer", "comes back")


async def relay_faults(world: World, plan: Plan) -> Totals:
    """Each fault of the relay on each transport with 20 seeds."""
    totals = Totals("faults", plan.seed)
    shown: list[Shown] = []
    asked = "/tokens {} {} {} {}"

    def tokens(name: str) -> int:
        # A slice costs a system call, so the turn is short.
        return 30 if name == "slices" else 100

    async def run(name: str, lane: Lane, seed: int) -> None:
        faults = _fault(name, plan.random(name, lane.name, seed), sizes[lane.name])
        one = await _through(
            world,
            totals,
            lane,
            asked.format(tokens(name), name, lane.name, seed),
            faults,
            shown,
            seed=seed,
            silence_s=SILENCE_S,
        )
        totals.notes[name] += 1
        # Plain REST cannot tell a long reply from a broken line, so it does not report the silence.
        if name == "black hole" and not one.lost and lane.tokens:
            totals.blame("other", f"{name} {lane.name} {seed}: the silence was not noticed")

    async with timed(totals):
        lanes = [LANES[word] for word in plan.words]
        sizes = {lane.name: await _bytes_of(world, lane, asked.format(100, "none", lane.name, 0)) for lane in lanes}
        jobs = [
            (f"{name} {lane.name} {seed}", partial(run, name, lane, seed))
            for seed in plan.pick(SEEDS)
            for name in FAULTS
            for lane in lanes
        ]
        # Most of these runs wait most of the time, so more of them run at once.
        await spread(world, totals, jobs, plan.parallel * 2)
        await audit(world, totals, shown)
    return totals


async def handovers(world: World, plan: Plan) -> Totals:
    """Begun on one transport, cut after event k, read to its end on another: every pair, ten k."""
    totals = Totals("hand-over", plan.seed)
    shown: list[Shown] = []

    async def run(first: Lane, second: Lane, after: int) -> None:
        asked = f"/tokens {EVENTS - 2} from {first.name} to {second.name} after {after}"
        one = Shown(asked)
        shown.append(one)
        client = world.client(first)
        async with client:
            if after:
                await one.follow(client.chat(asked), until=lambda shown: shown.after >= after)
            else:
                async with world.client(LANES["ndjson"]) as starter:
                    await one.follow(starter.chat(asked), until=lambda shown: True)
        if one.error is not None or one.status:
            totals.blame("other", f"{asked}: ended before it was cut ({one.error or one.status})")
            return
        async with world.client(second) as other:
            await one.follow(other.read(one.turn_id, one.after))
            judge(totals, one, asked)
            await _check_cursor(totals, other, one, after)

    async def _check_cursor(totals: Totals, client: ChatClient, one: Shown, after: int) -> None:
        """Check the events that the wire gives from a cursor, before the client drops events that it has already."""
        given = [event async for event in client.stream_turn(one.turn_id, after) if not isinstance(event, CursorLost)]
        if given != one.events[after:]:
            totals.blame("twice", f"{one.asked}: from cursor {after} the wire gives {[e.seq for e in given][:3]} …")

    def pairs() -> Iterator[Job]:
        for first in plan.event_lanes:
            for second in plan.event_lanes:
                dice = plan.random(first.name, second.name)
                for after in sorted(dice.sample(range(1, 150), plan.count(CUT_POINTS))):
                    yield f"{first.name} to {second.name} after {after}", partial(run, first, second, after)

    async with timed(totals):
        await spread(world, totals, pairs(), plan.parallel)
        await audit(world, totals, shown)
    return totals
