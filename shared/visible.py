"""Text that others have written, made visible before a terminal sees it: nothing in it makes the terminal act.

Control characters (ECMA-48's C0, DEL and C1) and the characters that turn the direction of a line (UAX 9) become signs.
"""

from __future__ import annotations

# Unicode's control pictures (U+2400) stand for C0 and DEL. Terminals treat line separators differently, so these get
# the sign for a newline.
NEWLINE_SIGN = "\u2424"
SIGNS: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(32)},
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
    **dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"),
    # A lone surrogate has no encoding.
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
    0x7F: "\u2421",
    0x85: NEWLINE_SIGN,
    0x2028: NEWLINE_SIGN,
    0x2029: NEWLINE_SIGN,
}
del SIGNS[0x09], SIGNS[0x0A]
_LINE_SIGNS = {**SIGNS, 0x09: " ", 0x0A: NEWLINE_SIGN}


def visible(text: str) -> str:
    """The text with a sign for every control character but tab and newline."""
    return text.replace("\r\n", "\n").translate(SIGNS)


def visible_line(text: str) -> str:
    """The text on one line, with a sign for every control character."""
    return text.translate(_LINE_SIGNS)
