"""Text for a terminal: nothing in it that a server or a model sent makes the terminal act.

Control characters (ECMA-48's C0, DEL and C1) become visible signs, so an escape sequence can be read and does nothing.
"""

from __future__ import annotations

from rich.cells import cell_len

# The words for a user whose text ``entered`` had to change.
NOT_UTF8 = "not valid UTF-8: what could not be read was replaced by \ufffd"

# Unicode's control pictures (U+2400) for C0 and DEL. Terminals treat the other line separators differently, so they get a sign.
_NEWLINE_SIGN = "\u2424"
_SIGNS: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(32)},
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
    # What turns the direction of the text around it (UAX 9) could make a line look like another.
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"),
    # Lone surrogates, which have no encoding.
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
    0x7F: "\u2421",
    0x85: _NEWLINE_SIGN,
    0x2028: _NEWLINE_SIGN,
    0x2029: _NEWLINE_SIGN,
}
del _SIGNS[0x09], _SIGNS[0x0A]
_LINE_SIGNS = {**_SIGNS, 0x09: " ", 0x0A: _NEWLINE_SIGN}


def entered(given: str) -> str:
    """Text as a user gave it, fit to be sent: the two halves of a character are joined, and what is no character is U+FFFD.

    A shell argument or a pasted text may hold bytes that are not UTF-8, which Python keeps as lone surrogates (PEP 383).
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
