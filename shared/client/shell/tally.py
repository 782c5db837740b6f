"""What this client has seen, for each transport: the numbers of ``/stats``, taken here and not at the server.

Times are in milliseconds on this machine's clock. First token: the request sent to the first ``chunk``, on plain REST to the whole
reply. Gap: one ``chunk`` to the next; none across a lost connection or a change of transport. Percentiles are nearest-rank.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from shared.client.protocol import ClientCounts
from shared.client.shell import text


def _samples() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Tally:
    """One transport's row; ``counts`` are those of the client in use, ``before`` those of clients that are closed."""

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
    sessions_made: int = 0
    first_ms: array[float] = field(default_factory=_samples)
    gaps_ms: array[float] = field(default_factory=_samples)
    response_ms: array[float] = field(default_factory=_samples)

    def renew(self, counts: ClientCounts) -> None:
        """Another client took over; keep what the one before it counted."""
        if counts is not self.counts:
            for name in ClientCounts.__slots__:
                setattr(self.before, name, getattr(self.before, name) + getattr(self.counts, name))
            self.counts = counts

    def total(self, name: str) -> int:
        """One of the clients' counts, over all clients so far."""
        return int(getattr(self.counts, name) + getattr(self.before, name))


def percentile(samples: Iterable[float], share: float) -> float:
    """The nearest-rank percentile of at least one sample: the smallest that ``share`` of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def rows(tallies: Sequence[Tally]) -> Iterator[tuple[str, list[str]]]:
    """The table: what it is, and its value for each transport."""
    for name, value in _ROWS:
        yield name, [value(tally) for tally in tallies]


def _two(samples: array[float]) -> str:
    if not samples:
        return "–"
    return f"{text.duration(percentile(samples, 0.5))} / {text.duration(percentile(samples, 0.99))}"


def _mean(samples: array[float]) -> str:
    return text.duration(sum(samples) / len(samples)) if samples else "–"


_ROWS: tuple[tuple[str, Callable[[Tally], str]], ...] = (
    ("in use for", lambda tally: text.duration((time.monotonic() - tally.since) * 1000)),
    ("messages sent", lambda tally: str(tally.sent)),
    ("turns done", lambda tally: str(tally.done)),
    ("turns failed", lambda tally: str(tally.failed)),
    ("turns stopped", lambda tally: str(tally.cancelled)),
    ("chunks", lambda tally: f"{tally.chunks:,}"),
    ("chunks a turn", lambda tally: f"{tally.chunks / tally.streamed:.1f}" if tally.streamed else "–"),
    ("first token, p50 / p99", lambda tally: _two(tally.first_ms)),
    ("gap, p50 / p99", lambda tally: _two(tally.gaps_ms)),
    ("average response", lambda tally: _mean(tally.response_ms)),
    ("bytes received", lambda tally: text.size(tally.total("bytes_received"))),
    ("connections", lambda tally: str(tally.total("connections"))),
    ("reconnects", lambda tally: str(tally.total("lost"))),
    ("resumes", lambda tally: str(tally.total("resumed"))),
    ("sessions made", lambda tally: str(tally.sessions_made)),
)
