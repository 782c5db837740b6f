"""Each planted bug is found by its check, and the check names the right fault. The same checks find nothing without the bug."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.faults.checks import CHECKS, run
from tests.faults.harness import Totals
from tests.faults.plants import PLANTS, Plant

SEED = 7
PATIENCE_S = 6.0
AT_A_TIME = 3


async def _find(plant: Plant) -> Totals:
    check = CHECKS[plant.check]
    return await run(check, SEED, plant.share, words=plant.words, plant=plant.name, patience_s=PATIENCE_S)


def _verdict(plant: Plant, found: Totals) -> str:
    if not found.bad:
        return f"{plant.name}: not found by {plant.check} in {found.runs} runs"
    if not any(re.search(plant.says, example) for example in found.examples):
        return f"{plant.name}: found, but as another fault: {found.examples[:3]}"
    return ""


@pytest.mark.timeout(400)
async def test_every_planted_bug_is_found() -> None:
    places = asyncio.Semaphore(AT_A_TIME)

    async def find(plant: Plant) -> str:
        async with places:
            return _verdict(plant, await _find(plant))

    verdicts = await asyncio.gather(*(find(plant) for plant in PLANTS.values()))
    assert not [verdict for verdict in verdicts if verdict]
