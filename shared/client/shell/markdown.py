"""A reply as Markdown (CommonMark 0.31 with tables and strikethrough) while it streams: finished blocks leave, the rest stays.

A terminal can only scroll what is done, so a block is done when nothing that may still come can change it. Nothing of the text is
lost on the way: HTML, link targets, images and single newlines are shown, where a web page would hide or fold them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from shared.client.shell.text import visible

# A block longer than this is shown in pieces, so that no frame takes long.
MAX_BLOCK_CHARS = 4_000
_GLIMPSE_CHARS = 1_500
_CODE_THEME = "ansi_dark"
_MIN_CELLS_A_COLUMN = 6
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Block:
    """Markdown that is done: one top-level block, or a piece of a long one.

    ``joined``: goes on where the block before it stopped. ``fence``: the line that opened this piece of code, when it is not in it.
    """

    source: str
    joined: bool = False
    fence: str = ""


class Blocks:
    """Takes a reply in pieces and gives it back in blocks; what it still holds is the ``tail``. ``plain``: by whole lines."""

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain
        self._parser = parser()
        self._text = ""
        self._held = ""
        self._fence = ""
        self._joined = False

    @property
    def tail(self) -> Block:
        """What has come and is not done; of what comes faster than it can be shown, the end."""
        if len(self._text) <= 2 * MAX_BLOCK_CHARS:
            return Block(self._text, joined=self._joined, fence=self._fence)
        return Block(self._text[-_GLIMPSE_CHARS:].partition("\n")[2])

    def feed(self, text: str) -> None:
        """Take what the model said next."""
        text = self._held + text
        # CR LF may be cut in two.
        self._held = "\r" if text.endswith("\r") else ""
        self._text += visible(text.removesuffix(self._held))

    def take(self, *, end: bool = False) -> list[Block]:
        """The blocks that are done, some thousand characters at a time: ask until there are none. ``end``: nothing more comes."""
        if end and self._held:
            self._text += visible(self._held)
            self._held = ""
        if self._plain:
            return self._take_lines(end=end)
        whole_lines = len(self._text) if end else self._text.rfind("\n") + 1
        if whole_lines > MAX_BLOCK_CHARS or (len(self._text) > MAX_BLOCK_CHARS and not whole_lines):
            return self._take_piece()
        done, rest = self._split(self._text[:whole_lines], end=end)
        return self._give(done, rest + self._text[whole_lines:])

    def _take_lines(self, *, end: bool) -> list[Block]:
        cut = len(self._text) if end or len(self._text) > MAX_BLOCK_CHARS else self._text.rfind("\n") + 1
        lines, self._text = self._text[:cut], self._text[cut:]
        return [Block(lines)] if lines else []

    def _take_piece(self) -> list[Block]:
        """From a long text: the blocks that are done, or a piece of the one that is too long."""
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
        """The sources of the blocks of whole lines that are done, and what is left of the lines."""
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
        return _is_closed(token, lines)
    if token.type in ("heading_open", "hr"):
        return True
    return token.type == "paragraph_open" and not lines[-1].strip()


def _is_closed(token: Token, lines: Sequence[str]) -> bool:
    assert token.map is not None
    start, stop = token.map
    return stop - start >= 2 and lines[stop - 1].rstrip().endswith(token.markup)


def parser() -> MarkdownIt:
    """What both sides of a block read it with. No HTML and no reference definitions: both would vanish from the screen."""
    return MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")


# -- drawing -------------------------------------------------------------------------------------------------------------


class _Code(CodeBlock):
    """Code inside something else, or not done yet: too long a line is folded, never cut."""

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Code:
        element = cls("text", markdown.code_theme)
        element.lines = _code_lines(token)
        return element

    lines: list[Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            line.no_wrap, line.overflow = False, "fold"
            yield line


class _Heading(Heading):
    """Every heading stands on the left."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class _Table(TableElement):
    """A table whose cells are folded, never cut with an ellipsis."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, style="markdown.table.border", collapse_padding=True)
        header = self.header.row.cells if self.header and self.header.row else []
        rows = [[cell.content for cell in row.cells] for row in self.body.rows] if self.body else []
        if len(header) * _MIN_CELLS_A_COLUMN > options.max_width:
            # Too narrow for columns: a line a cell, a blank line between rows.
            for row in [[cell.content for cell in header], *rows]:
                yield from row
                yield Text()
            return
        for cell in header:
            heading = cell.content.copy()
            heading.stylize("markdown.table.header")
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        yield table


class Rendered(Markdown):
    """A block for rich; colours are the terminal's own."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "fence": _Code,
        "code_block": _Code,
        "heading_open": _Heading,
        "table_open": _Table,
    }

    def __init__(self, block: Block, markdown: MarkdownIt) -> None:
        self.inlines = {*Markdown.inlines, "link", "link_url"}
        source = block.fence + block.source
        self.markup = source
        self.parsed = list(_shown(markdown.parse(source), source.splitlines(), hide_fence=bool(block.fence)))
        self.code_theme = _CODE_THEME
        self.justify = "left"
        self.style = "none"
        self.hyperlinks = False
        self.inline_code_lexer = None
        self.inline_code_theme = _CODE_THEME


def code_of(block: Block, markdown: MarkdownIt) -> list[Text]:
    """The lines of a block that is one piece of code, as long as they are; none for any other block."""
    source = block.fence + block.source
    tokens = [token for token in markdown.parse(source) if token.level == 0]
    if len(tokens) != 1 or tokens[0].type not in ("fence", "code_block"):
        return []
    (token,) = _shown(tokens, source.splitlines(), hide_fence=bool(block.fence))
    return _code_lines(token)


def _shown(tokens: Iterable[Token], lines: Sequence[str], *, hide_fence: bool) -> Iterator[Token]:
    """The tokens with everything in them that rich would leave out."""
    skip_to = ""
    for token in tokens:
        if skip_to:
            skip_to = "" if token.type == skip_to and token.level == 0 else skip_to
            continue
        if token.type == "table_open" and not _fits(token, lines):
            skip_to = "table_close"
            assert token.map is not None
            raw = "".join(f"{line}\n" for line in lines[slice(*token.map)])
            yield Token("code_block", "code", 0, content=raw, meta={"raw": True})
            continue
        if token.type == "fence":
            token.meta = {"opened": not hide_fence, "closed": _is_closed(token, lines)}
            hide_fence = False
        if token.children:
            token.children = list(_shown_inline(token.children))
        yield token


def _shown_inline(tokens: Sequence[Token]) -> Iterator[Token]:
    href, title, said = "", "", ""
    for token in tokens:
        if token.type == "softbreak":
            yield Token("hardbreak", "br", 0)
        elif token.type == "link_open":
            href, title, said = str(token.attrs.get("href", "")), str(token.attrs.get("title", "")), ""
            yield Token("link_text_open", "link", 1)
        elif token.type == "link_close":
            yield Token("link_text_close", "link", -1)
            target = f'{href} "{title}"' if title else href
            if target != said:
                yield Token("link_url_open", "link_url", 1)
                yield Token("text", "", 0, content=f" ({target})")
                yield Token("link_url_close", "link_url", -1)
        elif token.type == "image":
            title = str(token.attrs.get("title", ""))
            target = f'{token.attrs.get("src", "")} "{title}"' if title else str(token.attrs.get("src", ""))
            yield Token("text", "", 0, content=f"![{token.content}]({target})")
        else:
            said += token.content
            yield token


def _fits(table: Token, lines: Sequence[str]) -> bool:
    """Whether the table shows all of its source: GFM drops the cells beyond the last column."""
    assert table.map is not None
    counts = [len(re.findall(r"(?<!\\)\|", line.strip().strip("|"))) for line in lines[slice(*table.map)]]
    return max(counts) == counts[0]


def _code_lines(token: Token) -> list[Text]:
    """Highlighted code line by line, tabs and all; its fence in grey, so that it can be copied as it was said."""
    code = token.content.removesuffix("\n")
    name = token.info.split()[0] if token.info.split() else "text"
    text = Syntax("", name, theme=_CODE_THEME, tab_size=0).highlight(code)
    text.style, text.tab_size = "", None
    lines = list(text.split("\n", allow_blank=True))[: code.count("\n") + 1] if token.content else []
    if [line.plain for line in lines] != (code.split("\n") if token.content else []):
        lines = [Text(line) for line in code.split("\n")]
    if token.type == "fence":
        lines = [
            *[Text(token.markup + token.info, style="dim")] * token.meta["opened"],
            *lines,
            *[Text(token.markup, style="dim")] * token.meta["closed"],
        ]
    elif not token.meta.get("raw"):
        lines = [Text.assemble(_INDENT, line) for line in lines]
    return lines
