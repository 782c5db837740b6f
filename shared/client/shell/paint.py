"""What rich draws, as rows of text with SGR sequences (ECMA-48, section 8.3.117): for the scrollback, and for the live region."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

from rich.console import COLOR_SYSTEMS, Console, ConsoleRenderable, RichCast
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from shared.client.shell.markdown import Block, Rendered, code_of, parser

Renderable = ConsoleRenderable | RichCast | str
_MAX_TEXT_CELLS = 120
# Foreground colours of the terminal's own palette: they can be read on black and on white.
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


class Paint:
    """Draws for one terminal; ``columns`` asks for its width now. ``plain``: Markdown stays as it was said."""

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
        """The cells that text may take."""
        return max(8, min(self._columns(), _MAX_TEXT_CELLS))

    def rows(self, renderable: Renderable, width: int | None = None) -> list[str]:
        """Anything of rich's as rows; a string is text, never markup."""
        drawn = Text(renderable) if isinstance(renderable, str) else renderable
        options = self._console.options.update(width=width or self.width, height=None)
        return [self._row(row) for row in self._console.render_lines(drawn, options, pad=False)]

    def block(self, block: Block) -> list[str]:
        """A finished block; code is as long as its lines are and the terminal wraps it, so that copying it gives it back."""
        if self.plain:
            return block.source.removesuffix("\n").split("\n")
        rows = self._code(block) or _stripped(self.rows(Rendered(block, self._parser)))
        return rows if block.joined else ["", *rows]

    def _code(self, block: Block) -> list[str]:
        """The rows of a block that is code, none for any other."""
        return [self._row(line.render(self._console)) for line in code_of(block, self._parser)]

    def tail(self, block: Block, width: int) -> list[str]:
        """What is not done yet, folded to ``width``; drawn again only when it has changed."""
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
        # What is blank at the end of a row would become rows of its own in a narrower window.
        while parts and not parts[-1].text.strip(" ") and not (parts[-1].style and parts[-1].style.bgcolor):
            parts.pop()
        if parts and not (parts[-1].style and parts[-1].style.bgcolor):
            parts[-1] = Segment(parts[-1].text.rstrip(" "), parts[-1].style)
        return "".join(
            part.style.render(part.text, color_system=self._colours) if part.style else part.text for part in parts
        )


def _stripped(rows: list[str]) -> list[str]:
    """Without the empty rows at both ends; the space between blocks is not rich's matter."""
    start, stop = 0, len(rows)
    while start < stop and not rows[start]:
        start += 1
    while stop > start and not rows[stop - 1]:
        stop -= 1
    return rows[start:stop]
