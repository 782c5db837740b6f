"""A file descriptor for log lines that never stops its writers: a thread writes, and lines that find no room are dropped."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator

_MAX_CHARS = 1024 * 1024
_CLOSE_S = 0.5
# How long the thread collects lines before it writes them together: to wake it for each line cost a busy server a tenth.
_COLLECT_S = 0.005


class LogSink(io.TextIOBase):
    """Takes lines at once, and writes them to ``fd`` from a thread. Use it as ``with``.

    A reader that is gone, that reads nothing or whose disk is full loses lines and delays no writer: up to a mebibyte
    of them waits, and the rest is dropped. As soon as there is room again, a line says how many were dropped. Leaving
    the block waits for half a second.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[str] = deque()
        self._chars = 0
        self._dropped = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        """True: this is a text stream to write to."""
        return True

    def isatty(self) -> bool:
        """Whether the lines go to a terminal."""
        return os.isatty(self._fd)

    def fileno(self) -> int:
        """The file descriptor that the thread writes to."""
        return self._fd

    def write(self, text: str) -> int:
        """Queue a line, or drop it when a mebibyte waits already. Never waits, never raises."""
        with self._changed:
            if self._chars + len(text) > _MAX_CHARS:
                self._dropped += text.count("\n")
            else:
                if not self._lines:
                    self._changed.notify()
                self._lines.append(text)
                self._chars += len(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can."""

    def close(self) -> None:
        """Wait for the lines that are queued, at most half a second. The file descriptor stays open."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_S)
        super().close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                if not self._lines:
                    return
                if not self._closing:
                    self._changed.wait(_COLLECT_S)
                text = "".join(self._lines)
                self._lines.clear()
                dropped, self._dropped = self._dropped, 0
            notice = json.dumps({"event": "log lines dropped", "count": dropped, "level": "warning"}) + "\n"
            written = self._write_all((text + notice if dropped else text).encode(errors="backslashreplace"))
            with self._changed:
                self._chars -= len(text)
                self._dropped += 0 if written else dropped + text.count("\n")

    def _write_all(self, data: bytes) -> bool:
        """Write, and wait for as long as the reader makes the thread wait. False when the file descriptor fails."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # Another process has set the pipe to non-blocking.
                select.select((), (self._fd,), ())
            except OSError:
                return False
        return True


@contextlib.contextmanager
def stderr_never_blocks() -> Iterator[None]:
    """Within the block, everything that Python writes to stderr goes through a ``LogSink``: log lines, warnings, tracebacks."""
    try:
        fd = sys.stderr.fileno()
    except (AttributeError, io.UnsupportedOperation):
        # There is no stderr (it was closed before the start), or a program has replaced it with a stream in memory.
        yield
        return
    with LogSink(fd) as sink, contextlib.redirect_stderr(sink):
        yield
