"""Job control: the user's shell stops this program with Ctrl-Z and brings it back with ``fg`` (POSIX.1-2024, XBD 11.1.4).

Everything here is without effect where the platform has no job control.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from shared.signals import handling_signals


@contextlib.contextmanager
def job_control(stop: Callable[[], None], continued: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` when SIGTSTP arrives and ``continued`` after a SIGCONT that ``stop_here`` did not wait for.

    Where the parent process ignores SIGTSTP, there is no job control, and the signal stays ignored.
    """
    if sys.platform == "win32" or signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN:
        yield
        return
    calls = {signal.SIGTSTP: stop, signal.SIGCONT: continued}
    with handling_signals(calls, lambda number: calls[signal.Signals(number)]()):
        yield


def stop_here(*, group: bool) -> None:
    """Stop this process, or its whole process group, until it is continued in the foreground.

    After ``bg`` it stops again, because two programs cannot share one input line.
    """
    if sys.platform == "win32" or signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN:
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTSTP, signal.SIGCONT)}
    try:
        os.kill(0 if group else os.getpid(), signal.SIGTSTP)
        stop_in_background()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_in_background() -> bool:
    """Stop this process when another one has the terminal. Returns whether it did so."""
    if sys.platform == "win32":
        return False
    with contextlib.suppress(OSError, ValueError):
        if os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
            os.kill(os.getpid(), signal.SIGTTOU)
            return True
    return False
