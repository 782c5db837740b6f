"""gRPC's wire with two server libraries: the same servicer and messages in grpcio's asyncio layer, and on uvicorn by connectrpc."""

from __future__ import annotations

import asyncio
import time

from compare.measuring.experiments.cost import ask_until
from compare.measuring.experiments.phases import left_out
from compare.measuring.experiments.run import CpuTimes, Run
from compare.measuring.lanes import ALL_LANES, RunningLane, running_lanes
from compare.measuring.statistics import differ, figure
from compare.measuring.verdicts import number

LIBRARIES = {"grpc": "grpcio_us", "grpc-asgi": "asgi_us"}
CLIENTS = 16
_EXPERIMENT = "gRPC libraries"


async def grpc_libraries(run: Run) -> None:
    """Server CPU an event at full speed with both libraries, in turns."""
    absent = "" if "grpc" in run.names else "gRPC is not in this run"
    if reason := absent or left_out(run, "run"):
        run.unmeasured[_EXPERIMENT] = reason
        return
    if missing := ALL_LANES["grpc-asgi"].missing:
        run.unmeasured[_EXPERIMENT] = f'needs {", ".join(missing)}: pip install -e ".[web,http2]"'
        return
    repeats = run.scale.throughput_repeats
    run.describe(
        _EXPERIMENT,
        "gRPC with two server libraries",
        f"{CLIENTS} grpcio clients ask again and again, the model does not wait, {run.scale.throughput_s:g} s,"
        f" {run.rounds(repeats)}, the two servers in turns. Servicer, messages, HTTP/2 and clients are the same; the library"
        " on the server differs.",
        tuple(LIBRARIES.values()),
    )
    async with running_lanes(list(LIBRARIES), rate=run.rate) as lanes:
        for repeat in range(repeats):
            for name in list(LIBRARIES)[:: 1 if run.round_of(repeat) % 2 else -1]:
                run.say(f"{name}, {repeat + 1} of {repeats}")
                cost_us = await _cost_us(run, lanes[name])
                run.sample(_EXPERIMENT, "grpc", run.round_of(repeat), LIBRARIES[name], cost_us)
    values = {
        metric: [sample.value for sample in run.samples if (sample.experiment, sample.metric) == (_EXPERIMENT, metric)]
        for metric in LIBRARIES.values()
    }
    run.said[_EXPERIMENT] = _verdict(*values.values())


async def _cost_us(run: Run, lane: RunningLane) -> float | None:
    """The server's CPU time an event; None where it is not known."""
    async with run.clients(lane, CLIENTS) as clients:
        before = CpuTimes.of(lane)
        until = time.monotonic() + run.scale.throughput_s
        counts = await asyncio.gather(*(ask_until(client, until) for client in clients))
        after = CpuTimes.of(lane)
    events = sum(some for _, some in counts)
    if before.server_s is None or after.server_s is None or not events:
        return None
    return (after.server_s - before.server_s) * 1e6 / events


def _verdict(with_grpcio: list[float], on_uvicorn: list[float]) -> list[str]:
    a, b = figure(with_grpcio), figure(on_uvicorn)
    if a is None or b is None:
        return []
    both = (
        f"gRPC costs the server {number(a.median)} µs an event in grpcio's asyncio layer, {number(b.median)} on uvicorn by"
        " connectrpc"
    )
    if not differ(a, b):
        return [f"{both}: no difference found."]
    return [f"{both}. The wire is the same, so the difference belongs to the library, not to gRPC."]
