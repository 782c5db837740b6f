"""What the command-line programs print about themselves: the text of ``--help``, and why a program ends."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"``[^`]+``: ")


def usage_of(doc: str | None) -> str:
    """The text of a docstring for ``--help``, without the marks of reStructuredText.

    A docstring that begins with the command itself loses the command, which ``--help`` shows in its first line.
    """
    text = doc or ""
    text = _COMMAND.sub("", text, count=1) if text.startswith("``") else text
    return (text[:1].upper() + text[1:]).replace("``", "")


def reason(error: Exception) -> str:
    """The words of an exception. An OSError is shown without its number, and with the file where it names one."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)
