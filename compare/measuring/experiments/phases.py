"""From the wish to ask to the first token, phase by phase, on a new connection and on an open one, without and with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util

from compare.measuring.experiments.run import Run
from compare.measuring.ladder import NOT_TOLD, PHASES
from compare.measuring.lanes import RunningLane, lane_title, running_lanes
from compare.measuring.phases import cold_and_warm
from compare.measuring.recording import TurnSpec, record_turn

EXPERIMENTS = ("phases, cold", "phases, cold, TLS", "phases, warm")
_TOKENS = 2
_ENCRYPTED = ("https://", "grpcs://")
_THOUGHT_S = 0.3
THOUGHT_TOKENS = 20
_TITLES = {
    "phases, cold": "To the first token, on a new connection",
    "phases, cold, TLS": "To the first token, on a new connection with TLS",
    "phases, warm": "To the first token, on an open connection",
}


def left_out(run: Run, command: str) -> str:
    """Why an experiment that measures plain lines, or both kinds by itself, is not in this run; empty where it is."""
    if not run.scale.paced_s:
        return f"not in --quick; python -m compare {command}"
    if any(lane.server.url.startswith(_ENCRYPTED) for lane in run.lanes.values()):
        return "only in the run without TLS"
    return ""


async def phases(run: Run) -> None:
    """The ladder of each lane; lanes one after the other."""
    if reason := left_out(run, "phases"):
        run.unmeasured["phases"] = reason
        return
    await _measure(run, {name: run.direct(name) for name in run.names}, tls=False)
    if importlib.util.find_spec("trustme") is None:
        run.unmeasured["phases, cold, TLS"] = "needs trustme, which makes the certificate"
        return
    async with running_lanes(run.names, rate=run.rate, tls=True) as lanes:
        await _measure(run, lanes, tls=True)


async def thoughts(run: Run) -> None:
    """A model that reports thoughts before its first chunk: two moments that are both called the first token."""
    if reason := left_out(run, "phases"):
        run.unmeasured["thoughts"] = reason
        return
    repeats = run.scale.line_repeats
    run.describe(
        "thoughts",
        "A model that thinks",
        f"A turn of {THOUGHT_TOKENS} tokens whose model thinks for {_THOUGHT_S:g} s first, {run.rounds(repeats)}, lanes side by"
        " side, no relay."
        " TTFT is the first chunk; a reader who counts thoughts as output has the other number. REST tells no thought.",
        ("first_output", "ttft", "tokens_per_chunk"),
    )
    spec = TurnSpec(
        experiment="thoughts",
        message=f"/think {_THOUGHT_S:g} Tell me how this answer reached me.",
        tokens=THOUGHT_TOKENS,
        rate=run.rate,
    )
    async with contextlib.AsyncExitStack() as stack:
        lanes = {name: run.direct(name) for name in run.names}
        clients = {name: (await stack.enter_async_context(run.clients(lane, 1)))[0] for name, lane in lanes.items()}
        for repeat in range(repeats):
            run.say(f"{repeat + 1} of {repeats}")
            number = run.round_of(repeat)
            run.turns += await asyncio.gather(
                *(record_turn(lanes[name], clients[name], spec, number=number) for name in run.order(repeat))
            )


async def _measure(run: Run, lanes: dict[str, RunningLane], *, tls: bool) -> None:
    repeats = run.scale.line_repeats
    for experiment in (name for name in EXPERIMENTS if ("TLS" in name) == tls):
        told = " ".join(f"{lane_title(lane)}: {why}." for lane, why in NOT_TOLD.items() if lane in run.names)
        run.describe(
            experiment,
            _TITLES[experiment],
            f"A turn of {_TOKENS} tokens at {run.rate:g} a second, {run.rounds(repeats)}, lane after lane, no relay. Each rung is"
            f" the time since the wish to ask. {told}",
            tuple(f"phase_{name}" for name in PHASES),
        )
    spec = TurnSpec(experiment="phases", tokens=_TOKENS, rate=run.rate)
    # One turn that no figure counts: the first of a process imports modules.
    for repeat in range(-1, repeats):
        for name in run.order(max(0, repeat)):
            run.say(f"{name}{', TLS' * tls}")
            number = run.round_of(repeat)
            for kind, marks in (await cold_and_warm(lanes[name], spec, number, tls=tls)).items():
                experiment = f"phases, {kind}{', TLS' * tls}"
                if repeat >= 0 and experiment in EXPERIMENTS:
                    for phase, value in marks.at.items():
                        run.sample(experiment, name, number, f"phase_{phase}", value)
