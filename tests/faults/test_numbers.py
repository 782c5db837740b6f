"""``compare numbers`` predicts load points that it has not seen: bytes, CPU and memory within 15 %, the wait within that or 5 ms.

``make test`` looks at the bytes and the memory of one transport, which no other program on the machine can change.
``make test-faults`` looks at all five and at everything. There the loads are as large as one process of this machine serves
without being full: a server that is full lets its readers wait longer than any formula of one process says.
"""

from __future__ import annotations

import dataclasses
import os

import msgspec
import pytest

from compare.measuring.experiments.loads import RATE
from compare.measuring.experiments.run import FULL, QUICK
from compare.measuring.loads import LoadShape
from protocols import TRANSPORTS
from tests.predictions import Load, bearable, calibrated, fewer, measured, misses, side_by_side

# As in test_machine.py: set by ``make test-faults``.
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "0"))
LOADS = (Load(32, 30, 20.0, rtt=40.0), Load(100, 40, 20.0, rtt=80.0, loss=1.0), Load(24, 150, 50.0, rtt=20.0, loss=2.0))
TRIES = 3
ROUNDS, SECONDS = 4, 2.0
SAMPLE = dataclasses.replace(QUICK, load_s=1.0, load_points=(LoadShape(8, 4), LoadShape(8, 30), LoadShape(24, 30)))


async def test_a_sample_of_the_bytes_and_the_memory() -> None:
    known = await calibrated("ndjson", SAMPLE, 100.0)
    load = Load(16, 60, 100.0)
    assert not misses(known, load, await measured("ndjson", load, 1.0), ("down_kb", "memory_mib"))


@pytest.mark.skipif(not EXAMPLES, reason="minutes of measuring: make test-faults")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("word", TRANSPORTS)
async def test_three_loads_that_were_not_measured(word: str) -> None:
    most = max(shape.users for shape in FULL.load_points) * RATE
    share = await bearable(word, most, SECONDS)
    shapes = [msgspec.structs.replace(shape, users=fewer(shape.users, share)) for shape in FULL.load_points]
    loads = [dataclasses.replace(load, users=fewer(load.users, share)) for load in LOADS]
    print(f"{word}: the loads have {share:.0%} of their users")
    wrong: list[list[str]] = []
    for _ in range(TRIES):
        known, found = await side_by_side(word, shapes, loads, ROUNDS, SECONDS)
        everything = ("down_kb", "cores", "memory_mib", "first_ms")
        missed = [
            miss for load, point in zip(loads, found, strict=True) for miss in misses(known, load, point, everything)
        ]
        if not missed:
            return
        wrong.append(missed)
    assert not wrong, wrong
