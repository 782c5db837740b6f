"""The goals of the rows: how much a server may cost, alone or compared with its floor, how late events may be, how long it starts.

A ratio to the floor can be judged on any host. A goal in µs, ms or seconds belongs to the host on which the goals were set.
There the servers of the commit ``GOALS_COMMIT`` needed what ``Goal.before`` says. So such a goal is also a share of that
commit's value, and that share can be judged on any host on which both are measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GOALS_COMMIT = "e38f43e"
# When the servers of GOALS_COMMIT were measured on the host of the goals.
GOALS_DATE = "2026-11-28"
# What the floor needed on that host: CPU µs of a request, by row and lane.
FLOOR_THERE_US = {
    ("POST /chat, 1 token", "rest"): 36.0,
    ("GET /turns/…", "rest"): 36.0,
}

# ``ratio``: the CPU time over the floor's. The others are fields of SideResult.
Figure = Literal["ratio", "cpu_us", "rss_kib", "took_s", "delay_p50_ms", "delay_p99_ms", "ttft_p50_ms"]
# The names of the figures in a table, and the units of those that have one.
FIGURE_WORDS: dict[str, str] = {
    "ratio": "to the floor",
    "cpu_us": "CPU µs",
    "rss_kib": "KiB a stream",
    "took_s": "seconds",
    "delay_p50_ms": "delay p50 ms",
    "delay_p99_ms": "delay p99 ms",
    "ttft_p50_ms": "TTFT p50 ms",
}
# The figures that a faster host makes smaller.
HOST_UNITS: dict[str, str] = {
    "cpu_us": "µs",
    "took_s": "s",
    "delay_p50_ms": "ms",
    "delay_p99_ms": "ms",
    "ttft_p50_ms": "ms",
}


@dataclass(frozen=True, slots=True)
class Goal:
    """The largest value of one figure that meets the goal.

    ``before``: the lowest and the highest value that the servers of GOALS_COMMIT had on the host of the goals; None where no
    value is known. The range spans the runs, and where lanes share a goal, also the lanes.
    """

    most: float
    figure: Figure = "ratio"
    before: tuple[float, float] | None = None

    @property
    def share(self) -> tuple[float, float] | None:
        """The goal as a share of the highest and of the lowest value before, at most 1; None where no value is known."""
        if self.before is None:
            return None
        lowest, highest = self.before
        return min(1.0, self.most / highest), min(1.0, self.most / lowest)


_HTTP = ("ndjson", "sse")
_PUSHED = (*_HTTP, "websocket")
_Goals = dict[tuple[str, str, str], tuple[Goal, ...]]


def _both(row: str, words: tuple[str, ...], memory: tuple[Goal, ...], sqlite: tuple[Goal, ...]) -> _Goals:
    return {(row, word, side): goals for word in words for side, goals in (("memory", memory), ("sqlite", sqlite))}


def _same(row: str, words: tuple[str, ...], *goals: Goal) -> _Goals:
    return _both(row, words, goals, goals)


_ON_TIME = (Goal(1, "delay_p50_ms", (0.7, 5.8)), Goal(5, "delay_p99_ms", (8, 30)), Goal(2, "ttft_p50_ms"))
_STARTS = (Goal(0.8, "took_s", (1.3, 1.3)),)
# The goals by row, word and side.
GOALS: _Goals = {
    **_both("saturated", _HTTP, (Goal(0.85),), (Goal(1.0),)),
    **_both("saturated", ("websocket",), (Goal(1.0),), (Goal(1.1),)),
    **_same("saturated", ("grpc",), Goal(1.5)),
    **_both("paced", _PUSHED, (Goal(1.9),), (Goal(2.5), *_ON_TIME)),
    **_both("paced", ("grpc",), (Goal(1.4),), (Goal(1.6), *_ON_TIME)),
    **_same("readers", _PUSHED, Goal(0.8), Goal(6, "delay_p50_ms", (10, 18))),
    **_same("readers", ("grpc",), Goal(1.0), Goal(100, "delay_p50_ms", (1200, 1200))),
    **_both("POST /chat, 1 token", ("rest",), (Goal(400, "cpu_us", (523, 607)),), (Goal(480, "cpu_us", (537, 690)),)),
    **_same("POST /chat, a token more", ("rest",), Goal(3.5, "cpu_us", (4, 5.5))),
    **_both("GET /turns/…", ("rest",), (Goal(150, "cpu_us", (215, 215)),), (Goal(130, "cpu_us", (190, 190)),)),
    **_same("image", _HTTP, Goal(1000, "cpu_us", (3800, 3800))),
    **_same("image", ("rest", "websocket"), Goal(1000, "cpu_us")),
    **_same("image", ("grpc",), Goal(1500, "cpu_us")),
    **_same("slow-model", ("rest", *_PUSHED, "grpc"), Goal(1.1, "took_s")),
    **_same("start", ("rest", *_PUSHED, "grpc", "serve-all"), *_STARTS),
    **{("idle", word, "memory"): (Goal(17, "rss_kib"),) for word in _HTTP},
    ("idle", "websocket", "memory"): (Goal(25, "rss_kib"),),
    ("idle", "grpc", "memory"): (Goal(40, "rss_kib"),),
}
