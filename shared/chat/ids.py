"""The ids of new turns."""

from __future__ import annotations

import secrets
import time
import uuid

_RANDOM_BITS = 74


def ordered_id() -> str:
    """A new UUID of version 7 (RFC 9562, section 5.7): the milliseconds since 1970, then 74 random bits.

    Turns that start one after the other are neighbours in the store's tables then, and share the pages that a commit writes.
    (``uuid.uuid7`` comes with Python 3.14.)
    """
    random = secrets.randbits(_RANDOM_BITS)
    high, low = random >> 62, random & (1 << 62) - 1
    return str(uuid.UUID(int=(time.time_ns() // 1_000_000) << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low))
