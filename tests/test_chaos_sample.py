"""A minute of chaos, clients that leave, and a store with a long history: seeded samples of these checks of the faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.checks import CHECKS
from tests.test_faults_sample import CHAOS, play


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CHAOS)
async def test_nothing_lost_nothing_twice(name: str, tmp_path: Path) -> None:
    await play([CHECKS[name]], tmp_path)
