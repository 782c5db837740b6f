"""Signals on the event loop, in the one way that works on every platform: ``signal.signal`` and a call into the loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import FrameType


@contextlib.contextmanager
def handling_signals(numbers: Iterable[int], handle: Callable[[int], None]) -> Iterator[None]:
    """Call ``handle`` on the running loop with the number of each of these signals that arrives."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(handle, number)

    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def catching_signals() -> Iterator[asyncio.Queue[int]]:
    """SIGINT, SIGTERM and SIGHUP as a queue. SIGHUP, which a closed terminal sends, becomes SIGINT."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    numbers: dict[int, int] = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}
    if sys.platform != "win32":
        numbers[signal.SIGHUP] = signal.SIGINT
    with handling_signals(numbers, lambda number: queue.put_nowait(numbers[number])):
        yield queue


async def run_until_signal(work: Coroutine[object, object, int], stopped: str) -> int:
    """Run ``work`` to its exit status. A signal cancels it: ``stopped`` is written to stderr, the status is 128 + the signal."""
    with catching_signals() as signals:
        working = asyncio.create_task(work)
        waiting = asyncio.create_task(signals.get())
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            waiting.cancel()
            return working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        sys.stderr.write(f"{stopped}\n")
        return 128 + waiting.result()
