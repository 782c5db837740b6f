"""Packets that are really lost, inside a run of all experiments: one loss, one connection or many, and a changed address.

Each pass has a line and servers of its own. The address changes in the first pass alone: the client's patience of seconds decides
what this costs, and no claim is made of it.
"""

from __future__ import annotations

from compare.lines.packets.namespaces import NoPacketLine, why_not
from compare.measuring.experiments.phases import left_out
from compare.measuring.experiments.run import Run
from compare.measuring.packets.run import PacketPlan, measure_part, packet_run
from compare.measuring.packets.verdicts import verdicts
from compare.measuring.packets.ways import WAYS

_LOSS = 0.02
_DELAY_S = 0.05
_STREAMS, _TOKENS, _RATE = 10, 30, 20.0


def packet_plan(rounds: int, seed: int) -> PacketPlan:
    """What a run of all experiments measures on the line."""
    return PacketPlan(
        ways=list(WAYS),
        losses=[0.0, _LOSS],
        delay_s=_DELAY_S,
        streams=_STREAMS,
        tokens=_TOKENS,
        rate=_RATE,
        rounds=rounds,
        move_rounds=1,
        seed=seed,
    )


async def packets(run: Run) -> None:
    """Ten streams on a line between two network namespaces; where this machine allows none, the reason is noted."""
    if reason := left_out(run, "packets --quick") or why_not():
        run.unmeasured["packets"] = reason
        return
    plan = packet_plan(run.scale.passes * run.scale.line_repeats, run.seed)
    numbers = [run.pass_number * run.scale.line_repeats + repeat for repeat in range(run.scale.line_repeats)]
    try:
        part = await measure_part(plan, numbers, range(0 if run.packet_parts else plan.move_rounds), run.say)
    except NoPacketLine as error:
        run.unmeasured["packets"] = str(error)
        return
    run.packet_parts.append(part)
    run.packets = packet_run(plan, run.packet_parts)
    run.describe(
        "packets",
        "Packets that are really lost",
        f"{_STREAMS} streams of {_TOKENS} tokens at {_RATE:g} a second between two network namespaces with the kernel's own TCP,"
        f" {_DELAY_S * 1000:g} ms each way, 0 and {_LOSS:.0%} of the server's packets dropped, {plan.rounds} rounds. A token is"
        " late when it needs more than 30 ms beyond the line's delay. The whole table: python -m compare packets.",
        (),
    )
    run.said["packets"] = verdicts(run.packets.results)
    run.unmeasured |= {f"packets, {WAYS[way].title}": why for way, why in run.packets.results.unmeasured.items()}
