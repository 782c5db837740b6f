"""A table of figures for the terminal: lanes down, metrics across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from compare.measuring.lanes import lane_label
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import Figure, differ


def figures_table(
    title: str, figures: Mapping[str, Mapping[str, Figure]], metrics: Sequence[str], *, intervals: bool
) -> Table:
    """The table. The best cell of a column is bold, and with it the cells that do not differ from it.

    ``intervals`` adds the 95 % interval below each median.
    """
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), title_style="bold")
    table.add_column("lane", style="cyan")
    for metric in metrics:
        table.add_column(f"{METRICS[metric].title}\n{METRICS[metric].unit}", justify="right")
    for lane, found in figures.items():
        cells = [_cell(metric, found.get(metric), _lowest(metric, figures), intervals=intervals) for metric in metrics]
        table.add_row(lane_label(lane), *cells)
    return table


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
