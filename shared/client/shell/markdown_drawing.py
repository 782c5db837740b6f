"""How rich draws a block of Markdown: nothing of its source is hidden, and no line is cut.

A web page would hide or join HTML, link targets, images and single newlines; here they are shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from shared.client.shell.markdown import Block, is_closed

_CODE_THEME = "ansi_dark"
_MIN_CELLS_A_COLUMN = 6
_INDENT = "    "


class _Code(CodeBlock):
    """Code inside another block, or unfinished code. A long line is folded, never cut."""

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
    """A heading, never centred."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class _Table(TableElement):
    """A table whose cells are folded, never cut with an ellipsis."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, style="markdown.table.border", collapse_padding=True)
        header = self.header.row.cells if self.header and self.header.row else []
        rows = [[cell.content for cell in row.cells] for row in self.body.rows] if self.body else []
        if len(header) * _MIN_CELLS_A_COLUMN > options.max_width:
            # Too narrow for columns: each cell on a line, and a blank line between rows.
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
    """A block for rich, in the terminal's own colours."""

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
    """The lines of a block of code, not folded; no lines for any other block."""
    source = block.fence + block.source
    tokens = [token for token in markdown.parse(source) if token.level == 0]
    if len(tokens) != 1 or tokens[0].type not in ("fence", "code_block"):
        return []
    (token,) = _shown(tokens, source.splitlines(), hide_fence=bool(block.fence))
    return _code_lines(token)


def _shown(tokens: Iterable[Token], lines: Sequence[str], *, hide_fence: bool) -> Iterator[Token]:
    """The tokens, with text in place of everything that rich would not show."""
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
            token.meta = {"opened": not hide_fence, "closed": is_closed(token, lines)}
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
    """Whether drawing the table shows all of its source: GFM drops cells beyond the last column."""
    assert table.map is not None
    counts = [len(re.findall(r"(?<!\\)\|", line.strip().strip("|"))) for line in lines[slice(*table.map)]]
    return max(counts) == counts[0]


def _code_lines(token: Token) -> list[Text]:
    """Highlighted code, line by line, with its tabs and its fence, so that it can be copied as the model wrote it."""
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
