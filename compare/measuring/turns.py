"""The records of a measurement: the raw arrivals of a turn, and single values.

Everything else in ``compare`` is derived from these records.
"""

from __future__ import annotations

import msgspec


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """Something that reached the client. Both times are ms after the request was sent; ``logged_ms`` is the event's ``at``.

    ``type`` is the type of an event; ``reply`` or ``picture`` for a whole answer of plain REST; ``lost`` or ``resumed`` when the
    client says so; ``cut`` when the line was cut; ``asked`` when the message was sent again after a loss without resume. ``size``
    counts the UTF-8 bytes of the text, or the bytes of the image. ``seq`` is 0 where there is no event.
    """

    ms: float
    type: str
    seq: int
    logged_ms: float | None
    size: int
    text: str = ""


class TurnRecord(msgspec.Struct, kw_only=True):
    """One turn as its client saw it. ``asked_at`` is epoch ms; ``tokens`` is the length of the reply.

    ``up_bytes`` and ``down_bytes`` are TCP payload, counted at the relay; None without a relay. ``generated`` counts the tokens
    that the model made for this turn, all attempts together. ``output_tokens`` is what the model says in its usage. ``error`` says
    why the turn failed.
    """

    experiment: str
    lane: str
    round: int
    stream: int
    asked_at: float
    tokens: int
    arrivals: list[Arrival]
    up_bytes: int | None = None
    down_bytes: int | None = None
    resume: bool = True
    generated: int | None = None
    output_tokens: int | None = None
    error: str | None = None

    def of(self, *types: str) -> list[Arrival]:
        """The arrivals of these types, in order."""
        return [arrival for arrival in self.arrivals if arrival.type in types]


class Sample(msgspec.Struct, kw_only=True):
    """One measured value that does not follow from a turn's arrivals."""

    experiment: str
    lane: str
    round: int
    metric: str
    value: float
