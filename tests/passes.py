"""A small run of ``compare run`` in two passes, and the passes that its figures come from."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from compare import run
from compare.measuring.experiments.run import FULL, Scale
from compare.measuring.lanes import RunningLane, running_lanes
from compare.measuring.loads import LoadShape
from compare.showing.results import Results, read

PASSES = 2
SMALL = dataclasses.replace(
    FULL,
    passes=PASSES,
    tokens=10,
    streams=(4,),
    paced_s=0.5,
    throughput_s=0.2,
    pictures=("100 kB",),
    memory_streams=10,
    load_s=1.0,
    load_points=(LoadShape(4, 4), LoadShape(4, 8), LoadShape(8, 8)),
)


@dataclasses.dataclass(frozen=True, slots=True)
class SmallRun:
    """What a small run has written, and the process ids of the servers that it started for its lanes, group by group."""

    results: Results
    rounds: Mapping[tuple[str, str, str], set[int]]
    pids: Sequence[set[int]]


def small_run(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str, scale: Scale = SMALL) -> SmallRun:
    """Run ``compare run`` at a small scale. ``rounds``: the numbers of the rounds by experiment, lane and metric or ``turns``."""
    pids: list[set[int]] = []

    @asynccontextmanager
    async def noted(names: Sequence[str], **more: Any) -> AsyncIterator[dict[str, RunningLane]]:
        async with running_lanes(names, **more) as lanes:
            pids.append({lane.pid for lane in lanes.values()})
            yield lanes

    monkeypatch.setattr(run, "FULL", scale)
    monkeypatch.setattr(run, "running_lanes", noted)
    assert run.main(["--out", str(folder), *options]) == 0
    rounds: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for line in (folder / "arrivals.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        rounds[record["experiment"], record["lane"], record.get("metric", "turns")].add(record["round"])
    return SmallRun(read(folder), rounds, pids)
