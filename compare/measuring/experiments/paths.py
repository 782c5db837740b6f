"""The path between client and server: networks, a buffer, and real proxies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace

from compare.lines import proxies
from compare.lines.faults import NETWORKS, Faults, describe
from compare.measuring.experiments.run import Run, Scale
from compare.measuring.lanes import LANES, RunningLane
from compare.measuring.recording import TurnSpec, now_ms, record_turn
from compare.measuring.turns import TurnRecord
from shared.errors import ChatError, ConnectionLost

_ON_THE_PATH = ("ttft", "icl_p50", "icl_p99", "e2e", "delay_p50", "delay_p99", "coalescing")
_BUFFER = Faults(buffer_bytes=4096, buffer_s=0.25)


def measured_networks(scale: Scale) -> list[str]:
    """The networks that are measured: in a quick run only the two that lose packets."""
    return [name for name, faults in NETWORKS.items() if scale.paced_s or faults.late_share]


async def networks(run: Run) -> None:
    """Lines of known delay, bandwidth and share of late packets."""
    for profile, faults in NETWORKS.items():
        if profile not in measured_networks(run.scale):
            run.unmeasured[f"network {profile}"] = "not in --quick"
            continue
        await _through(run, f"network {profile}", f"On a {profile} line", describe(faults), faults)


async def buffers(run: Run) -> None:
    """A proxy that holds bytes back until it has enough of them."""
    about = "The relay holds back 4 KiB or 250 ms on the way to the client, as a proxy does that knows no streams"
    await _through(run, "behind a buffer", "Behind a buffering proxy", about, _BUFFER)


async def _through(run: Run, experiment: str, title: str, about: str, faults: Faults) -> None:
    _describe(run, experiment, title, f"{about}.")
    _set_faults(run, faults)
    try:
        await _side_by_side(run, experiment, run.lanes)
    finally:
        _set_faults(run, Faults())


def _set_faults(run: Run, faults: Faults) -> None:
    for lane in run.lanes.values():
        assert lane.relay is not None
        lane.relay.faults = faults


def _describe(run: Run, experiment: str, title: str, about: str) -> None:
    what = f"{about} {run.scale.tokens} tokens at {run.rate:g} a second, {run.rounds(run.scale.line_repeats)}, lanes side by side."
    run.describe(experiment, title, what, _ON_THE_PATH)


async def _side_by_side(run: Run, experiment: str, lanes: Mapping[str, RunningLane]) -> None:
    spec = TurnSpec(experiment=experiment, tokens=run.scale.tokens, rate=run.rate)
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for name, lane in lanes.items():
            try:
                clients[name] = (await stack.enter_async_context(run.clients(lane, 1)))[0]
            except (ChatError, ConnectionLost) as error:
                run.turns.append(_failed(experiment, name, run.round_of(0), str(error)))
        for repeat in range(run.scale.line_repeats):
            run.say(f"{experiment}, {repeat + 1} of {run.scale.line_repeats}")
            run.turns += await asyncio.gather(
                *(
                    record_turn(lanes[name], clients[name], spec, number=run.round_of(repeat))
                    for name in run.order(repeat)
                    if name in clients
                )
            )


def _failed(experiment: str, lane: str, number: int, why: str) -> TurnRecord:
    return TurnRecord(
        experiment=experiment, lane=lane, round=number, stream=0, asked_at=now_ms(), tokens=0, arrivals=[], error=why
    )


def measured_proxies(scale: Scale) -> list[str]:
    """The configurations of nginx that are measured: in a quick run only the two that differ most."""
    quick = ("compressing", "gzip and buffering")
    return [name for name in proxies.CONFIGURATIONS if scale.paced_s or name in quick]


async def real_proxies(run: Run) -> None:
    """nginx in each of its configurations."""
    if not proxies.available():
        for configuration in proxies.CONFIGURATIONS:
            run.unmeasured[f"nginx, {configuration}"] = "no nginx here (Debian: apt-get install nginx-light)"
        return
    for configuration, about in proxies.CONFIGURATIONS.items():
        experiment = f"nginx, {configuration}"
        if configuration not in measured_proxies(run.scale):
            run.unmeasured[experiment] = "not in --quick"
            continue
        _describe(run, experiment, f"Behind nginx, {configuration}", about)
        targets = {name: (run.lanes[name].server.address, LANES[name].word == "grpc") for name in run.names}
        try:
            async with proxies.nginx(configuration, targets) as addresses:
                lanes = {name: replace(run.lanes[name], address=addresses[name], relay=None) for name in run.names}
                await _side_by_side(run, experiment, lanes)
        except (RuntimeError, OSError) as error:
            run.unmeasured[experiment] = str(error)
