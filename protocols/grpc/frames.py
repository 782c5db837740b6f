"""Committed events as serialised messages: ``chat.Event`` on a call of its own, ``chat.ChatResponse`` on ``Chat``.

The library puts five bytes before each message: a flag for compression, and the length (gRPC over HTTP/2,
"Length-Prefixed-Message").
"""

from __future__ import annotations

from protocols.grpc import chat_pb2 as pb
from protocols.grpc.convert import to_event_bytes
from shared.store.record import Record


def frame(record: Record) -> bytes:
    """One event as a ``chat.Event``. A record keeps these bytes for all of its readers."""
    return to_event_bytes(record.event)


def response_frame(record: Record) -> bytes:
    """One event inside a ``chat.ChatResponse``."""
    response = pb.ChatResponse()
    response.event.MergeFromString(record.framed(frame))
    return response.SerializeToString()
