"""The ids of new turns, ordered by time."""

from __future__ import annotations

import math
import random
import secrets
import time
import uuid

_RANDOM_BITS = 74


def ordered_id(at_ms: float | None = None) -> str:
    """A new UUID of version 7 (RFC 9562, section 5.7): milliseconds since 1970, ``at_ms`` or now, and 74 random bits.

    Turns that start one after the other lie beside each other in the store's tables, so a commit writes fewer pages.
    (``uuid.uuid7`` comes with Python 3.14.)
    """
    ms = time.time_ns() // 1_000_000 if at_ms is None else int(at_ms)
    bits = secrets.randbits(_RANDOM_BITS)
    high, low = bits >> 62, bits & (1 << 62) - 1
    return str(uuid.UUID(int=ms << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low))


def scattered_id() -> str:
    """An id that may lie anywhere in the store's tables, for a turn whose place among the newest is damaged.

    It is a random UUID, which may lie among the turns of an older version of this program, or it is the id of a moment between
    1970 and now. An age between one and two seconds is as likely as one between one and two years. So some of a few such
    ids lie among older turns, however many turns a day there are.
    """
    if random.random() < 0.5:
        return str(uuid.uuid4())
    now_ms = time.time() * 1000
    return ordered_id(now_ms - 2 ** random.uniform(0, math.log2(now_ms)))
