"""20 µs of CPU time that one level of a factor really costs are booked on that level; equal servers differ in nothing."""

from __future__ import annotations

import os

import pytest

from compare.factorial.cells import CELLS, LEVELS
from compare.factorial.effects import effects
from compare.factorial.measure import FactorScale
from compare.factorial.view import sections
from tests.factor_plants import equal_servers, measured_rounds, wrongly_booked
from tests.parts import part

# As in test_machine.py: set by ``make test-faults``.
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "0"))
# A machine that is busy for some seconds spoils a round, and all of a measurement where it spoils most of them.
TRIES = 3
FULL = FactorScale(streams=8, tokens=2000, paced_streams=0, idle_streams=0)

pytestmark = [
    pytest.mark.skipif(not EXAMPLES, reason="minutes of measuring: make test-faults"),
    pytest.mark.timeout(1800),
]


async def test_a_cost_in_one_level_of_all_servers_is_booked_on_that_level_alone() -> None:
    part("connectrpc")
    part("zttp")
    wrong: list[list[str]] = []
    for _ in range(TRIES):
        rounds = await measured_rounds(CELLS, FULL)
        missed = [miss for level in LEVELS for miss in wrongly_booked(rounds, level)]
        if not missed:
            return
        wrong.append(missed)
    assert not wrong, wrong


async def test_equal_servers_in_every_cell_differ_in_nothing() -> None:
    measured = await equal_servers(CELLS)
    assert not [effect for effect in effects(measured) if effect.found]
    (said,) = sections(measured)[0].sentences
    assert said.startswith("server CPU: no difference found by ")
