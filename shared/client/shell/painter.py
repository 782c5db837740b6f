"""What rich draws, as rows of text with SGR sequences (ECMA-48, section 8.3.117), for the scrollback and the footer."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

from rich.console import COLOR_SYSTEMS, Console, ConsoleRenderable, RichCast
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from shared.client.shell.markdown import Block, parser
from shared.client.shell.markdown_drawing import Rendered, code_of

Renderable = ConsoleRenderable | RichCast | str
_MAX_TEXT_CELLS = 120
# Foreground colours of the terminal's own palette, which are readable on black and on white.
_THEME = Theme(
    {
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold italic",
        "markdown.code": "cyan",
        "markdown.block_quote": "italic",
        "markdown.hr": "dim",
        "markdown.item.bullet": "cyan",
        "markdown.item.number": "cyan",
        "markdown.link": "underline",
        "markdown.link_url": "dim",
        "markdown.table.border": "dim",
        "markdown.table.header": "bold",
    }
)


class Painter:
    """Draws for one terminal. ``columns`` gives its width now. ``plain``: Markdown is shown as source."""

    def __init__(self, columns: Callable[[], int], *, plain: bool, colours: bool = True) -> None:
        self.plain = plain
        self._columns = columns
        self._parser = parser()
        self._tail: tuple[tuple[Block, int] | None, list[str]] = None, []
        self._console = Console(
            file=io.StringIO(),
            force_terminal=colours,
            legacy_windows=False,
            theme=_THEME,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._colours = COLOR_SYSTEMS.get(self._console.color_system or "")

    @property
    def width(self) -> int:
        """The width for text, in cells."""
        return max(8, min(self._columns(), _MAX_TEXT_CELLS))

    def rows(self, renderable: Renderable, width: int | None = None) -> list[str]:
        """Text, or anything that rich can draw, as rows. A string is text, never markup."""
        drawn = Text(renderable) if isinstance(renderable, str) else renderable
        options = self._console.options.update(width=width or self.width, height=None)
        return [self._row(row) for row in self._console.render_lines(drawn, options, pad=False)]

    def block(self, block: Block) -> list[str]:
        """A finished block. A line of code stays one row, which the terminal wraps, so that copied code has its own lines."""
        if self.plain:
            return block.source.removesuffix("\n").split("\n")
        rows = self._code(block) or _stripped(self.rows(Rendered(block, self._parser)))
        return rows if block.joined else ["", *rows]

    def _code(self, block: Block) -> list[str]:
        """The rows of a block that is code, none for any other."""
        return [self._row(line.render(self._console)) for line in code_of(block, self._parser)]

    def tail(self, block: Block, width: int) -> list[str]:
        """The unfinished end of a reply, folded to ``width``. Drawn again only when it has changed."""
        if self._tail[0] != (block, width):
            self._tail = (block, width), self._draw_tail(block, width)
        return self._tail[1]

    def _draw_tail(self, block: Block, width: int) -> list[str]:
        if self.plain:
            return self.rows(Text(block.source, overflow="fold"), width)
        rows = _stripped(self.rows(Rendered(block, self._parser), width))
        return rows if block.joined or not rows else ["", *rows]

    def _row(self, segments: Iterable[Segment]) -> str:
        parts = [part for part in segments if not part.control and part.text != "\n"]
        if self._console.no_color:
            parts = list(Segment.remove_color(parts))
        # Blanks at the end of a row would become rows of their own in a narrower window.
        while parts and not parts[-1].text.strip(" ") and not (parts[-1].style and parts[-1].style.bgcolor):
            parts.pop()
        if parts and not (parts[-1].style and parts[-1].style.bgcolor):
            parts[-1] = Segment(parts[-1].text.rstrip(" "), parts[-1].style)
        return "".join(
            part.style.render(part.text, color_system=self._colours) if part.style else part.text for part in parts
        )


def _stripped(rows: list[str]) -> list[str]:
    """The rows without the empty ones at both ends: ``block`` sets the space between blocks."""
    start, stop = 0, len(rows)
    while start < stop and not rows[start]:
        start += 1
    while stop > start and not rows[stop - 1]:
        stop -= 1
    return rows[start:stop]
