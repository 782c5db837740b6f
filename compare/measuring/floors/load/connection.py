"""One connection of the load generator, with one stream at a time on it; each wire has a class of its own.

A class knows of its wire only how to ask again on the same connection and how an answer ends. Events are counted by a marker.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from typing import cast

from compare.measuring.floors.load.counts import Counts

# The first bytes of an event in JSON, and its time.
EVENT = b'{"type":"'
AT = re.compile(rb'"at":([0-9.]+)[,}]')


class LoadConnection(asyncio.Protocol, ABC):
    """Asks, counts what arrives, and in the mode ``loop`` asks again."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closing = False
        self._seen = 0
        self._asked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.greet()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing:
            self.counts.fail(f"the server closed a connection ({exc})")

    def greet(self) -> None:
        """Send what comes before the first request; ``ready`` is set when the connection can be used."""
        self.ready.set_result(None)

    def ask(self) -> None:
        """Send one request."""
        self._seen = 0
        self._asked_at = time.perf_counter()
        self.write(self.request())

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self.transport is not None:
            self.transport.write(data)

    @abstractmethod
    def request(self) -> bytes:
        """The bytes of one request."""

    def got(self, events: int) -> None:
        """Count events that have arrived; the first and the second one give times."""
        counts = self.counts
        counts.events += events
        seen = self._seen
        self._seen += events
        if seen < 2:
            elapsed_ms = (time.perf_counter() - self._asked_at) * 1000
            if seen == 0:
                counts.answer_began()
                counts.first_ms.append(elapsed_ms)
            if self._seen >= 2:
                counts.ttft_ms.append(elapsed_ms)

    def end(self) -> None:
        """Count the end of an answer, and ask again in the mode ``loop``."""
        counts = self.counts
        if self._seen == 0:
            counts.fail("an answer without an event")
            return
        counts.answer_ended()
        if counts.job.mode != "loop":
            # The server may close this connection while others are still being served.
            self.closing = True
        elif not self.closing:
            self.ask()

    def close(self) -> None:
        """Close the connection at once."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()
