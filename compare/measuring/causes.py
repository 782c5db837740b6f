"""Why a lane differs from the others in a metric: the part of the lane that makes the difference, not the lane's name.

``python -m compare factors`` measures the causes of bytes and CPU: encoding, HTTP version, framing and server library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compare.measuring.lanes import lane_title

_WHOLE = "nothing is shown before the reply is whole"
_BATCHES = "a request for each batch of tokens"
_BASE64 = "base64 in JSON"
_GRPCIO = "grpcio's asyncio layer, not gRPC's wire"
_ROUND_TRIP = "a request of its own"

_FIRST = {"rest": _WHOLE, "rest-poll": _BATCHES}
_DELAY = {"rest-poll": _BATCHES}
_BYTES = {
    "rest-poll": _BATCHES,
    "sse": "an event name and a cursor beside each event's JSON",
    "sse-h2": "an event name and a cursor beside each event's JSON",
    "grpc": "protobuf, not HTTP/2",
    "grpc-web": "protobuf, not HTTP/2",
    "grpc-asgi": "protobuf, not HTTP/2",
}
_PICTURES = {"ndjson": _BASE64, "sse": _BASE64, "ndjson-h2": _BASE64, "sse-h2": _BASE64}
_CAUSES: Mapping[str, Mapping[str, str]] = {
    "ttfe": _FIRST,
    "ttft": _FIRST,
    "delay_p50": _DELAY,
    "delay_p99": _DELAY,
    "icl_p90": _DELAY,
    "icl_p99": _DELAY,
    "jitter": _DELAY,
    "down_per_token": _BYTES,
    "framing": _BYTES,
    "up_bytes": _DELAY,
    "server_us": {"grpc": _GRPCIO, "grpc-web": "one write a message, as connectrpc makes it", "rest-poll": _BATCHES},
    "tokens_per_s": {"grpc": _GRPCIO},
    "back": {"rest": "the whole reply is awaited again"},
    "cancel": {"rest": _ROUND_TRIP, "rest-poll": _ROUND_TRIP, "ndjson": _ROUND_TRIP, "sse": _ROUND_TRIP},
    "image_ms": _PICTURES,
    "image_cpu": _PICTURES,
    "image_wire": _PICTURES,
}


def cause(metric: str, lane: str) -> str:
    """What in the lane makes it differ in this metric; empty where no cause is known."""
    return _CAUSES.get(metric, {}).get(lane, "")


def causes(metric: str, lanes: Sequence[str]) -> str:
    """The causes of these lanes as a sentence, such as ``Cause: base64 in JSON (NDJSON).``; empty without one."""
    by_cause: dict[str, list[str]] = {}
    for lane in lanes:
        if why := cause(metric, lane):
            by_cause.setdefault(why, []).append(lane_title(lane))
    said = "; ".join(f"{why} ({', '.join(some)})" for why, some in by_cause.items())
    return f"Cause: {said}." if said else ""
