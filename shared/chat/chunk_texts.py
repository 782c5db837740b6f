"""From what a model says to the texts of ``chunk`` events: valid Unicode, never empty, at most 8,192 characters each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from shared.llm.tokens import is_one_character

# A JSON escape takes at most six bytes, so a line with so many characters stays under 64 KiB, where common readers
# stop.
MAX_CHUNK_CHARS = 8192
_LOOK_BACK_CHARS = 64
# At the end of a piece: the first half of a pair of surrogates, or the first bytes of a character of two, three or four bytes.
_UNFINISHED = re.compile(
    "(?:[\ud800-\udbff]"
    "|(?<![\ud800-\udbff])(?:[\udcc2-\udcdf]|[\udce0-\udcef][\udc80-\udcbf]?|[\udcf0-\udcf4][\udc80-\udcbf]{0,2}))\\Z"
)
# Surrogates that stand for no byte.
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class ChunkTexts:
    """Cuts the pieces of one reply into the texts of its chunks.

    A provider may send an emoji in two frames: as the two UTF-16 surrogates of JSON's escapes, or as bytes of UTF-8, which
    arrive here as surrogates too (PEP 383). The first part is kept back until the rest comes. A part that stays alone becomes
    U+FFFD, because it has no UTF-8.
    """

    def __init__(self) -> None:
        self._part = ""

    def add(self, piece: str) -> Sequence[str]:
        """The texts that are whole with this piece."""
        if not self._part and len(piece) <= MAX_CHUNK_CHARS and piece.isascii():
            return (piece,) if piece else ()
        text, self._part = self._part + piece, ""
        if unfinished := _UNFINISHED.search(text, len(text) - 3):
            text, self._part = text[: unfinished.start()], unfinished[0]
        return list(_split(_joined(text)))

    def rest(self) -> Sequence[str]:
        """The text that remains at the end of the reply: none, or U+FFFD for a part of a character without its rest."""
        text, self._part = self._part, ""
        return list(_split(_joined(text)))


def _joined(text: str) -> str:
    """The text with its pairs of surrogates and its bytes of UTF-8 as whole characters, and every other surrogate as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        pairs = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return _HALF.sub("\ufffd", pairs).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text


def _split(text: str) -> Iterator[str]:
    """Texts of at most 8,192 characters; a grapheme cluster stays whole unless it is longer than 64 characters."""
    start = 0
    while len(text) - start > MAX_CHUNK_CHARS:
        end = latest = start + MAX_CHUNK_CHARS
        while end > latest - _LOOK_BACK_CHARS and is_one_character(text[start:end], text[end]):
            end -= 1
        end = end if end > latest - _LOOK_BACK_CHARS else latest
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
