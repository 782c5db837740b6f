"""The plots beside ``report.md``: bars of one metric of one experiment on a linear axis that begins at 0 (SVG 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from compare.measuring.lanes import lane_label
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import Figure
from compare.measuring.verdicts import number
from compare.showing.page import lane_rules
from compare.showing.results import Results

# The cells that are drawn, as the report has them; the first experiment of each row that was measured.
_DRAWN: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("first-token", ("1 stream",), "ttft"),
    ("delay", ("1 stream",), "delay_p50"),
    ("bytes", ("bytes",), "down_per_token"),
    ("server-cpu", ("throughput",), "server_us"),
    ("memory", ("memory",), "stream_kib"),
    ("after-a-cut", ("cut, with resume",), "back"),
    ("picture", ("picture 4 MB", "picture 1 MB", "picture 100 kB"), "image_ms"),
)
_WIDTH, _LEFT, _ROOM, _ROW, _TOP = 640.0, 124.0, 130.0, 24.0, 34.0
_AXIS = 40.0
_MOST_TICKS = 6


def plots(results: Results) -> dict[str, tuple[str, str]]:
    """The title and the SVG of each plot, by the name of its file without ``.svg``."""
    found = {}
    for name, experiments, metric in _DRAWN:
        measured = [one for one in experiments if one in results.experiments]
        figures = _figures(results, measured[0], metric) if measured else {}
        if figures:
            title = f"{results.experiments[measured[0]].title}: {METRICS[metric].title}, {METRICS[metric].unit}"
            found[name] = (title, bars(title, figures, METRICS[metric].unit))
    return found


def _figures(results: Results, experiment: str, metric: str) -> dict[str, Figure]:
    of_lane = {lane: results.experiments[experiment].figure(lane, metric) for lane in results.lanes}
    return {lane: figure for lane, figure in of_lane.items() if figure is not None}


def bars(title: str, figures: Mapping[str, Figure], unit: str) -> str:
    """One bar a lane with its interval. It has a dark variant for readers who prefer it."""
    high = max(max(figure.high, figure.median) for figure in figures.values()) or 1.0
    bottom = _TOP + len(figures) * _ROW
    parts = [f'<text class="t" x="10" y="20">{escape(title)}</text>']
    for value in round_ticks(high):
        x = _x(value, high)
        parts.append(f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="m" x="{x:.1f}" y="{bottom + 15}">{value:g}</text>')
    parts.append(f'<text class="m" x="{(_LEFT + _WIDTH - _ROOM) / 2}" y="{bottom + 32}">{escape(unit)} (linear)</text>')
    for row, (lane, figure) in enumerate(figures.items()):
        y = _TOP + row * _ROW
        width = _x(figure.median, high) - _LEFT
        parts.append(f'<text class="e" x="{_LEFT - 8}" y="{y + 16}">{escape(lane_label(lane))}</text>')
        parts.append(
            f'<rect class="{lane}" x="{_LEFT}" y="{y + 4}" width="{max(width, 0.5):.1f}" height="{_ROW - 9}"/>'
        )
        if figure.high > figure.low:
            ends = f'x1="{_x(figure.low, high):.1f}" x2="{_x(figure.high, high):.1f}"'
            parts.append(f'<line class="i" {ends} y1="{y + 11.5}" y2="{y + 11.5}"/>')
        x = _x(max(figure.high, figure.median), high) + 6
        parts.append(f'<text x="{x:.1f}" y="{y + 16}">{number(figure.median)} {escape(unit)}</text>')
    height = bottom + _AXIS
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" height="{height:g}"'
        f' role="img" aria-label="{escape(title)}"><style>{_style(list(figures))}</style>'
        f'<rect class="b" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def _style(lanes: Sequence[str]) -> str:
    light, dark = lane_rules(lanes, "fill")
    return (
        "text{font:12px system-ui,sans-serif;fill:#1d2430}.t{font-weight:600;font-size:14px}.m{text-anchor:middle;fill:#5b6675}"
        ".e{text-anchor:end}.a{stroke:#d8dee7}.i{stroke:#1d2430;stroke-width:1.6}.b{fill:#fff}"
        f"{light}@media(prefers-color-scheme:dark){{text{{fill:#e6eaf0}}.m{{fill:#9aa6b6}}.a{{stroke:#333c49}}.i{{stroke:#e6eaf0}}"
        f".b{{fill:#12161d}}{dark}}}"
    )


def _x(value: float, high: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _ROOM) * value / high


def round_ticks(high: float) -> list[float]:
    """Round values from 0 to ``high``: steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(high / _MOST_TICKS))
    step = next(by * power for by in (1, 2, 5, 10) if high / (by * power) <= _MOST_TICKS)
    return [round(number * step, 9) for number in range(math.floor(high / step + 1e-9) + 1)]
