"""Whether a cost is Python's or the chat's: the saturated row beside the same floor in Node."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from compare.measuring.floors.plan import NODE, STREAMING, SideResult
from compare.measuring.statistics import ENOUGH_ROUNDS


def language(results: Iterable[SideResult]) -> list[str]:
    """A sentence for each transport that was measured on all three sides, from this run's figures alone.

    One of two costs is called higher only when every round of it cost more than every round of the other.
    """
    found = {
        (result.word, result.side): result.cpu_us for result in results if result.row == "saturated" and result.cpu_us
    }
    said = []
    for word in STREAMING:
        python, node, ours = (found.get((word, side)) for side in ("floor", NODE, "memory"))
        if python and node and ours:
            costs = [f"{statistics.median(values):.1f} µs" for values in (node, python, ours)]
            said.append(
                f"{word}, CPU an event: floor in Node {costs[0]}, floor in Python {costs[1]}, server in Python {costs[2]}."
                f" {_than('The floor in Python', python, 'the floor in Node', node)}"
                f" {_than('The server', ours, 'the floor in Node', node)}"
            )
    return said


def _than(name: str, values: list[float], other: str, others: list[float]) -> str:
    ratio = statistics.median(values) / statistics.median(others)
    if min(len(values), len(others)) < ENOUGH_ROUNDS:
        return f"{name} against {other}: × {ratio:.2f}; a claim needs {ENOUGH_ROUNDS} rounds of both: --rounds {ENOUGH_ROUNDS}."
    if min(values) > max(others) or max(values) < min(others):
        return f"{name} costs {ratio:.2f} times what {other} costs."
    return f"{name} against {other}: no difference found (× {ratio:.2f}, the rounds overlap)."
