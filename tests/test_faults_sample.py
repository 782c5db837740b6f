"""A small, seeded sample of every check of the faults; ``make test-faults`` runs them at their full size.

Half as many at a time as there: other tests run beside it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import Plan, World
from tests.faults.kinds import KINDS, Kind

SEED = 20261121

_GROUPS: dict[str, list[Kind]] = {}
for _kind in KINDS.values():
    _GROUPS.setdefault(str(_kind.env), []).append(_kind)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kinds", _GROUPS.values(), ids=lambda kinds: ", ".join(kind.name for kind in kinds))
async def test_nothing_lost_nothing_twice(kinds: list[Kind], tmp_path: Path) -> None:
    async with World(tmp_path, kinds[0].env) as world:
        await world.start()
        for kind in kinds:
            totals = await kind.check(world, Plan(SEED, kind.share, kind.parallel // 2))
            print(totals)
            assert not totals.bad, "\n".join([str(totals), *totals.examples[:8]])
            assert totals.runs
