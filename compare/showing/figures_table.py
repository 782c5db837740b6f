"""A table of figures for the terminal: lanes down, metrics across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compare.measuring.lanes import lane_label
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import Figure, differ

_SPACE = 2


def figures_table(
    title: str, figures: Mapping[str, Mapping[str, Figure]], metrics: Sequence[str], *, intervals: bool, width: int
) -> RenderableType:
    """The table, as several tables one below the other where ``width`` is too small for one.

    The best cell of a column is bold, and with it the cells that do not differ from it. ``intervals`` adds the 95 % interval below
    each median.
    """
    cells = {
        metric: [
            _cell(metric, found.get(metric), _lowest(metric, figures), intervals=intervals)
            for found in figures.values()
        ]
        for metric in metrics
    }
    labels = [lane_label(lane) for lane in figures]
    first = max(cell_len(label) for label in ("lane", *labels))
    widths = {metric: max(_width(metric, column), cell_len(METRICS[metric].title)) for metric, column in cells.items()}
    if first + sum(_SPACE + needed for needed in widths.values()) > width:
        # Titles are broken between words.
        widths = {metric: _width(metric, column) for metric, column in cells.items()}
    tables: list[Table] = []
    columns: list[list[list[Text]]] = []
    left = 0
    for metric, column in cells.items():
        if not tables or _SPACE + widths[metric] > left:
            tables.append(_table("" if tables else title, first))
            columns.append([])
            left = width - first
        heading = f"{METRICS[metric].title}\n{METRICS[metric].unit}"
        tables[-1].add_column(heading, justify="right", width=widths[metric])
        left -= _SPACE + widths[metric]
        columns[-1].append(column)
    for table, columns_of_table in zip(tables, columns, strict=True):
        for row, label in enumerate(labels):
            table.add_row(label, *(column[row] for column in columns_of_table))
    return Group(*tables)


def _table(title: str, first: int) -> Table:
    table = Table(
        title=title or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, _SPACE, 0, 0),
        title_style="bold",
    )
    table.add_column("lane", style="cyan", no_wrap=True, width=first)
    return table


def _width(metric: str, column: Sequence[Text]) -> int:
    """The cells that a column needs: for its values, its unit, and the longest word of its title."""
    texts = [
        *(line for text in column for line in text.plain.split("\n")),
        METRICS[metric].unit,
        *METRICS[metric].title.split(),
    ]
    return max(map(cell_len, texts))


def _lowest(metric: str, figures: Mapping[str, Mapping[str, Figure]]) -> Figure | None:
    column = [found[metric] for found in figures.values() if metric in found]
    return min(column, key=lambda figure: figure.median, default=None)


def _cell(metric: str, figure: Figure | None, lowest: Figure | None, *, intervals: bool) -> Text:
    if figure is None or lowest is None:
        return Text("—", style="dim")
    best = METRICS[metric].better == "lower" and (figure is lowest or not differ(figure, lowest))
    text = Text(_format(metric, figure, figure.median), style="bold" if best else "")
    if not intervals:
        return text
    low, high = _format(metric, figure, figure.low), _format(metric, figure, figure.high)
    return text.append("\n" if low == high else f"\n{low}–{high}", style="dim not bold")


def _format(metric: str, figure: Figure, value: float) -> str:
    if METRICS[metric].unit == "share":
        return f"{value:.0%}"
    digits = 0 if abs(figure.median) >= 100 or METRICS[metric].unit in ("B", "tokens") else 1
    return f"{value:,.{digits}f}"
