"""The further lanes under load: other ways to a transport's server, with the requests that the load generator sends as they are."""

from __future__ import annotations

import json
from typing import Any

from compare.measuring.floors.load.http2 import grpc_call
from compare.measuring.http2_sender import http2_sender
from compare.measuring.lanes import FURTHER_LANES, Lane

# REST over HTTP/2 is no lane of the other tools: its one answer is the same on either version. Its cost is not.
_REST_H2 = Lane("rest-h2", "rest", {"sender": http2_sender}, http2=True, needs=("zttp",))
FURTHER: dict[str, Lane] = {_REST_H2.name: _REST_H2, **FURTHER_LANES}
WITH_STREAMS = tuple(FURTHER_LANES)

_WHOLE = "one whole reply, no stream: see the rows of REST"
_STREAMED = "it has no whole replies: see the rows of streams"
# Why a lane has no line in a row.
NO_MEANING: dict[str, dict[str, str]] = {
    **{row: {"rest": _WHOLE, "rest-h2": _WHOLE} for row in ("saturated", "paced", "readers", "idle")},
    "rest": dict.fromkeys(WITH_STREAMS, _STREAMED),
}


def request_of(word: str, *, message: str, turn_id: str | None, path: str | None) -> dict[str, Any]:
    """The fields of ``Job`` that make the load generator ask as this lane asks; none for a transport's own lane.

    No lane has a parser of its own: events are counted by the patterns of ``load/marked.py``, and gRPC by its usual connection.
    """
    match word:
        case "grpc-asgi":
            return {"wire": "grpc"}
        case "grpc-web":
            rpc, body = grpc_call(message, turn_id)
            content_type = "application/grpc-web+proto"
            return {"wire": "marked-http1", "path": rpc, "body": body, "content_type": content_type, "protobuf": True}
        case "rest-h2" | "ndjson-h2" | "sse-h2":
            whole = word == "rest-h2"
            wire = "whole-http2" if whole else "marked-http2"
            if path is None and turn_id is not None:
                path = f"/turns/{turn_id}/stream"
            if path is not None:
                return {"wire": wire, "path": path, "body": b"", "content_type": "application/json"}
            body = json.dumps({"message": message}).encode()
            path = "/chat" if whole else "/chat/stream"
            return {"wire": wire, "path": path, "body": body, "content_type": "application/json"}
    return {}
