"""What a server has counted since it started, and the same in Prometheus' text format for ``/metrics``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from shared.stats import ServerStats


@dataclass(slots=True)
class Counters:
    """The counts of one process. A request is a request for a turn, and succeeds when the turn completes."""

    started_at: float = field(default_factory=lambda: time.time() * 1000)
    requests_total: int = 0
    requests_succeeded: int = 0
    requests_failed: int = 0
    response_ms_total: float = 0.0
    sessions_created: int = 0
    streams_active: int = 0
    connections_active: int = 0
    events_total: int = 0

    def finished(self, *, ok: bool, elapsed_ms: float) -> None:
        """Count one request that was answered to its end."""
        if ok:
            self.requests_succeeded += 1
        else:
            self.requests_failed += 1
        self.response_ms_total += elapsed_ms

    @property
    def average_response_ms(self) -> float:
        """Mean time from a request to its terminal event; 0 before the first."""
        done = self.requests_succeeded + self.requests_failed
        return round(self.response_ms_total / done, 3) if done else 0.0


def prometheus_text(stats: ServerStats, events_total: int) -> bytes:
    """The statistics in Prometheus' text exposition format 0.0.4."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
    from prometheus_client.core import CounterMetricFamily
    from prometheus_client.registry import Collector

    class _Counts(Collector):
        def collect(self) -> Iterator[CounterMetricFamily]:
            requests = CounterMetricFamily("genai_requests", "Turns asked for, by outcome", labels=["outcome"])
            requests.add_metric(["succeeded"], stats.requests_succeeded)
            requests.add_metric(["failed"], stats.requests_failed)
            yield requests
            yield CounterMetricFamily("genai_events", "Events appended to logs", value=events_total)
            yield CounterMetricFamily("genai_sessions_created", "Sessions made", value=stats.sessions_created)

    registry = CollectorRegistry()
    registry.register(_Counts())
    info = Gauge("genai_server_info", "What this server runs", ["provider", "model", "framework"], registry=registry)
    info.labels(stats.provider, stats.model, stats.framework).set(1)
    for name, help_text, value in (
        ("genai_uptime_seconds", "Seconds since the start", stats.uptime_s),
        ("genai_sessions_active", "Sessions used lately", stats.sessions_active),
        ("genai_streams_active", "Streams open now", stats.streams_active),
        ("genai_connections_active", "Held connections open now", stats.connections_active),
        ("genai_response_ms_average", "Mean time to the terminal event", stats.average_response_ms),
    ):
        Gauge(name, help_text, registry=registry).set(value)
    return generate_latest(registry)
