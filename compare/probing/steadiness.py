"""How late this program itself is: a busy prober looks like a buffer on the path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_TICK_S = 0.02
# A tick that is later than this is noted.
LATE_S = 0.1
# Bytes that arrived while this program was late are read within this time afterwards.
_CATCHING_UP_S = 0.05


class Steadiness:
    """The times at which this program could not read, as (from, to) on the event loop's clock."""

    def __init__(self) -> None:
        self.pauses: list[tuple[float, float]] = []

    async def watch_forever(self) -> None:
        """Tick every 20 ms."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            if loop.time() - due > LATE_S:
                self.pauses.append((due - _TICK_S, loop.time()))

    def worst_s(self, since: float) -> float:
        """The longest pause since a time of the loop; 0 when every tick came in time."""
        return max((end - begin for begin, end in self.pauses if end >= since), default=0.0)

    def paused_at(self, moment: float) -> bool:
        """Whether what was read at this moment may have arrived earlier."""
        return any(begin <= moment <= end + _CATCHING_UP_S for begin, end in self.pauses)


@asynccontextmanager
async def watching() -> AsyncIterator[Steadiness]:
    """Watch this program in a block."""
    steadiness = Steadiness()
    task = asyncio.create_task(steadiness.watch_forever())
    try:
        yield steadiness
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
