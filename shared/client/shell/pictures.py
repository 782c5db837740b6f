"""Pictures in the terminal: kitty's graphics protocol or sixel where the terminal answers that it has one, else half-blocks.

textual-image asks the terminal when it is imported and reads the answer from stdin. So it is imported once, without the input line.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import logging
import os
import re
import select
import sys
from typing import Any

from PIL import Image
from rich.console import Console

from shared.client.shell.screen import Screen

_MAX_COLUMNS, _MAX_ROWS = 64, 24
_PREVIEW_COLUMNS, _PREVIEW_ROWS = 32, 10
_MAX_PIXELS = 1024
_PATIENCE_S, _QUIET_S = 0.5, 0.05
_DA1 = re.compile(rb"\x1b\[\?[\d;]*c")
_ANSWERS = re.compile(rb"\x1b\[[?\d;]*[ct]|\x1b_G.*?\x1b\\")


class TerminalPictures:
    """Draws pictures on one screen, with what its terminal can draw."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._library: Any = None
        self._asking = asyncio.Lock()

    async def prepare(self) -> None:
        """Ask the terminal, once, what it can draw."""
        async with self._asking:
            if self._library is None and self._screen.draws:
                async with self._screen.bare():
                    self._library, typed = await asyncio.to_thread(_learn)
                if typed.isprintable():
                    self._screen.add(typed)

    async def preview(self, data: bytes) -> list[str]:
        """A small picture of half-blocks as rows; no rows when the data are no readable picture."""
        if self._library is None or _without_colours():
            return []
        picture = await asyncio.to_thread(_scaled, data)
        if picture is None:
            return []
        columns = self._columns(picture, _PREVIEW_COLUMNS, _PREVIEW_ROWS)
        return self._screen.painter.rows(self._library.HalfcellImage(picture, width=columns, height="auto"), columns)

    async def draw(self, data: bytes) -> None:
        """Draw a picture into the scrollback."""
        if self._library is None or (self._library.Image is self._library.HalfcellImage and _without_colours()):
            return
        picture = await asyncio.to_thread(_scaled, data)
        if picture is None:
            return
        columns = self._columns(picture, min(_MAX_COLUMNS, self._screen.painter.width - 1), _MAX_ROWS)
        drawing = self._library.Image(picture, width=columns, height="auto")
        # Sixels take long to compute, so that runs in a thread. Drawing for kitty writes to the terminal itself, so it may not.
        away = self._library.Image is self._library.SixelImage
        drawn = await asyncio.to_thread(_drawn, drawing) if away else _drawn(drawing)
        self._screen.raw(drawn)

    def _columns(self, picture: Image.Image, columns: int, rows: int) -> int:
        """The width in cells that fits into both limits. A cell is about twice as high as it is wide."""
        rows = max(2, min(rows, self._screen.live_height - 4))
        return max(2, min(columns, 2 * rows * picture.width // picture.height))


def _without_colours() -> bool:
    """Whether the user wants no colours (https://no-color.org). Half-blocks without colours show nothing."""
    return bool(os.environ.get("NO_COLOR"))


def _learn() -> tuple[Any, str]:
    """The library, which has asked the terminal, and the text that was typed meanwhile."""
    # The library warns, with a traceback, of a terminal that does not tell the size of its cells.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    library = importlib.import_module("textual_image.renderable")
    # Measuring makes the library ask for the size of a cell, once.
    Console(file=io.StringIO()).measure(library.HalfcellImage(Image.new("RGB", (2, 2)), width=1, height=1))
    if sys.platform == "win32":
        return library, ""
    return library, _late_answers()


def _late_answers() -> str:
    """Read the answers that arrive after the library stopped waiting. Returns the text that the user typed between them.

    Terminals answer in order, and every terminal answers DA1 (ECMA-48 section 8.3.24), so the answer to DA1 is the last one.
    """
    import termios
    import tty

    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin, termios.TCSANOW)
    try:
        os.write(stdout, b"\x1b[c")
        said, wait_s = b"", _PATIENCE_S
        while select.select([stdin], [], [], wait_s)[0]:
            said += os.read(stdin, 1024)
            wait_s = _QUIET_S if _DA1.search(said) else _PATIENCE_S
    finally:
        termios.tcsetattr(stdin, termios.TCSANOW, before)
    return _ANSWERS.sub(b"", said).decode(errors="ignore")


def _scaled(data: bytes) -> Image.Image | None:
    """The picture, no larger than a terminal can show; None when Pillow cannot read it."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
            return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _drawn(drawing: Any) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, legacy_windows=False, width=4 * _MAX_COLUMNS)
    with console.capture() as capture:
        console.print(drawing, end="")
    return capture.get()
