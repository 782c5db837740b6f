"""What all experiments of one run share: how much is measured, the lanes, and what has been measured so far."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec

from compare.measuring.lanes import RunningLane, shuffled
from compare.measuring.loads import LoadPoint, LoadShape
from compare.measuring.packets.run import PacketPart, PacketRun
from compare.measuring.process_cost import cpu_s
from compare.measuring.recording import warm_up
from compare.measuring.statistics import ENOUGH_ROUNDS
from compare.measuring.turns import Sample, TurnRecord
from shared.client.protocol import ChatClient
from shared.client.text import plural

LATENCY = ("ttfe", "ttft", "icl_p50", "icl_p99", "jitter", "tpot", "e2e", "delay_p50", "delay_p99", "coalescing")
COST = ("server_us", "client_us")
# An experiment repeats less often in a pass.
_MOST_REPEATS = 100
PICTURES = {"100 kB": "272x272", "1 MB": "928x928", "4 MB": "1936x1936"}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. A pass goes through every experiment, on servers that are started for this pass.

    ``turns``, ``cuts``, ``connects`` and what ends in ``_repeats`` count what an experiment repeats in one pass. ``paced_s`` 0
    leaves out the experiments that need long.
    """

    passes: int
    turns: int
    tokens: int
    streams: tuple[int, ...]
    stream_repeats: int
    paced_s: float
    throughput_s: float
    throughput_repeats: int
    connects: int
    pictures: tuple[str, ...]
    picture_repeats: int
    cancels: int
    cuts: int
    line_repeats: int
    memory_streams: int
    load_s: float
    load_points: tuple[LoadShape, ...]


# Two starts of the same server differ, and so do two minutes of the same machine. Six passes put both differences into every
# interval, because each of the six rounds of a figure comes from a pass of its own.
FULL = Scale(
    passes=ENOUGH_ROUNDS,
    turns=1,
    tokens=100,
    streams=(16, 64, 256),
    stream_repeats=1,
    paced_s=3.0,
    throughput_s=2.0,
    throughput_repeats=1,
    connects=3,
    pictures=tuple(PICTURES),
    picture_repeats=2,
    cancels=3,
    cuts=3,
    line_repeats=1,
    memory_streams=200,
    load_s=5.0,
    load_points=(LoadShape(16, 4), LoadShape(16, 60), LoadShape(64, 60), LoadShape(160, 60)),
)
QUICK = Scale(
    passes=1,
    turns=6,
    tokens=20,
    streams=(64,),
    stream_repeats=1,
    paced_s=0.0,
    throughput_s=1.0,
    throughput_repeats=1,
    connects=6,
    pictures=("100 kB", "1 MB"),
    picture_repeats=6,
    cancels=6,
    cuts=6,
    line_repeats=6,
    memory_streams=20,
    load_s=1.0,
    load_points=(LoadShape(16, 4), LoadShape(16, 30), LoadShape(96, 30)),
)


class Description(msgspec.Struct, frozen=True):
    """What an experiment is: its title, what is done, and the metrics it is about."""

    title: str
    what: str
    metrics: tuple[str, ...]


@dataclass(slots=True)
class Run:
    """The state of one run. ``rate`` is the model's rate in tokens a second, ``say`` shows progress.

    ``pass_number`` counts the passes from 0. ``said`` has the sentences of experiments that judge themselves, by experiment.
    ``packets`` is what was measured on the line that loses packets, ``packet_parts`` what each pass has measured of it.

    Some experiments run the lanes one after the other, because processor time decides there; the others run them side by side.
    The order of the lanes is shuffled in each repetition. ``tls``: the lines are encrypted.
    """

    scale: Scale
    names: list[str]
    seed: int
    rate: float
    say: Callable[[str], None]
    lanes: dict[str, RunningLane] = field(default_factory=dict)
    turns: list[TurnRecord] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    loads: list[LoadPoint] = field(default_factory=list)
    connections: dict[str, int] = field(default_factory=dict)
    descriptions: dict[str, Description] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)
    packets: PacketRun | None = None
    packet_parts: list[PacketPart] = field(default_factory=list)
    tls: bool = False
    pass_number: int = 0

    def describe(self, experiment: str, title: str, what: str, metrics: Sequence[str] = LATENCY) -> None:
        """Note that an experiment begins, and what it is."""
        self.descriptions.setdefault(experiment, Description(title, what, tuple(metrics)))

    def sample(self, experiment: str, lane: str, number: int, metric: str, value: float | None) -> None:
        """Note a value of round ``number``; None is not noted."""
        if value is not None:
            self.samples.append(Sample(experiment=experiment, lane=lane, round=number, metric=metric, value=value))

    def sample_cpu(self, experiment: str, lane: RunningLane, number: int, before: CpuTimes, events: int) -> None:
        """Note the CPU time of server and client for each event since ``before``."""
        now = CpuTimes.of(lane)
        if not events:
            return
        if before.server_s is not None and now.server_s is not None:
            cost_us = (now.server_s - before.server_s) * 1e6 / events
            self.sample(experiment, lane.lane.name, number, "server_us", cost_us)
        cost_us = (now.client_s - before.client_s) * 1e6 / events
        self.sample(experiment, lane.lane.name, number, "client_us", cost_us)

    def round_of(self, repeat: int) -> int:
        """The round in which a repetition counts, from 0.

        What is repeated in one pass shares its servers and its minutes, so it is one round. A run of one pass has nothing else
        than its repetitions: each is a round there.
        """
        return repeat if self.scale.passes == 1 else self.pass_number

    def rounds(self, repeats: int) -> str:
        """How often an experiment measures, in words: ``6 rounds``, or ``6 rounds of 3`` where a pass repeats it."""
        if self.scale.passes == 1:
            return plural(repeats, "round")
        return plural(self.scale.passes, "round") + (f" of {repeats}" if repeats > 1 else "")

    def direct(self, name: str) -> RunningLane:
        """A lane without its relay."""
        lane = self.lanes[name]
        return replace(lane, address=lane.direct_address, relay=None)

    def order(self, repeat: int) -> list[str]:
        """The order of the lanes in a repetition, another one in each pass."""
        return shuffled(self.names, self.seed, _MOST_REPEATS * self.pass_number + repeat)

    @asynccontextmanager
    async def clients(self, lane: RunningLane, count: int) -> AsyncIterator[list[ChatClient]]:
        """Clients of a lane, each after a warm-up."""
        async with contextlib.AsyncExitStack() as stack:
            made = [await stack.enter_async_context(lane.client()) for _ in range(count)]
            await asyncio.gather(*(warm_up(lane, client) for client in made))
            yield made


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU time so far, in seconds: of a lane's server (None where unknown), and of this process, where the clients run."""

    server_s: float | None
    client_s: float

    @classmethod
    def of(cls, lane: RunningLane) -> CpuTimes:
        """The times now."""
        return cls(cpu_s(lane.pid), time.process_time())
