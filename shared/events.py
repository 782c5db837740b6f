"""The events of a turn: one JSON object on REST, NDJSON, SSE and WebSocket, one protobuf message on gRPC.

A turn is an append-only log of these; ``seq`` counts 1, 2, 3 … without a gap and exactly one terminal event ends it.
All times are Unix epoch milliseconds (fractional).
"""

from __future__ import annotations

import time
from typing import Any, Literal, get_args

import msgspec

# In base64 these bytes are 60 KiB, so that an event's JSON line stays under the 64 KiB of common line readers.
IMAGE_CHUNK_BYTES = 45 * 1024

Status = Literal["running", "completed", "failed", "cancelled", "interrupted"]
Kind = Literal["chat", "image"]
FinishReason = Literal["stop", "length", "other"]


class Usage(msgspec.Struct, frozen=True):
    """What the provider counted, in the provider's tokens; null where the provider gives no count."""

    input_tokens: int | None = None
    output_tokens: int | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", gc=False):
    """What every event has. ``at`` is when it was appended to the log, the same in every replay."""

    turn_id: str
    seq: int
    at: float


class TurnStarted(Event, frozen=True, kw_only=True, tag="turn_started"):
    """Always seq 1, before the model has said anything. ``context_messages`` does not count the new message."""

    session_id: str | None
    kind: Kind
    input: str
    model: str
    context_messages: int
    request_id: str | None


class Thinking(Event, frozen=True, kw_only=True, tag="thinking"):
    """The provider reports that the model thinks; at most once, before the first chunk. The thoughts are not kept."""


class Chunk(Event, frozen=True, kw_only=True, tag="chunk", gc=False):
    """Exactly what the model said, never empty; concatenated, the chunks are the reply."""

    text: str


class ImageStarted(Event, frozen=True, kw_only=True, tag="image_started"):
    """A picture is about to arrive; ``preview`` marks a partial one."""

    image_id: str
    mime_type: str
    width: int
    height: int
    size_bytes: int
    preview: bool


class ImageChunk(Event, frozen=True, kw_only=True, tag="image_chunk"):
    """At most 45 KiB of a picture, starting at byte ``offset``; base64 (RFC 4648) in JSON, bytes in protobuf."""

    image_id: str
    offset: int
    data: bytes


class ImageCompleted(Event, frozen=True, kw_only=True, tag="image_completed"):
    """The final picture is whole."""

    image_id: str
    sha256: str
    revised_prompt: str | None


class TurnCompleted(Event, frozen=True, kw_only=True, tag="turn_completed"):
    """``sha256`` is of the reply's UTF-8 text, or of the final picture's bytes."""

    finish_reason: FinishReason
    usage: Usage
    chunks: int
    message_count: int | None
    elapsed_ms: float
    sha256: str


class TurnFailed(Event, frozen=True, kw_only=True, tag="turn_failed"):
    """``code`` is from the one error table; ``retryable``: a new request, with a new key, may succeed."""

    code: str
    message: str
    retryable: bool
    usage: Usage


class TurnCancelled(Event, frozen=True, kw_only=True, tag="turn_cancelled"):
    """A client cancelled the turn; the partial text stays. ``sha256`` is null for an image without a final picture."""

    usage: Usage
    chunks: int
    sha256: str | None


class TurnInterrupted(Event, frozen=True, kw_only=True, tag="turn_interrupted", omit_defaults=True):
    """The generating process stopped or lost its lease; the text that was shown stays.

    ``epoch`` 1: another process ended the turn for the generating process. None, absent in JSON, is epoch 0.
    """

    chunks: int
    sha256: str | None
    epoch: int | None = None


class CursorLost(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="cursor_lost"):
    """The store no longer has what a client was shown of a turn; the client drops it and reads the turn from 0.

    This is no event: it has no seq and is in no log. ``last_seq`` and ``epoch`` are those of the turn as it is stored.
    """

    turn_id: str
    last_seq: int
    epoch: int


AnyEvent = (
    TurnStarted
    | Chunk
    | ImageStarted
    | ImageChunk
    | ImageCompleted
    | TurnCompleted
    | TurnFailed
    | TurnCancelled
    | TurnInterrupted
    | Thinking
)
EVENT_TYPES: tuple[type[Event], ...] = get_args(AnyEvent)
TERMINAL = (TurnCompleted, TurnFailed, TurnCancelled, TurnInterrupted)
TERMINAL_STATUS: dict[str, Status] = {
    "turn_completed": "completed",
    "turn_failed": "failed",
    "turn_cancelled": "cancelled",
    "turn_interrupted": "interrupted",
}

_TYPE_NAMES = {kind: str(kind.__struct_config__.tag) for kind in EVENT_TYPES}
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def to_json(value: Any) -> bytes:
    """Encode to one line of JSON (RFC 8259, UTF-8); U+2028, U+2029 and U+0085 are escaped, because line readers split on them."""
    data = _encoder.encode(value)
    # Most events are ASCII, and isascii is five times as fast as a search for the three characters.
    if not data.isascii() and (b"\xe2\x80" in data or b"\xc2\x85" in data):
        data = (
            data.replace(b"\xe2\x80\xa8", b"\\u2028")
            .replace(b"\xe2\x80\xa9", b"\\u2029")
            .replace(b"\xc2\x85", b"\\u0085")
        )
    return data


def from_json(data: bytes | str) -> AnyEvent:
    """Decode one event; unknown fields are ignored, types are never coerced.

    Raises msgspec.DecodeError (not JSON) or msgspec.ValidationError (not an event of this chat).
    """
    return _decoder.decode(data)


def event_type(event: Event) -> str:
    """The event's ``type`` on the wire, such as ``turn_started``."""
    return _TYPE_NAMES[type(event)]


def now_ms() -> float:
    """Unix epoch milliseconds, to the microsecond."""
    return time.time_ns() // 1000 / 1000
