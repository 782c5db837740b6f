"""Memory that the server has freed goes back to the operating system (``malloc_trim(3)`` of the GNU C library).

Without this, a process keeps the memory of its largest moment: the library returns only what lies at the end of a heap, and each
thread of grpcio has a heap of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path

_LEAST_PAUSE_S = 4.0
_MOST_PAUSE_S = 60.0
# A process that has grown by so much is searched. A search that gives back so much was worth its time.
_WORTH_BYTES = 24 * 2**20


async def give_back_freed_memory(pause_s: float = _LEAST_PAUSE_S, worth_bytes: int = _WORTH_BYTES) -> None:
    """Search the heaps where the process has grown by ``worth_bytes``, until cancelled. Elsewhere than on glibc, return at once.

    ``pause_s`` is the time between two looks. It doubles up to a minute while a search gives back less than ``worth_bytes``,
    because then the process needs its memory.
    """
    search = _search()
    if search is None:
        return
    least_bytes, wait_s = resident_bytes(), pause_s
    while True:
        await asyncio.sleep(wait_s)
        before_bytes = resident_bytes()
        least_bytes = min(least_bytes, before_bytes)
        if before_bytes < least_bytes + worth_bytes:
            wait_s = pause_s
            continue
        await asyncio.to_thread(search)
        after_bytes = resident_bytes()
        wait_s = pause_s if after_bytes + worth_bytes <= before_bytes else min(2 * wait_s, max(pause_s, _MOST_PAUSE_S))


def resident_bytes() -> int:
    """The resident memory of this process (Linux, ``proc_pid_statm(5)``)."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


def _search() -> Callable[[], object] | None:
    """The library's function, which runs without Python's lock; None where the library has none."""
    if sys.platform != "linux":
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return None
    return lambda: trim(0)
