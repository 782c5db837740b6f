"""A reply as Markdown (CommonMark 0.31 with tables and strikethrough) while it streams: which blocks are finished.

A terminal cannot change rows that have scrolled, so a block is printed when nothing that may still arrive can change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from shared.client.text import visible

# A block longer than this is shown in pieces, so that no frame takes long.
MAX_BLOCK_CHARS = 4_000
_GLIMPSE_CHARS = 1_500


@dataclass(frozen=True, slots=True)
class Block:
    """Finished Markdown: one top-level block, or a piece of a long one.

    ``joined``: continues the block before it. ``fence``: the line that opened the code of which this is a later piece.
    """

    source: str
    joined: bool = False
    fence: str = ""


class MarkdownStream:
    """Receives a reply in pieces and gives it back in finished blocks. ``plain``: in whole lines."""

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain
        self._parser = parser()
        self._text = ""
        self._held = ""
        self._fence = ""
        self._joined = False

    @property
    def tail(self) -> Block:
        """The text that is not finished. Only its end, while text arrives faster than it can be printed."""
        if len(self._text) <= 2 * MAX_BLOCK_CHARS:
            return Block(self._text, joined=self._joined, fence=self._fence)
        return Block(self._text[-_GLIMPSE_CHARS:].partition("\n")[2])

    def feed(self, text: str) -> None:
        """Add the next text of the reply."""
        text = self._held + text
        # CR LF may arrive in two pieces.
        self._held = "\r" if text.endswith("\r") else ""
        self._text += visible(text.removesuffix(self._held))

    def finished(self, *, end: bool = False) -> list[Block]:
        """The finished blocks, some thousand characters at a time: call again until there are none. ``end``: the reply is whole."""
        if end and self._held:
            self._text += visible(self._held)
            self._held = ""
        if self.plain:
            return self._finished_lines(end=end)
        whole_lines = len(self._text) if end else self._text.rfind("\n") + 1
        if whole_lines > MAX_BLOCK_CHARS or (len(self._text) > MAX_BLOCK_CHARS and not whole_lines):
            return self._finished_piece()
        done, rest = self._split(self._text[:whole_lines], end=end)
        return self._give(done, rest + self._text[whole_lines:])

    def _finished_lines(self, *, end: bool) -> list[Block]:
        cut = len(self._text) if end or len(self._text) > MAX_BLOCK_CHARS else self._text.rfind("\n") + 1
        lines, self._text = self._text[:cut], self._text[cut:]
        return [Block(lines)] if lines else []

    def _finished_piece(self) -> list[Block]:
        """From a long text: the finished blocks, or a piece of one that is too long."""
        cut = self._text.rfind("\n", 0, MAX_BLOCK_CHARS) + 1
        cut = cut or self._text.rfind(" ", 0, MAX_BLOCK_CHARS) + 1 or MAX_BLOCK_CHARS
        head, more = self._text[:cut], self._text[cut:]
        done, rest = self._split(head)
        if done or not head.strip():
            return self._give(done, rest + more)
        tokens = self._parser.parse(self._fence + head)
        items = [token.map[0] for token in tokens if token.type == "list_item_open" and token.level == 1 and token.map]
        if len(items) > 1:
            # A long list is cut between two of its items.
            lines = head.splitlines(keepends=True)
            head, more = "".join(lines[: items[-1]]), "".join(lines[items[-1] :]) + more
        block = Block(head, joined=self._joined, fence=self._fence)
        if not self._fence and any(token.type == "fence" and token.level == 0 for token in tokens):
            self._fence = head.lstrip("\n").splitlines(keepends=True)[0]
        self._text, self._joined = more, True
        return [block]

    def _split(self, text: str, *, end: bool = False) -> tuple[list[str], str]:
        """The sources of the finished blocks among whole lines, and the lines that are left."""
        skipped = self._fence.count("\n")
        lines = (self._fence + text).splitlines(keepends=True)
        tokens = [token for token in self._parser.parse("".join(lines)) if token.level == 0 and token.map]
        if not tokens:
            return [], "" if end or not text.strip() else text
        done = tokens if end or _is_over(tokens[-1], lines) else tokens[:-1]
        sources, last = [], skipped
        for token in done:
            assert token.map is not None
            sources.append("".join(lines[max(token.map[0], skipped) : token.map[1]]))
            last = token.map[1]
        return sources, "".join(lines[last:]) if done else text

    def _give(self, sources: Sequence[str], rest: str) -> list[Block]:
        blocks = []
        for source in sources:
            blocks.append(Block(source, joined=self._joined, fence=self._fence))
            self._fence, self._joined = "", False
        self._text = rest.lstrip("\n") if sources else rest
        return blocks


def _is_over(token: Token, lines: Sequence[str]) -> bool:
    """Whether no further line can belong to this last block."""
    assert token.map is not None
    if token.type == "fence":
        return is_closed(token, lines)
    if token.type in ("heading_open", "hr"):
        return True
    return token.type == "paragraph_open" and not lines[-1].strip()


def is_closed(token: Token, lines: Sequence[str]) -> bool:
    """Whether the last line of a fenced block is its closing fence."""
    assert token.map is not None
    start, stop = token.map
    return stop - start >= 2 and lines[stop - 1].rstrip().endswith(token.markup)


def parser() -> MarkdownIt:
    """The parser of both modules. Without HTML and reference definitions, because rich would not show them."""
    return MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")
