"""Lines in, text out, without moving a cursor: a pipe in place of a terminal, and a terminal that cannot move its cursor.

The replies go to stdout as they came, everything about them to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TextIO

from shared.client import text
from shared.client.printed import write_stdout
from shared.client.shell.painter import Painter, Renderable
from shared.client.shell.screen import EnteredLine, Input, Interrupt, Screen
from shared.signals import handling_signals

_COLUMNS = 100
# The signal after ``fg`` (POSIX), when the user's shell has written below the prompt.
_CONTINUED = () if sys.platform == "win32" else (signal.SIGCONT,)


class Pipe(Screen):
    """See Screen. A pipe has no user who could answer a question."""

    attended = False
    draws = False

    def __init__(self) -> None:
        super().__init__()
        self.painter = Painter(lambda: _COLUMNS, plain=True, colours=False)
        self._inputs: asyncio.Queue[Input | None] = asyncio.Queue()

    async def inputs(self) -> AsyncIterator[Input]:
        loop = asyncio.get_running_loop()

        def read() -> None:
            # The event loop may be closed before the pipe is.
            with contextlib.suppress(RuntimeError):
                for line in stdin_lines():
                    loop.call_soon_threadsafe(self._inputs.put_nowait, line)
                loop.call_soon_threadsafe(self._inputs.put_nowait, None)

        # A thread that reads a pipe cannot be stopped; a daemon thread does not keep the process alive.
        threading.Thread(target=read, name="stdin", daemon=True).start()
        while (item := await self._inputs.get()) is not None:
            yield item

    def rows(self, rows: Iterable[str]) -> None:
        self.raw("".join(f"{row}\n" for row in rows))

    def note(self, renderable: Renderable, width: int | None = None) -> None:
        sys.stderr.write("".join(f"{row}\n" for row in self.painter.rows(renderable, width)))
        sys.stderr.flush()

    def raw(self, text: str) -> None:
        write_stdout(text.encode(errors="surrogateescape"))

    def ask(self, prompt: str) -> None:
        return

    def refresh(self) -> None:
        return

    @property
    def live_height(self) -> int:
        return 0

    def set_line(self, text: str) -> None:
        return

    def add(self, text: str) -> None:
        return

    def clear(self) -> None:
        return

    def leave(self) -> None:
        self._inputs.put_nowait(None)

    def bare(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()


class DumbTerminal(Pipe):
    """A terminal with ``TERM=dumb``: the user is there, reads a prompt before each line, and stops an answer with Ctrl-C."""

    attended = True

    def __init__(self) -> None:
        super().__init__()
        self.painter = Painter(lambda: shutil.get_terminal_size().columns, plain=True, colours=False)
        # The prompt that the cursor stands behind.
        self._prompt = ""

    async def inputs(self) -> AsyncIterator[Input]:
        loop = asyncio.get_running_loop()
        # Windows has no such handlers; there Ctrl-C ends the program.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(signal.SIGINT, self._inputs.put_nowait, Interrupt(typed=False))
        try:
            with handling_signals(_CONTINUED, lambda number: self._ask_again()):
                async for item in super().inputs():
                    if isinstance(item, EnteredLine):
                        self._prompt = ""
                    yield item
        finally:
            # A remark that is printed now begins on a line of its own, and no prompt follows it.
            if self._prompt:
                self._prompt = ""
                with contextlib.suppress(OSError):
                    sys.stderr.write("\n")
                    sys.stderr.flush()
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(signal.SIGINT)

    def note(self, renderable: Renderable, width: int | None = None) -> None:
        prompt, self._prompt = self._prompt, ""
        if prompt:
            super().raw("\n")
        super().note(renderable, width)
        if prompt:
            self.ask(prompt)

    def raw(self, words: str) -> None:
        begin, self._prompt = "\n" if self._prompt else "", ""
        super().raw(begin + text.visible(words))

    def ask(self, prompt: str) -> None:
        self._prompt = prompt
        super().raw(prompt)

    def _ask_again(self) -> None:
        # A terminal that hangs up sends SIGCONT, too, and takes nothing more.
        with contextlib.suppress(OSError):
            self.ask(self._prompt)


def stdin_lines() -> Iterator[EnteredLine]:
    """The lines of stdin. Bytes that are not text in its encoding do not end it; see ``text.entered``."""
    assert sys.stdin is not None
    encoding = sys.stdin.encoding or "utf-8"
    for data in _split(_pieces(sys.stdin)):
        given = data.decode(encoding, "surrogateescape").removeprefix("\ufeff").removesuffix("\r")
        line = text.entered(given)
        yield EnteredLine(line, damaged=line != given)


def _pieces(stdin: TextIO) -> Iterator[bytes]:
    try:
        # Not through Python's buffer: a thread that waits in it holds a lock, and at exit the interpreter wants that lock.
        fd = stdin.fileno()
    except OSError:
        yield stdin.buffer.read()
        return
    with contextlib.suppress(OSError):
        while data := os.read(fd, 65_536):
            yield data


def _split(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest
