"""A pipe in place of a terminal: lines in, the replies as they came on stdout, everything about them on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Iterable

from shared.client.shell.painter import Painter, Renderable
from shared.client.shell.screen import EnteredLine, Input, Screen

_COLUMNS = 100


class Pipe(Screen):
    """See Screen. There is no footer and no input line."""

    interactive = False

    def __init__(self) -> None:
        super().__init__()
        self.painter = Painter(lambda: _COLUMNS, plain=True, colours=False)
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    async def inputs(self) -> AsyncIterator[Input]:
        loop = asyncio.get_running_loop()
        lines = self._lines

        def read() -> None:
            # The event loop may be closed before the pipe is.
            with contextlib.suppress(RuntimeError, ValueError):
                for line in sys.stdin:
                    loop.call_soon_threadsafe(lines.put_nowait, line)
                loop.call_soon_threadsafe(lines.put_nowait, "")

        # A thread that reads a pipe cannot be stopped; a daemon thread does not keep the process alive.
        threading.Thread(target=read, name="stdin", daemon=True).start()
        while line := await lines.get():
            if line.strip():
                yield EnteredLine(line.rstrip("\r\n"))

    def rows(self, rows: Iterable[str]) -> None:
        self.raw("".join(f"{row}\n" for row in rows))

    def note(self, renderable: Renderable) -> None:
        sys.stderr.write("".join(f"{row}\n" for row in self.painter.rows(renderable)))
        sys.stderr.flush()

    def raw(self, text: str) -> None:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()

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
        self._lines.put_nowait("")

    def bare(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()
