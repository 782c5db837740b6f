"""The rungs of the ladder from the wish to ask to the first token, with the names that AIPerf and k6 have for the same phases.

AIPerf: docs/tutorials/http-trace-metrics.md and the metrics reference of ai-dynamo/aiperf. k6: the built-in metrics of its
documentation. Both report the length of each phase; here a rung is the time since the wish to ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """A rung of the ladder: the moment at which a phase ends. ``aiperf`` and ``k6`` name the same phase there."""

    name: str
    title: str
    ends: str
    aiperf: str
    k6: str


PHASES: dict[str, Phase] = {
    phase.name: phase
    for phase in (
        Phase("tcp", "TCP", "the TCP connection stands", "http_req_connecting (with TLS)", "http_req_connecting"),
        Phase("tls", "TLS", "the TLS handshake is done", "http_req_connecting", "http_req_tls_handshaking"),
        Phase(
            "opened",
            "opened",
            "the 101 of a WebSocket has come; the SETTINGS of gRPC's HTTP/2 have come",
            "–",
            "ws_connecting",
        ),
        Phase(
            "sent", "request sent", "the last byte of the request is written", "http_req_sending", "http_req_sending"
        ),
        Phase(
            "first_byte",
            "first byte",
            "the head of the answer, the first frame or the initial metadata has come",
            "http_req_waiting (to the first byte of the body)",
            "http_req_waiting",
        ),
        Phase("first_event", "first event", "turn_started is parsed", "–", "–"),
        Phase("first_token", "first token", "the first chunk is parsed", "time_to_first_token", "–"),
    )
}
# What a client library does not tell; the next rung that it tells has the time of both.
NOT_TOLD: Mapping[str, str] = {
    "grpc": "grpcio opens TCP, TLS and HTTP/2 in one step (opened) and does not tell when a request is written (first byte)",
    "grpc-asgi": "the client is grpcio: opened has TCP, TLS and HTTP/2, first byte has the request",
    "grpc-web": "connectrpc's client tells no phase before the first event",
    "ndjson-h2": "pyqwest tells no phase before the first event",
    "sse-h2": "pyqwest tells no phase before the first event",
    "rest": "one whole reply: its first token is its last, and no event comes before it",
}
