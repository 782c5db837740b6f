"""The shell in a real terminal, for transcripts and tests: the program runs on a pty, pyte keeps the screen."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyte

PATIENCE_S = 30.0
# The child becomes the leader of the terminal on its stdin, so that Ctrl-C and new sizes reach it as signals.
LEADER = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
# Kitty's pictures (APC) and sixels (DCS), which pyte would show as text.
PICTURE = re.compile(r"\x1b[_P].*?\x1b\\", re.DOTALL)
PICTURE_BEGINS = re.compile(r"\x1b[_P]|\x1b$")
# An emoji of several characters (UAX 29). pyte drops what follows a joiner, so it gets one private-use character instead.
CLUSTER = re.compile(
    r"(?:[^\x00-\x7f]|[0-9#*](?=\ufe0f))"
    r"(?:\ufe0f?\u20e3|\ufe0f|[\U0001f3fb-\U0001f3ff]|[\U000e0020-\U000e007f]+|\u200d[^\x00-\x7f])+"
)
PRIVATE_USE = 0xF0000


class PyteScreen(pyte.HistoryScreen):
    """A screen that answers the request for device attributes with ``da1`` (ECMA-48, section 8.3.24)."""

    def __init__(self, columns: int, rows: int, reply: Callable[[str], None], da1: str) -> None:
        self._reply = reply
        self._da1 = da1
        super().__init__(columns, rows, history=20_000, ratio=0.5)

    def report_device_attributes(self, mode: int = 0, **options: object) -> None:
        self._reply(self._da1)

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Change the size as xterm does: columns that do not fit are lost, the row of the cursor stays visible."""
        lines, columns = lines or self.lines, columns or self.columns
        x, y = self.cursor.x, self.cursor.y
        over = max(0, y - lines + 1)
        for _ in range(over):
            self.cursor.y = self.lines - 1
            self.index()
        for number in [number for number in self.buffer if number >= lines]:
            del self.buffer[number]
        for row in self.buffer.values():
            for column in [column for column in row if column >= columns]:
                del row[column]
        self.lines, self.columns = lines, columns
        self.set_margins()
        self.cursor.x, self.cursor.y = min(x, columns - 1), y - over


class PtyTerminal:
    """The shell on a pty. ``raw`` is everything that it wrote; ``text`` is what a user sees who scrolls back.

    ``kitty`` makes the terminal draw kitty's pictures. ``program`` runs in place of the shell. Waiting raises TimeoutError, or
    EOFError when the program has ended.
    """

    def __init__(
        self,
        word: str,
        env: Mapping[str, str],
        *arguments: str,
        columns: int = 110,
        rows: int = 40,
        da1: str = "\x1b[?6c",
        kitty: bool = False,
        cwd: Path | None = None,
        program: Sequence[str] = (),
    ) -> None:
        self._master, slave = pty.openpty()
        self.raw = ""
        self._kitty = kitty
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pending = ""
        self._scrolled: list[str] = []
        self._folded: dict[str, str] = {}
        self.screen = PyteScreen(columns, rows, self.type, da1)
        self._stream = pyte.Stream(self.screen)
        self._size(columns, rows)
        program = program or (sys.executable, "-m", "protocols", "chat", word)
        # The size is the terminal's own, and not one that the environment of these tests has.
        outside = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEADER, *program, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**outside, "TERM": "xterm-256color", "COLORTERM": "truecolor", "XTERM_VERSION": "pyte", **env},
            cwd=cwd,
        )
        os.close(slave)

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """Change the size, as dragging the window does."""
        self._scroll()
        self.screen.resize(rows, columns)
        self._size(columns, rows)

    def type(self, keys: str) -> None:
        """Press keys. A byte that is not UTF-8 is given as a lone surrogate (PEP 383)."""
        os.write(self._master, keys.encode(errors="surrogateescape"))

    def read(self, timeout_s: float = 0.02) -> bool:
        """Put what the program has written on the screen; False when the program has closed the terminal."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        shown = self._decoder.decode(data)
        self.raw += shown
        if self._kitty and "a=q" in shown:
            self.type("\x1b_Gi=1;OK\x1b\\")
        shown = PICTURE.sub("", self._pending + shown)
        begun = PICTURE_BEGINS.search(shown)
        at = begun.start() if begun else len(shown)
        self._pending = shown[at:]
        self._stream.feed(CLUSTER.sub(self._fold, shown[:at]))
        return True

    def _fold(self, cluster: re.Match[str]) -> str:
        return self._folded.setdefault(cluster[0], chr(PRIVATE_USE + len(self._folded)))

    def _scroll(self) -> None:
        self._scrolled += [
            "".join(line[x].data for x in range(self.screen.columns)).rstrip()
            for line in islice(self.screen.history.top, len(self._scrolled), None)
        ]

    @property
    def rows(self) -> list[str]:
        """The rows that have scrolled away and the rows on the screen, without trailing blanks."""
        self._scroll()
        return [*self._scrolled, *(row.rstrip() for row in self.screen.display)]

    @property
    def text(self) -> str:
        """All rows as one text."""
        text = "\n".join(self.rows)
        for cluster, folded in self._folded.items():
            text = text.replace(folded, cluster)
        return text

    def count(self, pattern: str) -> int:
        """The number of matches of a pattern in ``text``."""
        return len(re.findall(pattern, self.text, re.MULTILINE))

    def wait(self, pattern: str, times: int = 1, timeout_s: float = PATIENCE_S) -> None:
        """Wait until ``text`` has this many matches of a pattern."""
        end = time.monotonic() + timeout_s
        while self.count(pattern) < times:
            if time.monotonic() > end:
                raise TimeoutError(f"no {pattern!r} on the screen:\n{self.text.rstrip()}")
            if not self.read():
                raise EOFError(f"the program ended without {pattern!r}:\n{self.text.rstrip()}")

    def do(self, keys: str, pattern: str) -> None:
        """Press keys, and wait for one more match of a pattern."""
        while select.select([self._master], [], [], 0)[0]:
            self.read()
        times = self.count(pattern) + 1
        self.type(keys)
        self.wait(pattern, times)

    def left(self) -> int:
        """Wait until the program has ended, and return its exit status."""
        end = time.monotonic() + PATIENCE_S
        while self.read():
            if time.monotonic() > end:
                raise TimeoutError(f"the program does not end:\n{self.text.rstrip()}")
        return self.process.wait(PATIENCE_S)

    def hang_up(self) -> int:
        """Close the terminal as a window is closed, and return the program's exit status."""
        os.close(self._master)
        self._master = -1
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End the program, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._master >= 0:
            os.close(self._master)
