"""The passes of a run: the experiments, with the rate that their servers are started with and their expected time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from compare.lines import proxies
from compare.lines.packets.namespaces import why_not
from compare.measuring.experiments.breaks import cancels, cut_tokens, cuts
from compare.measuring.experiments.cost import bytes_on_the_wire, connects, memory, throughput
from compare.measuring.experiments.grpc_libraries import grpc_libraries
from compare.measuring.experiments.latency import many_streams, one_stream, paced_load
from compare.measuring.experiments.loads import RATE, loads
from compare.measuring.experiments.packets import packet_plan, packets
from compare.measuring.experiments.paths import buffers, measured_networks, measured_proxies, networks, real_proxies
from compare.measuring.experiments.phases import THOUGHT_TOKENS, phases, thoughts
from compare.measuring.experiments.pictures import pictures, slow_reader
from compare.measuring.experiments.run import Run, Scale
from compare.measuring.experiments.stores import TOKENS, stores

# Starting and stopping a server for each lane.
START_S = 5.0
# An experiment that is left out at this scale only reports that it is left out.
_LEFT_OUT_S = 0.1
# To draw a picture with its previews, and to get it.
_PICTURE_S = {"100 kB": (0.1, 0.012), "1 MB": (0.4, 0.03), "4 MB": (1.5, 0.085)}


@dataclass(frozen=True, slots=True)
class Entry:
    """An experiment: the name that ``--experiments`` takes, its expected time in a pass on a quiet machine, and its function.

    ``first_pass_s`` is how much longer the first pass takes. ``once``: it has no rounds, and runs in the first pass alone.
    """

    name: str
    expected_s: float
    work: Callable[[Run], Awaitable[None]]
    first_pass_s: float = 0.0
    once: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Experiments that share servers, which are started with this rate (tokens a second)."""

    rate: float
    entries: list[Entry]


def schedule(scale: Scale, lanes: int) -> list[list[Group]]:
    """The passes of a run, each with its groups of experiments.

    All passes have the same experiments in the same order, so that a server has done the same before each of them.
    """
    groups = _groups(scale, lanes)
    return [
        [Group(group.rate, [entry for entry in group.entries if not (entry.once and number)]) for group in groups]
        for number in range(scale.passes)
    ]


def expected_s(passes: Sequence[Sequence[Group]]) -> float:
    """The expected time of these passes on a quiet machine."""
    first_s = sum(entry.first_pass_s for group in passes[0] for entry in group.entries) if passes else 0.0
    return first_s + sum(
        START_S + sum(entry.expected_s for entry in group.entries) for groups in passes for group in groups
    )


def _groups(scale: Scale, lanes: int) -> list[Group]:
    turn_s = scale.tokens / 50 + 0.05
    cut_s = cut_tokens(scale) / 50
    full, repeats = bool(scale.paced_s), scale.line_repeats
    proxies_s = len(measured_proxies(scale)) * (1 + repeats * (turn_s + 0.1))
    packets_here = full and why_not() is None
    line = packet_plan(repeats, 0)
    many_tokens = max(20, scale.tokens // 2)
    loads_s = 5 * (2.5 + sum(scale.load_s + 0.8 + point.tokens / RATE for point in scale.load_points))
    many = [
        Entry(
            f"{count} streams",
            scale.stream_repeats * lanes * (1.0 + count / 140 + many_tokens / 20),
            partial(many_streams, count=count),
        )
        for count in scale.streams
    ]

    def if_full(seconds: float) -> float:
        return seconds if full else _LEFT_OUT_S

    return [
        Group(
            50.0,
            [
                # First, because memory that an earlier experiment has freed would take up the streams.
                Entry("memory", lanes * (0.9 + scale.memory_streams / 130), memory),
                Entry("one stream", 1 + scale.turns * lanes * turn_s, one_stream),
                Entry("bytes", repeats * (turn_s + 0.3), bytes_on_the_wire),
                Entry("cuts", scale.cuts * (3 * cut_s + 0.8), cuts),
                Entry("networks", len(measured_networks(scale)) * (1 + repeats * (turn_s + 0.2)), networks),
                Entry("buffer", 1 + repeats * (turn_s + 0.4), buffers),
                Entry("proxies", proxies_s if proxies.available() else _LEFT_OUT_S, real_proxies),
                Entry("cancel", scale.cancels * 0.15, cancels),
                Entry("slow reader", if_full(repeats * lanes * 2.6), slow_reader),
                Entry("phases", if_full(START_S + 2 * (repeats + 1) * lanes * 0.1), phases),
                Entry("thoughts", if_full(1 + repeats * (0.5 + THOUGHT_TOKENS / 50)), thoughts),
                Entry("loads", loads_s, loads, once=True),
                Entry("stores", if_full(3 * (4 + lanes * (TOKENS / 50 + 0.3))), stores),
            ],
        ),
        # The line between two namespaces has servers of its own.
        Group(
            20.0,
            [
                Entry(
                    "packets",
                    line.start_s + line.rounds_s if packets_here else _LEFT_OUT_S,
                    packets,
                    first_pass_s=line.moves_s if packets_here else 0.0,
                ),
                *many,
                Entry("paced load", if_full(scale.stream_repeats * lanes * (scale.paced_s + 2.5)), paced_load),
            ],
        ),
        Group(
            0.0,
            [
                Entry("throughput", scale.throughput_repeats * lanes * (scale.throughput_s + 0.7), throughput),
                Entry(
                    "gRPC libraries",
                    if_full(3 + 2 * scale.throughput_repeats * (scale.throughput_s + 0.7)),
                    grpc_libraries,
                ),
                Entry("connect", scale.connects * lanes * 0.06, connects),
                Entry("pictures", lanes * sum(_picture_s(title, scale) for title in scale.pictures), pictures),
            ],
        ),
    ]


def _picture_s(title: str, scale: Scale) -> float:
    """Drawn once, then three times on its way in each repetition."""
    drawn_s, once_s = _PICTURE_S[title]
    return drawn_s + 3 * scale.picture_repeats * once_s
