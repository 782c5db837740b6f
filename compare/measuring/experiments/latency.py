"""Latency: one stream, many streams, and turns that arrive as people's turns do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence

from compare.measuring.experiments.run import COST, LATENCY, CpuTimes, Run
from compare.measuring.goodput import Objectives, goodput
from compare.measuring.lanes import RunningLane
from compare.measuring.recording import TurnSpec, record_turn
from compare.measuring.turns import TurnRecord
from shared.client.protocol import ChatClient

_PACED_PER_S = 20.0
_PACED_TOKENS = 40
# More clients than turns that can be open at once, so that no turn waits for a client.
_PACED_CLIENTS = 128


async def one_stream(run: Run) -> None:
    """Latency with one stream at a time, lane after lane."""
    scale = run.scale
    run.describe(
        "1 stream",
        "One stream",
        f"A turn of {scale.tokens} tokens at {run.rate:g} tokens a second, {run.rounds(scale.turns)}, lane after lane, no relay.",
    )
    spec = TurnSpec(experiment="1 stream", tokens=scale.tokens, rate=run.rate)
    async with contextlib.AsyncExitStack() as stack:
        lanes = {name: run.direct(name) for name in run.names}
        clients = {name: (await stack.enter_async_context(run.clients(lane, 1)))[0] for name, lane in lanes.items()}
        for repeat in range(scale.turns):
            for name in run.order(repeat):
                run.say(name)
                turn = await record_turn(lanes[name], clients[name], spec, number=run.round_of(repeat))
                run.turns.append(turn)


async def many_streams(run: Run, count: int) -> None:
    """Latency with many streams, which start on a clock, evenly over a second."""
    scale = run.scale
    experiment = f"{count} streams"
    tokens = max(20, scale.tokens // 2)
    run.describe(
        experiment,
        f"{count} streams at once",
        f"{count} clients, {tokens} tokens each at {run.rate:g} tokens a second, {run.rounds(scale.stream_repeats)}; they start"
        " on a clock, spread over 1 s; no relay.",
        (*LATENCY, *COST),
    )
    spec = TurnSpec(experiment=experiment, tokens=tokens, rate=run.rate)
    offsets_s = [stream / count for stream in range(count)]
    for repeat in range(scale.stream_repeats):
        for name in run.order(repeat):
            run.say(name)
            lane = run.direct(name)
            async with run.clients(lane, count) as clients:
                run.turns += await _on_the_clock(run, lane, clients, spec, offsets_s, run.round_of(repeat))


async def paced_load(run: Run) -> None:
    """Turns that arrive at random (a seeded Poisson process), whether the server keeps up or not."""
    scale = run.scale
    if not scale.paced_s:
        run.unmeasured["paced load"] = "not in --quick"
        return
    objectives = Objectives()
    run.describe(
        "paced load",
        "Paced load",
        f"Turns of {_PACED_TOKENS} tokens at {run.rate:g} a second arrive at random, {_PACED_PER_S:g} a second for "
        f"{scale.paced_s:g} s, on a clock (open loop), {run.rounds(scale.stream_repeats)}."
        f" Goodput counts turns with TTFT ≤ {objectives.ttft_ms:g} ms, ICL p99 ≤ "
        f"{objectives.icl_p99_ms:g} ms and E2E ≤ {objectives.e2e_ms:g} ms.",
        ("goodput", *LATENCY, *COST),
    )
    dice = random.Random(run.seed * 1000 + run.pass_number)
    offsets_s = [0.0]
    while offsets_s[-1] < scale.paced_s:
        offsets_s.append(offsets_s[-1] + dice.expovariate(_PACED_PER_S))
    spec = TurnSpec(experiment="paced load", tokens=_PACED_TOKENS, rate=run.rate)
    for repeat in range(scale.stream_repeats):
        number = run.round_of(repeat)
        for name in run.order(repeat):
            run.say(name)
            lane = run.direct(name)
            async with run.clients(lane, _PACED_CLIENTS) as clients:
                found = await _on_the_clock(run, lane, clients, spec, offsets_s[:-1], number)
            run.turns += found
            run.sample("paced load", name, number, "goodput", goodput(found, objectives, scale.paced_s))


async def _on_the_clock(
    run: Run,
    lane: RunningLane,
    clients: Sequence[ChatClient],
    spec: TurnSpec,
    offsets_s: Sequence[float],
    number: int,
) -> list[TurnRecord]:
    """Start a turn at each offset, whether the turns before are done or not."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    before = CpuTimes.of(lane)

    async def turn(stream: int) -> TurnRecord:
        await asyncio.sleep(begun + offsets_s[stream] - loop.time())
        return await record_turn(lane, clients[stream % len(clients)], spec, number=number, stream=stream)

    found = list(await asyncio.gather(*(turn(stream) for stream in range(len(offsets_s)))))
    # A whole reply stands for its tokens, its start and its end.
    events = sum(len(turn.arrivals) if lane.lane.tokens else turn.tokens + 2 for turn in found)
    run.sample_cpu(spec.experiment, lane, number, before, events)
    return found
