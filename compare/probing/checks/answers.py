"""What the path does to an answer: headers that it removes, and gRPC's trailers."""

from __future__ import annotations

from compare.probing.http1 import Http1Stream
from compare.probing.http2 import GrpcStream
from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import GRACE_S, Subject

# For each wire a header, and the word that the header's value must hold. gRPC and the WebSocket have no such headers.
_EXPECTED = {
    "rest": (("cache-control", "no-store"), ("content-type", "application/json")),
    "ndjson": (("cache-control", "no-transform"), ("content-type", "application/x-ndjson")),
    "sse": (("cache-control", "no-transform"), ("content-type", "text/event-stream")),
}


async def check_headers(subject: Subject) -> Outcome:
    """Whether the headers of the answer arrive that keep caches and compressors off."""
    expected = _EXPECTED.get(subject.wire.word, ())
    if subject.turn is None or not expected:
        return Outcome("not judged: the wire has none, or there is no turn", judged=False)
    gone = [name for name, word in expected if word not in subject.turn.headers.get(name, "")]
    if not gone:
        return Outcome("arrive")
    words = f"{', '.join(gone)} did not arrive as sent"
    return Outcome(words, (Finding("headers_removed", subject.wire.word, words, {"names": ", ".join(gone)}),))


async def check_trailers(subject: Subject) -> Outcome:
    """Whether a call's status arrives: gRPC sends it after the last message."""
    stream = await subject.wire.turn(subject.target, "/tokens 2 hello")
    assert isinstance(stream, GrpcStream | Http1Stream)
    try:
        heard = await stream.read(GRACE_S)
        if heard.end != "whole":
            return Outcome(f"not judged: {heard.words}", judged=False)
        await stream.read_trailers(3.0)
    finally:
        await stream.leave()
    if heard.rpc_status is not None:
        return Outcome(f"grpc-status {heard.rpc_status}")
    words = "the call has no grpc-status at its end"
    return Outcome(words, (Finding("trailers_removed", subject.wire.word, words),))
