"""The ladder from the wish to ask to the first token as a picture: a bar a lane, cut where each phase ends (SVG 2)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from compare.measuring.ladder import PHASES
from compare.measuring.lanes import lane_label
from compare.measuring.statistics import Figure
from compare.measuring.verdicts import number
from compare.showing.page import lane_rules
from compare.showing.plots import round_ticks
from compare.showing.results import Results

EXPERIMENTS = ("phases, cold", "phases, cold, TLS", "phases, warm")
# One shade a phase, so that the same phase looks the same in every lane.
SHADES = {
    "tcp": 0.95,
    "tls": 0.8,
    "opened": 0.65,
    "sent": 0.5,
    "first_byte": 0.38,
    "first_event": 0.28,
    "first_token": 0.2,
}
_WIDTH, _LEFT, _ROOM, _ROW, _TOP, _FOOT = 640.0, 124.0, 90.0, 24.0, 54.0, 40.0


def ladders(results: Results) -> dict[str, tuple[str, str]]:
    """The title and the SVG of each ladder that was measured, by the name of its file without ``.svg``."""
    found = {}
    for experiment in EXPERIMENTS:
        if experiment in results.experiments:
            measured = results.experiments[experiment]
            lanes = {lane: _rungs(measured.figures[lane]) for lane in results.lanes if lane in measured.figures}
            title = f"{measured.title}, ms"
            found[experiment.replace(", ", "-").replace("TLS", "tls")] = (title, ladder(title, lanes))
    return found


def _rungs(figures: Mapping[str, Figure]) -> dict[str, float]:
    """The time at which each phase ends, in the order of the phases; a later phase never ends before an earlier one."""
    rungs: dict[str, float] = {}
    last = 0.0
    for name in PHASES:
        if f"phase_{name}" in figures:
            last = max(last, figures[f"phase_{name}"].median)
            rungs[name] = last
    return rungs


def ladder(title: str, lanes: Mapping[str, Mapping[str, float]]) -> str:
    """The picture of these rungs by lane and phase, in ms. A phase that a library does not tell is part of the next one."""
    high = max((value for rungs in lanes.values() for value in rungs.values()), default=1.0) or 1.0
    bottom = _TOP + len(lanes) * _ROW
    parts = [f'<text class="t" x="10" y="20">{escape(title)}</text>', *_legend(lanes)]
    for value in round_ticks(high):
        x = _x(value, high)
        parts.append(f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="m" x="{x:.1f}" y="{bottom + 15}">{value:g}</text>')
    parts.append(
        f'<text class="m" x="{(_LEFT + _WIDTH - _ROOM) / 2}" y="{bottom + 32}">ms since the wish to ask</text>'
    )
    for row, (lane, rungs) in enumerate(lanes.items()):
        y = _TOP + row * _ROW
        parts.append(f'<text class="e" x="{_LEFT - 8}" y="{y + 16}">{escape(lane_label(lane))}</text>')
        begun = 0.0
        for name, ends in rungs.items():
            x, width = _x(begun, high), _x(ends, high) - _x(begun, high)
            parts.append(
                f'<rect class="{lane}" fill-opacity="{SHADES[name]}" x="{x:.1f}" y="{y + 4}" width="{max(width, 0.5):.1f}"'
                f' height="{_ROW - 9}"><title>{escape(PHASES[name].title)}: {number(ends)} ms</title></rect>'
            )
            begun = ends
        parts.append(f'<text x="{_x(begun, high) + 6:.1f}" y="{y + 16}">{number(begun)} ms</text>')
    height = bottom + _FOOT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" height="{height:g}"'
        f' role="img" aria-label="{escape(title)}"><style>{_style(list(lanes))}</style>'
        f'<rect class="b" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def _legend(lanes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The shades of the phases that occur, in one line."""
    parts, x = [], 10.0
    for name, phase in PHASES.items():
        if any(name in rungs for rungs in lanes.values()):
            parts.append(f'<rect class="k" fill-opacity="{SHADES[name]}" x="{x:g}" y="32" width="12" height="12"/>')
            parts.append(f'<text x="{x + 16:g}" y="42">{escape(phase.title)}</text>')
            x += 30 + 7 * len(phase.title)
    return parts


def _style(lanes: list[str]) -> str:
    light, dark = lane_rules(lanes, "fill")
    return (
        "text{font:12px system-ui,sans-serif;fill:#1d2430}.t{font-weight:600;font-size:14px}.m{text-anchor:middle;fill:#5b6675}"
        ".e{text-anchor:end}.a{stroke:#d8dee7}.b{fill:#fff}.k{fill:#1d2430}"
        f"{light}@media(prefers-color-scheme:dark){{text{{fill:#e6eaf0}}.m{{fill:#9aa6b6}}.a{{stroke:#333c49}}.k{{fill:#e6eaf0}}"
        f".b{{fill:#12161d}}{dark}}}"
    )


def _x(value: float, high: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _ROOM) * value / high
