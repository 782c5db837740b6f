"""Text for a terminal: nothing in it that a server or a model sent makes the terminal act.

Control characters (ECMA-48's C0, DEL and C1) become visible signs, so an escape sequence can be read and does nothing.
"""

from __future__ import annotations

from rich.cells import cell_len

from shared.visible import NEWLINE_SIGN, SIGNS

# The words for a user whose text ``entered`` had to change.
NOT_UTF8 = "not valid UTF-8: the bytes that could not be read were replaced by \ufffd"

# The client keeps these marks (UAX 9), because text in a right-to-left script may need them.
_MARKS = (0x061C, 0x200E, 0x200F)
_SIGNS = {code: sign for code, sign in SIGNS.items() if code not in _MARKS}
_LINE_SIGNS = {**_SIGNS, 0x09: " ", 0x0A: NEWLINE_SIGN}


def entered(given: str) -> str:
    """Text as a user gave it, fit to be sent: surrogate pairs are joined, and lone surrogates become U+FFFD.

    Python keeps bytes of a shell argument or a pasted text that are not UTF-8 as lone surrogates (PEP 383).
    """
    return given.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def visible(text: str) -> str:
    """The text with a sign for every control character but tab and newline. CR LF becomes a newline."""
    return text.replace("\r\n", "\n").translate(_SIGNS)


def json_visible(data: bytes) -> str:
    """One line of JSON with those characters escaped that ``visible`` would replace: the same JSON, and nothing acts."""
    return "".join(f"\\u{ord(char):04x}" if ord(char) in _SIGNS else char for char in data.decode())


def line(text: str, max_cells: int = 0) -> str:
    """The same on one line, cut with an ellipsis where it is wider than ``max_cells`` (0: never cut)."""
    text = visible(text).strip().translate(_LINE_SIGNS)
    if not max_cells or cell_len(text) <= max_cells:
        return text
    # A character may have no width, so the start may be longer than max_cells.
    text = text[: max_cells * 4]
    while text and cell_len(text) > max_cells - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def clause(sentence: str) -> str:
    """A sentence on one line without its full stop, so that another clause can follow it."""
    return line(sentence).rstrip(".")


def after_seq(after: int) -> str:
    """How far a turn had arrived: ``after seq 93``, or ``before the first event``."""
    return f"after seq {after}" if after else "before the first event"


def plural(count: int, noun: str) -> str:
    """``1 message``, ``2 messages``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size(count: int) -> str:
    """A count of bytes as one reads it, in powers of 1000."""
    for unit, factor in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def duration(ms: float) -> str:
    """A time as one reads it: ``0.4 ms``, ``153 ms``, ``3.4 s``, ``2 min 05 s``."""
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1_000:.1f} s"
    minutes, seconds = divmod(round(ms / 1_000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
