"""What grpcio costs in a server: gRPC's saturated row beside the same servicer on uvicorn (the lane ``grpc-asgi``)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from compare.measuring.floors.plan import SideResult
from compare.measuring.statistics import ENOUGH_ROUNDS, median_with_range


def grpcio_layer(results: Iterable[SideResult]) -> list[str]:
    """Sentences that this run's own figures support; none where one of the two lanes was not measured.

    The cost is called grpcio's only when the two ranges do not overlap: every round of one lane cost less than every round of the
    other.
    """
    found = {
        (result.word, result.side): result.cpu_us for result in results if result.row == "saturated" and result.cpu_us
    }
    said = []
    for side in ("memory", "sqlite"):
        library, plain = found.get(("grpc", side)), found.get(("grpc-asgi", side))
        if not library or not plain:
            continue
        costs = median_with_range(library, 1), median_with_range(plain, 1)
        both = f"gRPC on {side}, CPU an event: {costs[0]} µs on grpcio, {costs[1]} µs with the same servicer on uvicorn"
        if min(len(library), len(plain)) < ENOUGH_ROUNDS:
            said.append(f"{both}. A claim needs {ENOUGH_ROUNDS} rounds of both: --rounds {ENOUGH_ROUNDS}.")
            continue
        if max(plain) >= min(library):
            said.append(
                f"{both}. The ranges overlap or uvicorn costs more: this run does not show that grpcio is the cost."
            )
            continue
        rest = statistics.median(library) - statistics.median(plain)
        share = rest / statistics.median(library)
        said.append(
            f"{both}. Wire, protobuf, chat and load are the same, so the rest, {rest:.1f} µs ({share:.0%}), is grpcio with its"
            " asyncio layer."
        )
        bare = found.get(("grpc", "floor"))
        if bare and len(bare) >= ENOUGH_ROUNDS and min(bare) > max(plain):
            said.append(
                f"A bare grpc.aio server without any chat costs {median_with_range(bare, 1)} µs,"
                " more than the whole chat on uvicorn."
            )
    return said
