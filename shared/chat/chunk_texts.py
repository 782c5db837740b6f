"""From what a model says to the texts of ``chunk`` events: valid Unicode, never empty, at most 8,192 characters each."""

from __future__ import annotations

from collections.abc import Iterator

from shared.llm.tokens import is_one_character

# A JSON escape takes at most six bytes, so a line with so many characters stays under 64 KiB, where common readers
# stop.
MAX_CHUNK_CHARS = 8192
_LOOK_BACK_CHARS = 64


class ChunkTexts:
    """Cuts the pieces of one reply into the texts of its chunks.

    JSON may escape an emoji as two UTF-16 surrogates, and a provider may send them in two frames: the first half is
    kept back until the second half comes. A half that stays alone becomes U+FFFD, because it has no UTF-8.
    """

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> Iterator[str]:
        """The texts that are whole with this piece."""
        if not self._half and len(piece) <= MAX_CHUNK_CHARS and piece.isascii():
            if piece:
                yield piece
            return
        text, self._half = self._half + piece, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        yield from _split(_joined(text))

    def rest(self) -> Iterator[str]:
        """The text that remains at the end of the reply: none, or U+FFFD for a surrogate half without its other half."""
        text, self._half = self._half, ""
        yield from _split(_joined(text))


def _joined(text: str) -> str:
    """The text with its pairs of surrogates as one character each and every lone surrogate as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
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
