"""Where a user types and reads: what a terminal and a pipe have in common.

Both give what the user does as a stream of ``Input`` and print rows of text. Only a screen prints.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from prompt_toolkit.formatted_text import StyleAndTextTuples

from shared.client.shell.painter import Painter, Renderable


@dataclass(frozen=True, slots=True)
class EnteredLine:
    """The user entered a line, which may be empty or hold newlines. ``damaged``: some of it was not UTF-8 and is U+FFFD."""

    text: str
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ctrl-C. ``typed``: the input line held text."""

    typed: bool


@dataclass(frozen=True, slots=True)
class Typing:
    """The text of the input line changed."""

    text: str


@dataclass(frozen=True, slots=True)
class Resized:
    """The terminal has another size."""


Input = EnteredLine | Interrupt | Typing | Resized


@dataclass(frozen=True, slots=True)
class Footer:
    """The rows that are drawn again below the scrolled rows: live rows, the prompt, and a hint while the input line is empty."""

    prompt: StyleAndTextTuples = field(default_factory=list)
    live: Sequence[str] = ()
    hint: str = ""


class Screen(ABC):
    """``footer`` gives the footer as it is now. It is called whenever something is drawn.

    ``attended``: a user is there, reads and can answer. ``draws``: the screen can move its cursor.
    """

    attended: bool
    draws: bool
    painter: Painter

    def __init__(self) -> None:
        self.footer: Callable[[], Footer] = Footer

    @abstractmethod
    def inputs(self) -> AsyncIterator[Input]:
        """What the user does, until the user leaves."""

    @abstractmethod
    def rows(self, rows: Iterable[str]) -> None:
        """Print rows above the input line."""

    @abstractmethod
    def note(self, renderable: Renderable, width: int | None = None) -> None:
        """Print a remark about the conversation, in rows of at most ``width`` cells (None: the screen's)."""

    @abstractmethod
    def raw(self, text: str) -> None:
        """Write text exactly as it is: where no terminal could act on it, or to make the terminal act."""

    def say(self, renderable: Renderable) -> None:
        """Print text, or anything that rich can draw."""
        self.rows(self.painter.rows(renderable))

    @abstractmethod
    def ask(self, prompt: str) -> None:
        """Print the prompt of the next line, where no footer shows it."""

    @abstractmethod
    def refresh(self) -> None:
        """Draw the footer again, when it has changed."""

    @property
    @abstractmethod
    def live_height(self) -> int:
        """How many live rows fit on the screen."""

    @abstractmethod
    def set_line(self, text: str) -> None:
        """Replace the text of the input line."""

    @abstractmethod
    def add(self, text: str) -> None:
        """Insert text into the input line at the cursor."""

    @abstractmethod
    def clear(self) -> None:
        """Clear the screen."""

    @abstractmethod
    def leave(self) -> None:
        """End ``inputs``."""

    @abstractmethod
    def bare(self) -> contextlib.AbstractAsyncContextManager[None]:
        """The terminal without the input line, for code that asks the terminal itself something."""
