"""The table of all metrics: each with its unit, its formula and its two points of measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compare.measuring import formulas
from compare.measuring.formulas import Formula
from compare.measuring.ladder import PHASES


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a comparison states.

    ``formula`` and ``points`` are printed beside the number. ``of_turn`` computes it from a turn; None for a metric that is
    measured directly (``Sample``).
    """

    name: str
    title: str
    unit: str
    formula: str
    points: str
    of_turn: Formula | None
    better: Literal["lower", "higher", "neither"] = "lower"

    @property
    def of_gaps(self) -> bool:
        """Whether lanes are ranked by the gaps between chunks, which say nothing where chunks arrive together."""
        return self.points == _TWO_ARRIVALS and self.better != "neither"


_REQUEST_TO_EVENT = "client sends the request → client has parsed the event"
_TWO_ARRIVALS = "two arrivals at one client"
_LOG_TO_CLIENT = "appended to the log → client has parsed it"
_AT_RELAY = "at the relay, one turn on a connection of its own"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("ttfe", "TTFE", "ms", "first event − t0", _REQUEST_TO_EVENT, formulas.ttfe),
        Metric("ttft", "TTFT", "ms", "first non-empty chunk − t0", _REQUEST_TO_EVENT, formulas.ttft),
        Metric(
            "first_output",
            "TTFT with thoughts",
            "ms",
            "first thought or chunk − t0, where a model reports thoughts (AIPerf's TTFT; TTFT here is AIPerf's TTFO)",
            _REQUEST_TO_EVENT,
            formulas.first_output,
            "neither",
        ),
        Metric(
            "tokens_per_chunk",
            "tokens a chunk",
            "tokens",
            "output tokens of the model's usage / chunks",
            "usage in turn_completed",
            formulas.tokens_per_chunk,
            "neither",
        ),
        Metric("icl_p50", "ICL p50", "ms", "median of e_i − e_(i−1)", _TWO_ARRIVALS, formulas.icl(0.5), "neither"),
        Metric("icl_p90", "ICL p90", "ms", "p90 of e_i − e_(i−1)", _TWO_ARRIVALS, formulas.icl(0.9)),
        Metric("icl_p99", "ICL p99", "ms", "p99 of e_i − e_(i−1)", _TWO_ARRIVALS, formulas.icl(0.99)),
        Metric("jitter", "jitter", "ms", "p99 − p50 of e_i − e_(i−1)", _TWO_ARRIVALS, formulas.jitter),
        Metric("tpot", "TPOT", "ms", "(e_n − e_1) / (n − 1)", _TWO_ARRIVALS, formulas.tpot, "neither"),
        Metric("e2e", "E2E", "ms", "terminal event − t0", _REQUEST_TO_EVENT, formulas.e2e),
        Metric("delay_p50", "delay p50", "ms", "median of e_i − at_i", _LOG_TO_CLIENT, formulas.delay(0.5)),
        Metric("delay_p99", "delay p99", "ms", "p99 of e_i − at_i", _LOG_TO_CLIENT, formulas.delay(0.99)),
        Metric(
            "coalescing",
            "coalescing",
            "share",
            "chunks with e_i − e_(i−1) < 1 ms / (n − 1)",
            _TWO_ARRIVALS,
            formulas.coalescing,
            "neither",
        ),
        Metric(
            "down_per_token", "bytes a token", "B", "TCP payload down / tokens", _AT_RELAY, formulas.bytes_per_token
        ),
        Metric("up_bytes", "bytes up", "B", "TCP payload up", _AT_RELAY, formulas.up_bytes),
        Metric(
            "framing",
            "not text",
            "share",
            "1 − UTF-8 bytes of the text / TCP payload down",
            _AT_RELAY,
            formulas.framing,
        ),
        Metric(
            "lost",
            "lost",
            "tokens",
            "tokens of the reply − distinct tokens shown",
            "the turn that was cut",
            formulas.lost_tokens,
        ),
        Metric(
            "twice",
            "shown twice",
            "tokens",
            "tokens shown − distinct tokens shown",
            "the turn that was cut and its second request",
            formulas.twice_tokens,
        ),
        Metric(
            "again",
            "paid twice",
            "tokens",
            "tokens generated − tokens of the reply",
            "the server's log",
            formulas.again_tokens,
        ),
        Metric("detect", "to detect", "ms", "client knows − cut", "relay cuts → client reports it", formulas.detect_ms),
        Metric("connect_cold", "cold connect", "ms", "connect() and first ping of a new client", "client only", None),
        Metric("connect_warm", "warm ping", "ms", "ping on a connection that is open", "client only", None),
        Metric(
            "cancel",
            "to stop the model",
            "ms",
            "at of turn_cancelled − cancel pressed",
            "client calls cancel → the model's iterator is closed",
            None,
        ),
        Metric(
            "cancel_seen",
            "to see it stopped",
            "ms",
            "end of the answer − cancel pressed",
            "client calls cancel → client has the end",
            None,
        ),
        Metric(
            "tokens_per_s",
            "throughput",
            "tokens/s",
            "tokens shown / seconds, the model does not wait",
            "client; where its own CPU is full, it is the limit",
            None,
            "higher",
        ),
        Metric(
            "server_us",
            "server CPU",
            "µs/event",
            "user and system time of the server / events",
            "the CPU clock of the server's process at the edges of the experiment",
            None,
        ),
        Metric(
            "client_us",
            "client CPU",
            "µs/event",
            "user and system time of the client / events",
            "this process; the relay is not in it",
            None,
        ),
        *(
            Metric(
                f"phase_{phase.name}", phase.title, "ms", f"{phase.ends} − the wish to ask", "client", None, "neither"
            )
            for phase in PHASES.values()
            if phase.name != "first_token"
        ),
        Metric("phase_first_token", "first token", "ms", "first non-empty chunk − the wish to ask", "client", None),
        *(
            Metric(
                f"store_{name}",
                title,
                "µs/event",
                "user and system time of server and store / events",
                "the CPU clocks of their processes",
                None,
            )
            for name, title in (("memory", "in memory"), ("sqlite", "SQLite"), ("valkey", "Valkey"))
        ),
        *(
            Metric(
                name,
                title,
                "µs/event",
                "user and system time of the server / events",
                "the CPU clock of the server's process",
                None,
            )
            for name, title in (("grpcio_us", "grpcio"), ("asgi_us", "connectrpc on uvicorn"))
        ),
        Metric("goodput", "goodput", "turns/s", "turns that met all objectives / seconds", "client", None, "higher"),
        Metric(
            "stream_kib",
            "an open stream",
            "KiB",
            "resident memory with N waiting streams − without / N",
            "/proc/<server>/statm, a client and a turn each",
            None,
        ),
        Metric("image_get", "by its id", "ms", "get_image done − called", "client; the image bytes on all five", None),
        Metric("image_ms", "picture", "ms", "picture whole − t0, replayed from the log", "client", None),
        Metric(
            "image_cpu",
            "server CPU",
            "ms/MB",
            "user and system time of the server / MB of picture",
            "the CPU clock of the server's process",
            None,
        ),
        Metric("image_wire", "on the wire", "B/B", "TCP payload down / bytes of picture", "at the relay", None),
        Metric(
            "slow_kib",
            "server memory",
            "KiB",
            "resident memory while one reads slowly − before",
            "/proc/<server>/statm",
            None,
        ),
        Metric(
            "back",
            "to next token",
            "ms",
            "first new token after the loss − cut",
            "relay cuts → client has parsed it",
            formulas.back_ms,
        ),
    )
}
