"""A reply on an output where nothing can be erased, such as a pipe or a file."""

from __future__ import annotations

import sys


def write_stdout(data: bytes) -> None:
    """Write to stdout at once. Raises BrokenPipeError when no reader is left, and OSError that names stdout."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from error


class PrintedReply:
    """A reply on an output that cannot be erased. After ``rewind`` the reply comes again, and printed text is not printed twice."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        # The printed text that has not come again since the last rewind.
        self._ahead = ""

    def add(self, text: str) -> str:
        """Take the next part of the reply, and return the text of it that must be printed."""
        self._texts.append(text)
        if self._ahead.startswith(text):
            self._ahead = self._ahead[len(text) :]
            return ""
        if text.startswith(self._ahead):
            new, self._ahead = text[len(self._ahead) :], ""
            return new
        # The reply differs from what is printed, so all of it is printed.
        self._ahead = ""
        return "\n" + "".join(self._texts)

    @property
    def text(self) -> str:
        """All that is printed."""
        return "".join(self._texts) + self._ahead

    def rewind(self) -> None:
        """The reply comes again."""
        self._ahead, self._texts = self.text, []
