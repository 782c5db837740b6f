"""The signals that stop a server (SIGINT, SIGTERM), and the drain that follows the first one."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from shared.chat.service import ChatService
from shared.signals import handling_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """What the signals have asked of a server: after the first it drains, after the second it stops at once."""

    def __init__(self, drain_s: float) -> None:
        self.grace_s = drain_s
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()

    def handle(self, number: int) -> None:
        """Take note of a signal."""
        if self.asked.is_set():
            self.insisted.set()
            return
        if number == signal.SIGINT:
            self.grace_s = 0
        self.asked.set()

    async def drain(self, service: ChatService) -> None:
        """Wait for the first signal, then drain: SIGTERM gives running turns DRAIN_S seconds, SIGINT none.

        A second signal ends the wait.
        """
        await self.asked.wait()
        service.logger.info("stopping", grace_s=self.grace_s, running=service.counters.streams_active)
        draining = asyncio.create_task(service.drain(self.grace_s))
        insisted = asyncio.create_task(self.insisted.wait())
        await asyncio.wait((draining, insisted), return_when=asyncio.FIRST_COMPLETED)
        insisted.cancel()
        if not draining.done():
            draining.cancel()
            await service.drain(0)
        await asyncio.gather(draining, insisted, return_exceptions=True)


@contextlib.contextmanager
def stopping_on_signals(drain_s: float) -> Iterator[Stopping]:
    """Handle the signals in this block; ``drain_s`` is how long SIGTERM lets running turns finish."""
    stopping = Stopping(drain_s)
    with handling_signals(SIGNALS, stopping.handle):
        yield stopping
