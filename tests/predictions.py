"""Load points that no calibration has seen: what ``compare numbers`` says of them, and what a measurement finds."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest

import msgspec

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.experiments.loads import LEAST_CPU_S, RATE, loads
from compare.measuring.experiments.run import Run, Scale
from compare.measuring.goodput import Objectives
from compare.measuring.lanes import running_lanes
from compare.measuring.loads import LoadPoint, LoadShape, measure_load
from compare.showing.numbers import RETRANSMISSION_MS, Coefficients, coefficients, predict
from compare.showing.results import Results

SHARE, FELT_MS = 0.15, 5.0
# A busier process lets its readers wait for the machine's sake, and from 0.7 on the prediction counts with a second process.
MOST_CORES = 0.5
LEAST_SHARE = 0.15
# The load that tells what a token costs. Every transport bears it on a slow machine.
LIGHT_USERS, LIGHT_TOKENS = 16, 60
LEAST_USERS = 2


@dataclass(frozen=True, slots=True)
class Load:
    """A load, with the round trip in ms and the lost packets in percent of the line before the server."""

    users: int
    tokens: int
    rate: float
    rtt: float = 0.0
    loss: float = 0.0


async def calibrated(word: str, scale: Scale, rate: float = RATE) -> Coefficients:
    """The coefficients of one transport, from load points alone."""
    run = Run(scale, [word], 1, rate, lambda text: None)
    await loads(run, rate)
    return _coefficients(word, run.loads)


def _coefficients(word: str, points: Sequence[LoadPoint]) -> Coefficients:
    results = Results(
        begun_at=0.0,
        seconds=0.0,
        quick=True,
        seed=1,
        lanes=[word],
        setup={},
        experiments={},
        unmeasured={},
        objectives=Objectives(),
        loads=list(points),
        connections={word: 1},
    )
    return coefficients(results)[word]


async def measured(word: str, load: Load, seconds: float) -> LoadPoint:
    """The same load for real, through a relay that delays and loses packets."""
    async with _standing(word, load) as (address, pid):
        return await measure_load(
            word, address, pid, users=load.users, tokens=load.tokens, rate=load.rate, seconds=seconds
        )


async def bearable(word: str, most_tokens_s: float, seconds: float) -> float:
    """The share of the loads up to ``most_tokens_s`` that one process serves on this machine without being full; at most 1.

    A token costs least where many come at once, so the cost at a light load is the careful one.
    """
    point = await measured(word, Load(LIGHT_USERS, LIGHT_TOKENS, RATE), seconds)
    return min(1.0, max(LEAST_SHARE, MOST_CORES * point.tokens_s / point.cpu_s / most_tokens_s))


def fewer(users: int, share: float) -> int:
    """This share of the users. All loads shrink alike, so a load between two others stays between them."""
    return max(LEAST_USERS, round(users * share))


async def side_by_side(
    word: str, shapes: Sequence[LoadShape], unseen: Sequence[Load], rounds: int, seconds: float
) -> tuple[Coefficients, list[LoadPoint]]:
    """The coefficients, and what the unseen loads measured, in rounds in which both take turns.

    Another program that is busy in one round is so for both. It only adds to a wait, so the shortest wait of each load counts. It
    can make a token dearer or cheaper, so the round in the middle counts for the CPU time. Both stand behind a relay, whose own
    delay is the instrument's. Memory is of the first round, because a process does not give memory back.
    """
    known = [Load(shape.users, shape.tokens, RATE) for shape in shapes]
    found: dict[Load, list[LoadPoint]] = {load: [] for load in (*known, *unseen)}
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(_standing(word, known[0]))
        places = dict.fromkeys(known, one)
        for load in unseen:
            places[load] = await stack.enter_async_context(_standing(word, load))
        in_turn = [load for pair in zip_longest(known, unseen) for load in pair if load is not None]
        for _ in range(rounds):
            for load in in_turn:
                address, pid = places[load]
                point = await measure_load(
                    word,
                    address,
                    pid,
                    users=load.users,
                    tokens=load.tokens,
                    rate=load.rate,
                    seconds=seconds,
                    least_cpu_s=LEAST_CPU_S,
                )
                found[load].append(point)
    return _coefficients(word, [_joined(found[load]) for load in known]), [_joined(found[load]) for load in unseen]


@asynccontextmanager
async def _standing(word: str, load: Load) -> AsyncIterator[tuple[str, int]]:
    """A server of its own for a load: the address of the relay before it, and its process."""
    late_s = (RETRANSMISSION_MS + load.rtt) / 1000
    faults = Faults(delay_s=load.rtt / 2000, late_share=load.loss / 100, late_s=late_s)
    with tempfile.TemporaryDirectory(prefix="numbers-") as folder:
        env = {"STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with running_lanes([word], rate=load.rate, env=env) as lanes:
            server = lanes[word].server
            async with Relay(server.address, faults) as relay:
                yield relay.address, server.process.pid


def _joined(points: Sequence[LoadPoint]) -> LoadPoint:
    """The round whose token cost the middle of all, with the shortest wait of all and the memory of the first."""
    by_cost = sorted(points, key=lambda point: point.cpu_s / point.tokens_s)
    return msgspec.structs.replace(
        by_cost[(len(points) - 1) // 2],
        first_ms=min(point.first_ms for point in points),
        memory_mib=points[0].memory_mib,
    )


def misses(known: Coefficients, load: Load, found: LoadPoint, what: Sequence[str]) -> list[str]:
    """The predictions that miss: bytes, CPU and memory by more than 15 %, the wait by more than 15 % and more than 5 ms."""
    given = {"users": load.users, "tokens": load.tokens, "rate": load.rate, "rtt": load.rtt, "loss": load.loss}
    said = predict(known, {**given, "cuts": 1.0, "picture": 1.0, "price": 1.0})
    pairs = {
        "down_kb": (found.answer_bytes / 1000, 0.0),
        "cores": (found.cpu_s, 0.0),
        "memory_mib": (found.memory_mib, 0.0),
        "first_ms": (found.first_ms, FELT_MS),
    }
    wrong = []
    for name in what:
        real, least = pairs[name]
        predicted = said[name]
        assert predicted is not None
        if abs(predicted - real) > max(SHARE * real, least):
            wrong.append(f"{found.word}, {load}: {name} {predicted:.3g}, measured {real:.3g}")
    return wrong
