"""The list of the experiments, with the rate that their servers are started with and their expected time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from compare.lines import proxies
from compare.lines.packets.namespaces import why_not
from compare.measuring.experiments.breaks import cancels, cuts
from compare.measuring.experiments.cost import bytes_on_the_wire, connects, memory, throughput
from compare.measuring.experiments.grpc_libraries import grpc_libraries
from compare.measuring.experiments.latency import many_streams, one_stream, paced_load
from compare.measuring.experiments.loads import RATE, loads
from compare.measuring.experiments.packets import packet_plan, packets
from compare.measuring.experiments.paths import buffers, measured_networks, measured_proxies, networks, real_proxies
from compare.measuring.experiments.phases import THOUGHT_TOKENS, phases, thoughts
from compare.measuring.experiments.pictures import pictures, slow_reader
from compare.measuring.experiments.run import Run, Scale
from compare.measuring.experiments.stores import MIN_TOKENS, stores

# An experiment that is left out at this scale only reports that it is left out.
_LEFT_OUT_S = 0.1
_PICTURE_S = {"100 kB": 0.1, "1 MB": 0.3, "4 MB": 0.8, "16 MB": 2.8}


@dataclass(frozen=True, slots=True)
class Entry:
    """An experiment: the name that ``--experiments`` takes, its expected time on a quiet machine, and its function."""

    name: str
    expected_s: float
    work: Callable[[Run], Awaitable[None]]


def schedule(scale: Scale, lanes: int) -> list[tuple[float, list[Entry]]]:
    """Groups of experiments, each with the rate (tokens a second) that its servers are started with."""
    turn_s = scale.tokens / 50 + 0.05
    cut_s = max(30, scale.tokens // 2) / 50
    line_rounds = max(6, scale.line_rounds)
    proxies_s = len(measured_proxies(scale)) * (1 + line_rounds * (turn_s + 0.1))
    slow_reader_s = line_rounds * lanes * turn_s if scale.paced_s else _LEFT_OUT_S
    stores_s = 3 * (5 + lanes * (max(MIN_TOKENS, scale.tokens) / 50 + 0.3)) if scale.paced_s else _LEFT_OUT_S
    paced_s = scale.stream_rounds * lanes * (scale.paced_s + 2.5) if scale.paced_s else _LEFT_OUT_S
    packets_s = packet_plan(scale.line_rounds, 0).expected_s if scale.paced_s and why_not() is None else _LEFT_OUT_S
    grpc_s = 5 + 2 * scale.throughput_rounds * (scale.throughput_s + 0.7) if scale.paced_s else _LEFT_OUT_S
    many_tokens = max(20, scale.tokens // 2)
    loads_s = 5 * (2.5 + sum(scale.load_s + 0.8 + point.tokens / RATE for point in scale.load_points))
    many = [
        Entry(
            f"{count} streams",
            scale.stream_rounds * lanes * (1.1 + count / 340 + many_tokens / 20),
            partial(many_streams, count=count),
        )
        for count in scale.streams
    ]
    return [
        (
            50.0,
            [
                Entry("one stream", 2 + scale.rounds * lanes * turn_s, one_stream),
                Entry("bytes", line_rounds * (turn_s + 0.3), bytes_on_the_wire),
                Entry("cuts", scale.cuts * (3 * cut_s + 0.8), cuts),
                Entry("networks", len(measured_networks(scale)) * (1 + line_rounds * (turn_s + 0.2)), networks),
                Entry("buffer", 1 + line_rounds * (turn_s + 0.4), buffers),
                Entry("proxies", proxies_s if proxies.available() else _LEFT_OUT_S, real_proxies),
                Entry("cancel", scale.cancels * 0.15, cancels),
                Entry("slow reader", slow_reader_s, slow_reader),
                Entry("phases", 6 + 14 * lanes * 0.2 if scale.paced_s else _LEFT_OUT_S, phases),
                Entry(
                    "thoughts",
                    2 + line_rounds * (0.5 + THOUGHT_TOKENS / 50) if scale.paced_s else _LEFT_OUT_S,
                    thoughts,
                ),
                Entry("memory", lanes * (1.8 + scale.memory_streams / 60), memory),
                Entry("loads", loads_s, loads),
                Entry("stores", stores_s, stores),
            ],
        ),
        # The line between two namespaces has servers of its own.
        (20.0, [Entry("packets", packets_s, packets), *many, Entry("paced load", paced_s, paced_load)]),
        (
            0.0,
            [
                Entry("throughput", scale.throughput_rounds * lanes * (scale.throughput_s + 0.7), throughput),
                Entry("gRPC libraries", grpc_s, grpc_libraries),
                Entry("connect", scale.connects * lanes * 0.06, connects),
                Entry("pictures", lanes * sum(_PICTURE_S[title] for title in scale.pictures), pictures),
            ],
        ),
    ]
