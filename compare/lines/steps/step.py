"""What the readers of captured bytes produce: one step of a protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from compare.lines.capture import Direction

# request, response: a head, with its body where the body is one JSON object. event: an event of the chat, or a message on a held
# connection. heartbeat: a message without content. end: the end of a stream. close: the end of a connection or of a reset stream.
# frame: HTTP/2's own.
StepKind = Literal["request", "response", "event", "heartbeat", "end", "close", "frame"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One protocol step; ``at`` is when its last byte passed (epoch ms), ``size`` counts its bytes with the framing.

    ``name`` is the protocol's word for the step (``POST /chat``, ``200 OK``, ``chunk``). ``stream`` is the HTTP/2 stream, or the
    number of earlier requests on an HTTP/1.1 connection. ``raw`` is the payload as sent, ``payload`` is the payload as parsed.
    """

    at: float
    connection: int
    stream: int
    direction: Direction
    kind: StepKind
    name: str
    size: int
    headers: tuple[tuple[str, str], ...] = ()
    payload: Any = None
    raw: bytes = b""
