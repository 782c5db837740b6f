"""The goals of the rows: how much a server may cost, alone or compared with its floor, and how late events may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Ratio to the floor's CPU time, CPU time of one request or of one megabyte, memory of one stream, length of the whole burst.
Unit = Literal["ratio", "µs", "KiB", "s"]


@dataclass(frozen=True, slots=True)
class Goal:
    """The largest value that meets the goal, in ``unit``; and the largest delays in ms, where a row measures delays."""

    most: float
    unit: Unit = "ratio"
    p50_ms: float | None = None
    p99_ms: float | None = None


_HTTP = ("ndjson", "sse")
_PUSHED = (*_HTTP, "websocket")
_Goals = dict[tuple[str, str, str], Goal]


def _both(row: str, words: tuple[str, ...], memory: Goal, sqlite: Goal) -> _Goals:
    return {(row, word, side): goal for word in words for side, goal in (("memory", memory), ("sqlite", sqlite))}


# The goals by row, word and side.
GOALS: _Goals = {
    **_both("saturated", _HTTP, Goal(0.85), Goal(1.0)),
    **_both("saturated", ("websocket",), Goal(1.0), Goal(1.1)),
    **_both("saturated", ("grpc",), Goal(1.5), Goal(1.5)),
    **_both("paced", _PUSHED, Goal(1.9), Goal(2.5, p50_ms=1, p99_ms=5)),
    **_both("paced", ("grpc",), Goal(1.4), Goal(1.6, p50_ms=1, p99_ms=5)),
    **_both("readers", _PUSHED, Goal(0.8, p50_ms=6), Goal(0.8, p50_ms=6)),
    **_both("readers", ("grpc",), Goal(1.0, p50_ms=100), Goal(1.0, p50_ms=100)),
    **_both("POST /chat, 1 token", ("rest",), Goal(400, "µs"), Goal(480, "µs")),
    **_both("GET /turns/…", ("rest",), Goal(150, "µs"), Goal(130, "µs")),
    **_both("image", ("rest", *_PUSHED), Goal(1000, "µs"), Goal(1000, "µs")),
    **_both("image", ("grpc",), Goal(1500, "µs"), Goal(1500, "µs")),
    **_both("slow-model", ("rest", *_PUSHED, "grpc"), Goal(1.1, "s"), Goal(1.1, "s")),
    **{("idle", word, "memory"): Goal(17, "KiB") for word in _HTTP},
    ("idle", "websocket", "memory"): Goal(25, "KiB"),
    ("idle", "grpc", "memory"): Goal(40, "KiB"),
}
