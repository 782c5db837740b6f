"""What all connections of a load count together."""

from __future__ import annotations

import asyncio
import time

from compare.measuring.floors.load.job import Job


class Counts:
    """Events, turns and bytes so far, and the times of single events; ``failure`` is set with the reason when one stream fails."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.events = 0
        self.turns = 0
        self.bytes = 0
        self.began = 0
        self.ended = 0
        self.first_ms: list[float] = []
        self.ttft_ms: list[float] = []
        self.delays_ms: list[float] = []
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._all_began, self._all_ended = asyncio.Event(), asyncio.Event()
        self._wanted_begun: int | None = None
        self._wanted_ended: int | None = None

    async def all_begun(self, streams: int) -> None:
        """Wait until this many answers have begun."""
        self._all_began.clear()
        self._wanted_begun = streams
        self._check()
        await self._all_began.wait()

    async def all_ended(self, streams: int) -> None:
        """Wait until this many answers have ended."""
        self._wanted_ended = streams
        self._check()
        await self._all_ended.wait()

    def answer_began(self) -> None:
        """Count an answer that has begun."""
        self.began += 1
        self._check()

    def answer_ended(self) -> None:
        """Count an answer that has ended."""
        self.turns += 1
        self.ended += 1
        self._check()

    def add_delays(self, stamps: list[bytes]) -> None:
        """Add the delays of events, given the ``at`` of each."""
        now = time.time() * 1000
        self.delays_ms.extend([now - float(at) for at in stamps])

    def fail(self, why: str) -> None:
        """Give up the load with a reason."""
        if not self.failure.done():
            self.failure.set_result(why)

    def _check(self) -> None:
        for reached, count, wanted in (
            (self._all_began, self.began, self._wanted_begun),
            (self._all_ended, self.ended, self._wanted_ended),
        ):
            if wanted is not None and count >= wanted:
                reached.set()
