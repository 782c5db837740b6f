"""The signals that stop a server (SIGINT, SIGTERM), and the drain that follows the first one."""

from __future__ import annotations

import asyncio
import signal
from types import FrameType

from shared.chat.service import ChatService

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """The signals that stop a server: after the first it drains, after the second it stops at once."""

    def __init__(self, drain_s: float) -> None:
        self.grace_s = drain_s
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Stopping:
        self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop, number)

    def _stop(self, number: int) -> None:
        if self.asked.is_set():
            self.insisted.set()
            return
        if number == signal.SIGINT:
            self.grace_s = 0
        self.asked.set()

    async def drain(self, service: ChatService) -> None:
        """Wait for the first signal, then drain: SIGTERM leaves running turns DRAIN_S, SIGINT none; a second ends the wait."""
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
