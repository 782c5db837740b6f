"""How cost grows: a table of every line with its shape, and a picture of each figure on logarithmic axes (SVG 2)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape

from rich.console import Console
from rich.table import Table

from compare.measuring.floors.scale.plan import WHAT, GrowthLine
from compare.measuring.verdicts import number
from compare.showing.page import lane_rules

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640.0, 330.0, 70.0, 170.0, 40.0, 46.0
_LABEL = 15.0


def show_growth(console: Console, axis: str, lines: Sequence[GrowthLine]) -> None:
    """Print the lines of one axis: the medians at each size, and the shape with its fit or its reason."""
    sizes = sorted({size for line in lines for size in line.values})
    table = Table(title=f"{axis}: {WHAT[axis]}", title_justify="left")
    for column in ("figure", "lane", "side"):
        table.add_column(column)
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    table.add_column("shape", overflow="fold")
    for line in sorted(lines, key=lambda line: line.figure):
        medians = dict(line.points())
        cells = [number(medians[size]) if size in medians else "" for size in sizes]
        shape = f"{line.shape.name}: {line.shape.words}" if line.shape is not None else "one size alone"
        table.add_row(f"{line.figure}, {line.unit}", line.lane, line.side, *cells, shape)
    console.print(table)


def pictures(lines: Iterable[GrowthLine]) -> dict[str, str]:
    """An SVG for each figure of each axis, by the name of its file without ``.svg``."""
    together: dict[tuple[str, str], list[GrowthLine]] = {}
    for line in lines:
        if len(line.values) > 1:
            together.setdefault((line.axis, line.figure), []).append(line)
    return {
        f"{axis}-{re.sub('[^a-z0-9]+', '-', figure.lower()).strip('-')}": growth_picture(axis, figure, found)
        for (axis, figure), found in together.items()
    }


def growth_picture(axis: str, figure: str, lines: Sequence[GrowthLine]) -> str:
    """The picture of one figure: a curve a lane, the floor's dashed. It has a dark variant for readers who prefer it."""
    title = f"{figure}, {lines[0].unit}, against {axis}"
    points = [point for line in lines for point in line.points()]
    sizes = sorted({size for size, _ in points})
    lowest = min(max(value, 1e-3) for _, value in points)
    low, high = math.floor(math.log10(lowest)), math.ceil(math.log10(max(value for _, value in points) * 1.01))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(size: float) -> float:
        return _LEFT + (right - _LEFT) * math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])

    def y(value: float) -> float:
        return bottom - (bottom - _TOP) * (math.log10(max(value, lowest)) - low) / max(high - low, 1)

    parts = [f'<text class="t" x="10" y="20">{escape(title)}</text>']
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line class="a" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="v" x="{_LEFT - 6}" y="{at + 4:.1f}">{10.0**power:g}</text>')
    for size in sizes:
        parts.append(f'<line class="a" x1="{x(size):.1f}" x2="{x(size):.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="m" x="{x(size):.1f}" y="{bottom + 16}">{size:,.0f}</text>')
    parts.append(f'<text class="m" x="{(_LEFT + right) / 2}" y="{bottom + 34}">{escape(WHAT[axis])}</text>')
    label_y = -math.inf
    for line in sorted(lines, key=lambda line: -line.points()[-1][1]):
        dashed = " floor" if line.side == "floor" else ""
        drawn = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in line.points())
        parts.append(f'<polyline class="c {line.lane}{dashed}" points="{drawn}"/>')
        label_y = max(y(line.points()[-1][1]) + 4, label_y + _LABEL)
        shape = f", {line.shape.name}" if line.shape is not None else ""
        parts.append(f'<text x="{right + 8}" y="{label_y:.1f}">{escape(f"{line.lane} {line.side}{shape}")}</text>')
    height = max(_HEIGHT, label_y + _LABEL)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" height="{height:g}"'
        f' role="img" aria-label="{escape(title)}"><style>{_style({line.lane for line in lines})}</style>'
        f'<rect class="b" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def _style(lanes: Iterable[str]) -> str:
    light, dark = lane_rules(sorted(lanes), "stroke")
    return (
        "text{font:12px system-ui,sans-serif;fill:#1d2430}.t{font-weight:600;font-size:14px}.m{text-anchor:middle;fill:#5b6675}"
        ".v{text-anchor:end;fill:#5b6675}.a{stroke:#d8dee7}.b{fill:#fff}.c{fill:none;stroke-width:2}.floor{stroke-dasharray:5 4}"
        f"{light}@media(prefers-color-scheme:dark){{text{{fill:#e6eaf0}}.m,.v{{fill:#9aa6b6}}.a{{stroke:#333c49}}"
        f".b{{fill:#12161d}}{dark}}}"
    )
