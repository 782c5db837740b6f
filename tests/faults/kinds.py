"""The table of the checks: what each is called, the settings it needs of its servers, and how many runs at a time it bears."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults import crashes, keys, lines, peers
from tests.faults.harness import PATIENCE_S, WORDS, Plan, Totals, World

Check = Callable[[World, Plan], Awaitable[Totals]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of check; ``share`` of it is enough for a sample."""

    name: str
    check: Check
    share: float
    env: Mapping[str, str]
    parallel: int = 8


# Kinds with the same settings can share their servers.
_PLAIN: dict[str, str] = {}
_SLOW = {"OFFLINE_TOKENS_PER_S": "200", "DRAIN_S": "2", "LEASE_S": "2"}
_IMPATIENT = {"HEARTBEAT_S": "0.3", "STALL_TIMEOUT_S": "3", "REQUEST_TIMEOUT_S": "3"}
_FLOODING = {"OFFLINE_TOKENS_PER_S": "0", "STALL_TIMEOUT_S": "2"}
_LEAVING = {"OFFLINE_TOKENS_PER_S": "300", "DISCONNECT_GRACE_S": "1"}

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("events", lines.cuts_at_events, 0.02, _PLAIN),
        Kind("bytes", lines.cuts_at_bytes, 0.015, _PLAIN),
        Kind("duplicates", keys.duplicates, 0.06, _PLAIN),
        Kind("cancels", keys.cancels, 0.05, _PLAIN, 12),
        Kind("kills", crashes.kills, 0.025, _PLAIN),
        Kind("hand-over", lines.handovers, 0.1, _SLOW, 16),
        Kind("sleepers", crashes.sleepers, 0.05, _SLOW),
        Kind("restarts", crashes.restarts, 0.1, _SLOW),
        Kind("faults", lines.relay_faults, 0.05, _IMPATIENT),
        Kind("unfinished", peers.unfinished, 1.0, _IMPATIENT),
        Kind("half-open", peers.half_open, 0.2, _IMPATIENT),
        Kind("stalled", peers.stalled_readers, 0.2, _FLOODING),
        Kind("leaving", peers.leavers, 0.1, _LEAVING),
    )
}


async def run(
    kind: Kind,
    seed: int,
    share: float,
    *,
    words: tuple[str, ...] = WORDS,
    plant: str | None = None,
    patience_s: float = PATIENCE_S,
) -> Totals:
    """Run a check on servers and a store of its own."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        async with World(Path(folder), kind.env, words=words, plant=plant, patience_s=patience_s) as world:
            await world.start()
            return await kind.check(world, Plan(seed, share, kind.parallel, words))
