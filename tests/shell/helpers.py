"""What the tests of the shell share: keys, and what a terminal shows when a turn has ended."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from sequence_diagrams.terminal import PtyTerminal

CTRL_C, CTRL_D, UP, TAB, ALT_ENTER = "\x03", "\x04", "\x1b[A", "\t", "\x1b\r"
QUIET = r"{word} · .*\d+ chunks?$|{word} · whole reply after .*$"

Open = Callable[..., PtyTerminal]


def quiet(word: str) -> str:
    """A pattern for the line of numbers that follows a finished turn."""
    return QUIET.format(word=word)


def composed(said: str) -> str:
    """The text as pyte shows it: a letter and its marks are one character (UAX 15)."""
    return unicodedata.normalize("NFC", said)


def session_of(terminal: PtyTerminal) -> str:
    """The id of the session that the shell is in."""
    terminal.do("/info\r", r"^session +[0-9a-f-]{36}$")
    return str(re.findall(r"^session +([0-9a-f-]{36})$", terminal.text, re.MULTILINE)[-1])
