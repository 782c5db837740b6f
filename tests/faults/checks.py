"""The table of the checks: the name of each, the settings of its servers, and how many of its runs go on at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults import chaos, crashes, history, keys, lines, outages, peers
from tests.faults.harness import PATIENCE_S, WORDS, Plan, Totals, World
from tests.faults.machines import Machines, SentinelMachines, SlowSentinelMachines

Function = Callable[[World, Plan], Awaitable[Totals]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check. ``share`` is the part of its full size that is enough for a sample; ``world``: where its servers run."""

    name: str
    function: Function
    share: float
    env: Mapping[str, str]
    parallel: int = 8
    world: type[World] = World


# Checks with the same settings can share their servers.
_PLAIN: dict[str, str] = {}
_SLOW = {"OFFLINE_TOKENS_PER_S": "200", "DRAIN_S": "2", "LEASE_S": "2"}
_IMPATIENT = {"HEARTBEAT_S": "0.3", "STALL_TIMEOUT_S": "3", "REQUEST_TIMEOUT_S": "3"}
_FLOODING = {"OFFLINE_TOKENS_PER_S": "0", "STALL_TIMEOUT_S": "2"}
_CHAOS = {"OFFLINE_TOKENS_PER_S": "300", "LEASE_S": "1", "DRAIN_S": "1", "DISCONNECT_GRACE_S": "10"}
# Machines: a lease that an outage outlasts, and the lease that a deployment has.
_OUTAGES = {"OFFLINE_TOKENS_PER_S": "150", "LEASE_S": "1", "HEARTBEAT_S": "0.5", "DRAIN_S": "0"}
_DEFAULT_LEASE = {"OFFLINE_TOKENS_PER_S": "100", "LEASE_S": "3", "DRAIN_S": "0"}
_HISTORY = {"OFFLINE_TOKENS_PER_S": "0", "LEASE_S": "30"}
_LEAVING = {"OFFLINE_TOKENS_PER_S": "300", "DISCONNECT_GRACE_S": "1"}

CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check("events", lines.cuts_at_events, 0.01, _PLAIN),
        Check("bytes", lines.cuts_at_bytes, 0.01, _PLAIN),
        Check("duplicates", keys.duplicates, 0.03, _PLAIN),
        Check("cancels", keys.cancels, 0.03, _PLAIN, 12),
        Check("kills", crashes.kills, 0.015, _PLAIN),
        Check("hand-over", lines.handovers, 0.05, _SLOW, 16),
        Check("sleepers", crashes.sleepers, 0.05, _SLOW),
        Check("restarts", crashes.restarts, 0.06, _SLOW),
        Check("faults", lines.relay_faults, 0.03, _IMPATIENT),
        Check("unfinished", peers.unfinished, 1.0, _IMPATIENT),
        Check("half-open", peers.half_open, 0.2, _IMPATIENT),
        Check("stalled", peers.stalled_readers, 0.2, _FLOODING),
        Check("leaving", peers.leavers, 0.1, _LEAVING),
        Check("history", history.big_history, 0.002, _HISTORY),
        Check("chaos", chaos.chaos, 0.1, _CHAOS),
        Check("outages", outages.outages, 0.1, _OUTAGES, world=Machines),
        Check("node-kills", outages.machine_kills, 0.025, _DEFAULT_LEASE, world=Machines),
        Check("failovers", outages.store_restarts, 0.06, _OUTAGES, world=SlowSentinelMachines),
        Check("replacements", outages.store_replacements, 0.05, _OUTAGES, world=SentinelMachines),
    )
}


async def run(
    check: Check,
    seed: int,
    share: float,
    *,
    words: tuple[str, ...] = WORDS,
    plant: str | None = None,
    patience_s: float = PATIENCE_S,
) -> Totals:
    """Run a check on new servers and a new store; ``plant`` names a bug that the servers get."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        async with check.world(Path(folder), check.env, words=words, plant=plant, patience_s=patience_s) as world:
            await world.start()
            return await check.function(world, Plan(seed, share, check.parallel, words))
