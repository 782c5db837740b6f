"""What a server counts since it started: ``/stats``, ``GetServerStats`` and Prometheus' text on ``/metrics``."""

from __future__ import annotations

import msgspec


class ServerStats(msgspec.Struct, frozen=True):
    """Statistics of one server process; times in milliseconds, ``uptime_s`` in seconds."""

    started_at: float
    uptime_s: float
    requests_total: int
    requests_succeeded: int
    requests_failed: int
    average_response_ms: float
    sessions_active: int
    sessions_created: int
    streams_active: int
    connections_active: int
    provider: str
    model: str
    framework: str
