"""What a process costs: its CPU time, by the kernel's clock of it (POSIX, clock_getcpuclockid), and its memory (``/proc``)."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path


def cpu_s(pid: int) -> float | None:
    """User and system time of a process with all its threads, to the nanosecond; None where there is no such process or clock.

    ``/proc/<pid>/stat`` has the same time in steps of 10 ms, which is longer than a server works on a picture of 1 MB.
    """
    if sys.platform != "linux":
        return None
    clock = ctypes.c_int()
    if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)) != 0:
        return None
    try:
        return time.clock_gettime(clock.value)
    except OSError:
        return None


def rss_bytes(pid: int) -> int | None:
    """Resident memory of a process; None without ``/proc``."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
