"""A small, seeded sample of every check of the faults; ``make test-faults`` runs the checks at their full size.

Half as many runs go on at a time as in the full size, because other tests run at the same time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.checks import CHECKS, Check
from tests.faults.harness import Plan, World

SEED = 20261121

# test_chaos_sample.py plays these: a file of tests is played by one worker.
CHAOS = ("chaos", "leaving", "history")
# By settings: the checks of a group share their servers.
GROUPS: dict[str, list[Check]] = {}
for _check in CHECKS.values():
    # tests/test_outages.py is the sample of the checks on one Valkey.
    if _check.world is World and _check.name not in CHAOS:
        GROUPS.setdefault(str(_check.env), []).append(_check)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checks", GROUPS.values(), ids=lambda checks: ", ".join(check.name for check in checks))
async def test_nothing_lost_nothing_twice(checks: list[Check], tmp_path: Path) -> None:
    await play(checks, tmp_path)


async def play(checks: list[Check], folder: Path) -> None:
    """Play checks with the same settings on one set of servers. None of them may find a fault."""
    async with World(folder, checks[0].env) as world:
        await world.start()
        for check in checks:
            totals = await check.function(world, Plan(SEED, check.share, check.parallel // 2))
            print(totals)
            assert not totals.bad, "\n".join([str(totals), *totals.examples[:8]])
            assert totals.runs
