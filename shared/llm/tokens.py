"""Text in tokens: how the offline model cuts its reply, and how it counts.

A token never ends inside a grapheme cluster (UAX 29, simplified), so that no piece of a reply shows half a character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

COUNTED_CHARS = 10_000

_FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
# Words of seven letters and more are cut; a token includes the punctuation and the whitespace that follow it.
_TOKEN = re.compile(r"(?:\w{4}(?=\w{3})|\w{1,6}[^\w\s]{0,6}|[^\w\s]{1,6})\s{0,24}|\s{1,24}")


def count_tokens(texts: Iterable[str]) -> int:
    """Number of tokens in the texts; the count of a text beyond 10,000 characters is projected from its beginning."""
    count = 0
    for text in texts:
        head = text[:COUNTED_CHARS]
        count += len(_TOKEN.findall(head)) * max(1, len(text) // COUNTED_CHARS)
    return count


def split_tokens(text: str) -> list[str]:
    """Split into tokens whose concatenation is the text; none is empty or ends inside a grapheme cluster or CR LF."""
    tokens = _TOKEN.findall(text)
    if text.isascii() and "\r" not in text:
        return tokens
    whole: list[str] = []
    for token in tokens:
        if whole and is_one_character(whole[-1], token):
            whole[-1] += token
        else:
            whole.append(token)
    return whole


def is_one_character(left: str, right: str) -> bool:
    """Whether the border between two texts is inside a grapheme cluster (rules GB3, GB9, GB9a, GB9c, GB11, GB12)."""
    before, after = left[-1], right[0]
    if before == "\r" and after == "\n":
        return True
    if before in "\r\n":
        return False
    if after in "\u200c\u200d" or before == "\u200d" or unicodedata.category(after) in ("Mn", "Mc", "Me"):
        return True
    if unicodedata.combining(before) == 9 and after.isalpha():  # a virama binds two consonants
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return True
    return after in _FLAGS and (len(left) - len(left.rstrip(_FLAGS))) % 2 == 1
