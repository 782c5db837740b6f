"""The numbers of ``/stats``, for each transport, measured in this client and not at the server.

Times are in milliseconds on this machine's clock. First token: from the request to the first ``chunk``, on plain REST to the whole
reply. Gap: from one ``chunk`` to the next, never across a lost connection or another transport. Percentiles are nearest-rank.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from shared.client import text
from shared.client.protocol import ClientCounts


def _samples() -> array[float]:
    return array("d")


@dataclass(slots=True)
class ClientStats:
    """One transport's numbers. ``counts``: of the client in use; ``before``: of its predecessors, which are closed."""

    word: str
    counts: ClientCounts
    before: ClientCounts = field(default_factory=ClientCounts)
    since: float = field(default_factory=time.monotonic)
    sent: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    chunks: int = 0
    streamed: int = 0
    sessions_created: int = 0
    first_ms: array[float] = field(default_factory=_samples)
    gaps_ms: array[float] = field(default_factory=_samples)
    response_ms: array[float] = field(default_factory=_samples)

    def renew(self, counts: ClientCounts) -> None:
        """Use the counts of a new client, and add those of its predecessor to ``before``."""
        if counts is not self.counts:
            for name in ClientCounts.__slots__:
                setattr(self.before, name, getattr(self.before, name) + getattr(self.counts, name))
            self.counts = counts

    def total(self, name: str) -> int:
        """One of the counts of ClientCounts, over all clients so far."""
        return int(getattr(self.counts, name) + getattr(self.before, name))


def percentile(samples: Iterable[float], share: float) -> float:
    """The nearest-rank percentile of at least one sample: the smallest sample that ``share`` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def rows(stats_by_word: Sequence[ClientStats]) -> Iterator[tuple[str, list[str]]]:
    """The rows of the table: a name, and its value for each transport."""
    for name, value in _ROWS:
        yield name, [value(stats) for stats in stats_by_word]


def _two(samples: array[float]) -> str:
    if not samples:
        return "–"
    return f"{text.duration(percentile(samples, 0.5))} / {text.duration(percentile(samples, 0.99))}"


def _mean(samples: array[float]) -> str:
    return text.duration(sum(samples) / len(samples)) if samples else "–"


_ROWS: tuple[tuple[str, Callable[[ClientStats], str]], ...] = (
    ("in use for", lambda stats: text.duration((time.monotonic() - stats.since) * 1000)),
    ("messages sent", lambda stats: str(stats.sent)),
    ("turns done", lambda stats: str(stats.done)),
    ("turns failed", lambda stats: str(stats.failed)),
    ("turns stopped", lambda stats: str(stats.cancelled)),
    ("chunks", lambda stats: f"{stats.chunks:,}"),
    ("chunks a turn", lambda stats: f"{stats.chunks / stats.streamed:.1f}" if stats.streamed else "–"),
    ("first token, p50 / p99", lambda stats: _two(stats.first_ms)),
    ("gap, p50 / p99", lambda stats: _two(stats.gaps_ms)),
    ("average response", lambda stats: _mean(stats.response_ms)),
    ("bytes received", lambda stats: text.size(stats.total("bytes_received"))),
    ("connections", lambda stats: str(stats.total("connections"))),
    ("reconnects", lambda stats: str(stats.total("lost"))),
    ("resumes", lambda stats: str(stats.total("resumed"))),
    ("sessions created", lambda stats: str(stats.sessions_created)),
)
