"""What the demo and the race show while all transports run at once: a live table, or a line for each step without a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

_REFRESHES_PER_S = 12
_COLUMNS_WITHOUT_TERMINAL = 132


def open_console() -> Console:
    """A console on stdout. Without a terminal it is wide, so that tables stay on one line for a program that reads them."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _COLUMNS_WITHOUT_TERMINAL)


def say(console: Console, words: str, *, style: str = "", indent: int = 0) -> None:
    """Print a text, set in by ``indent`` cells. A terminal's lines are broken between words; elsewhere each line stays whole."""
    if console.is_terminal and words:
        console.print(Padding(Text(words, style=style), (0, 0, 0, indent), expand=False))
    else:
        console.print(f"{' ' * indent}{words}", style=style, markup=False, soft_wrap=True)


class LiveView(ABC):
    """A view that is drawn again and again on a terminal; elsewhere each step is printed as a line."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._begun = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the view was made."""
        return time.perf_counter() - self._begun

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """The text that the screen shows now."""

    @contextlib.contextmanager
    def shown(self, *, keep: bool) -> Iterator[None]:
        """Show the view in this block; with ``keep`` its last state stays on the screen."""
        if self.console.is_terminal:
            with Live(self, console=self.console, refresh_per_second=_REFRESHES_PER_S, transient=not keep):
                yield
        else:
            yield

    def step(self, line: str) -> None:
        """Print a step with its time, where there is no terminal."""
        if not self.console.is_terminal:
            self.console.print(f"{self.elapsed_s:5.1f} s  {line}", markup=False, soft_wrap=True)
