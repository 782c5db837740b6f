"""Load points that no calibration has seen: what ``compare numbers`` says of them, and what a measurement finds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.experiments.loads import RATE, loads
from compare.measuring.experiments.run import Run, Scale
from compare.measuring.goodput import Objectives
from compare.measuring.lanes import running_lanes
from compare.measuring.loads import LoadPoint, measure_load
from compare.showing.numbers import RETRANSMISSION_MS, Coefficients, coefficients, predict
from compare.showing.results import Results

SHARE, FELT_MS = 0.15, 5.0


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
        loads=run.loads,
        connections=run.connections,
    )
    return coefficients(results)[word]


async def measured(word: str, load: Load, seconds: float) -> LoadPoint:
    """The same load for real, through a relay that delays and loses packets."""
    late_s = (RETRANSMISSION_MS + load.rtt) / 1000
    faults = Faults(delay_s=load.rtt / 2000, late_share=load.loss / 100, late_s=late_s)
    with tempfile.TemporaryDirectory(prefix="numbers-") as folder:
        env = {"STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with running_lanes([word], rate=load.rate, env=env) as lanes:
            server = lanes[word].server
            async with Relay(server.address, faults) as relay:
                return await measure_load(
                    word,
                    relay.address,
                    server.process.pid,
                    users=load.users,
                    tokens=load.tokens,
                    rate=load.rate,
                    seconds=seconds,
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
