"""Answers to commands as tables, and times as one reads them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.table import Table
from rich.text import Text

from shared.client import text


def table(rows: Iterable[tuple[str, ...]], *, header: tuple[str, ...] = ()) -> Table:
    """Rows of text in columns. Each cell is one line: what a server sent cannot break the table."""
    drawn = Table(box=None, show_header=bool(header), header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    given = [tuple(row) for row in rows]
    for i in range(len(header) or max(map(len, given), default=0)):
        drawn.add_column(header[i] if header else "", overflow="fold", style="" if i or header else "dim")
    for row in given:
        drawn.add_row(*(Text(text.line(cell)) for cell in row))
    return drawn


def moment(at_ms: float) -> str:
    """A time in Unix epoch milliseconds as local time; with its date when that is not today."""
    at = datetime.fromtimestamp(at_ms / 1000).astimezone()
    return at.strftime("%H:%M:%S" if at.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")
