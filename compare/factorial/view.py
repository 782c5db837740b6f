"""The main effects as a section of a report: a line for each level of each factor, a sentence for each difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from compare.factorial.cells import CELLS, FACTORS, TITLES
from compare.factorial.effects import METRICS, Effect, Measured, effects
from compare.measuring.statistics import ENOUGH_ROUNDS
from compare.measuring.verdicts import FELT_MS, FELT_SHARE, listed, number
from compare.showing.section import Section

_WIDTH, _LEFT, _MIDDLE, _ROW, _TOP = 640.0, 190.0, 380.0, 20.0, 34.0
_HALF = 150.0


def sections(measured: Sequence[Measured], planted: str = "") -> list[Section]:
    """The section of the main effects, and the cells behind it. ``planted`` names a cost that was planted."""
    found = effects(measured)
    rounds = max((effect.difference.n for effect in found), default=0)
    return [
        Section(
            name="factors",
            title="Factors: what costs what",
            about=(
                f"{len(CELLS)} servers with the same chat, one for each combination that is possible; {rounds} rounds. An effect"
                " is the mean difference of the pairs of servers that differ in this factor alone, in brackets the 95 % interval"
                " over rounds, then the smallest and the largest difference of a pair. CPU is measured saturated, bytes and delay"
                f" at 50 tokens a second a stream. Ranked from {FELT_SHARE:.0%}, a delay from {FELT_MS:g} ms."
                + (f" Planted: {planted}." if planted else "")
            ),
            heads=["factor", "instead of", *(f"{metric.title}, {metric.unit}" for metric in METRICS.values())],
            rows=[
                [level, levels[0], *(_cell(found, factor, level, metric) for metric in METRICS)]
                for factor, levels in FACTORS.items()
                for level in levels[1:]
            ],
            sentences=_sentences(found, rounds),
            svg=_picture(found),
        ),
        _cells(measured),
    ]


def _cell(found: Sequence[Effect], factor: str, level: str, metric: str) -> str:
    effect = _effect(found, factor, level, metric)
    if effect is None:
        return "–"
    of, base = effect.difference, effect.base.median
    low, middle, high, least, most = (
        f"{'+' if value >= 0 else '−'}{number(abs(value), base)}"
        for value in (of.low, of.median, of.high, effect.least, effect.most)
    )
    pairs = "" if least == most else f"; pairs {least} to {most}"
    return f"{middle} ({low} to {high}){pairs}" if of.n > 1 else middle


def _effect(found: Sequence[Effect], factor: str, level: str, metric: str) -> Effect | None:
    return next((one for one in found if (one.factor, one.level, one.metric) == (factor, level, metric)), None)


def _sentences(found: Sequence[Effect], rounds: int) -> list[str]:
    if rounds < ENOUGH_ROUNDS:
        times = "1 round" if rounds == 1 else f"{rounds} rounds"
        return [f"{times}: no difference is claimed; it takes {ENOUGH_ROUNDS}."]
    said = []
    for name, metric in METRICS.items():
        claimed, nothing = [], []
        for effect in found:
            if effect.metric != name:
                continue
            if not effect.found:
                nothing.append(f"{TITLES[effect.factor]} ({effect.level})")
                continue
            by = effect.difference.median
            claimed.append(
                f"{TITLES[effect.factor]}: {effect.level} {number(abs(by), effect.base.median)} {metric.unit}"
                f" {'more' if by > 0 else 'less'} than {FACTORS[effect.factor][0]} ({by / effect.base.median:+.0%})"
            )
        if not claimed and not nothing:
            continue
        sentence = f"{metric.title}: " + ("; ".join(claimed) + "." if claimed else "")
        if nothing:
            sentence += f"{' N' if claimed else 'n'}o difference found by {listed(nothing)}."
        said.append(sentence)
    return said


def _cells(measured: Sequence[Measured]) -> Section:
    """The medians of all cells, so that a reader can see what the effects are made of."""
    rows = []
    for cell in CELLS:
        of_cell = [one.values for one in measured if one.cell == cell.name]
        values = [sorted(found[metric] for found in of_cell if metric in found) for metric in METRICS]
        rows.append([cell.name, *(number(some[len(some) // 2]) if some else "–" for some in values)])
    return Section(
        name="factor-cells",
        title="Factors: the servers",
        about="The medians over rounds. ASGI is uvicorn without a framework, with ready events in one write; connectrpc runs on"
        " uvicorn, and sends each message by itself, as grpcio does.",
        heads=["server", *(f"{metric.title}, {metric.unit}" for metric in METRICS.values())],
        rows=rows,
        sentences=[],
    )


def _picture(found: Sequence[Effect]) -> str:
    """The effects on server CPU and bytes, as shares of what the first level has: bars to both sides of 0 (SVG 2)."""
    drawn = [(name, [one for one in found if one.metric == name]) for name in ("server_us", "bytes")]
    shares = [one.difference.median / one.base.median for _, some in drawn for one in some if one.base.median]
    if not shares:
        return ""
    # Factors of two are equally long to both sides: a share of +100 % is as far from 0 as one of −50 %.
    far = max(abs(math.log2(max(1 + share, 0.01))) for share in shares) or 1.0
    parts, y = [], _TOP
    for name, some in drawn:
        title = f"{METRICS[name].title}: how many times as much as the first level"
        parts.append(f'<text x="10" y="{y - 14:g}" font-weight="600">{escape(title)}</text>')
        for one in some:
            share = one.difference.median / one.base.median
            length = math.log2(max(1 + share, 0.01)) / far * _HALF
            x = _MIDDLE + min(length, 0.0)
            label = f"{one.level} for {FACTORS[one.factor][0]}"
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 13:g}" text-anchor="end">{escape(label)}</text>')
            colour = "#3b6fb6" if one.found else "#b8bec8"
            parts.append(f'<rect x="{x:.1f}" y="{y + 3:g}" width="{abs(length):.1f}" height="12" fill="{colour}"/>')
            parts.append(f'<text x="{_MIDDLE + _HALF + 20}" y="{y + 13:g}">× {1 + share:.2f}</text>')
            y += _ROW
        parts.append(f'<line x1="{_MIDDLE}" x2="{_MIDDLE}" y1="{y - len(some) * _ROW:g}" y2="{y:g}" stroke="#8a8f98"/>')
        y += _TOP
    height = y - _TOP + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" height="{height:g}"'
        ' role="img" aria-label="Main effects"><style>text{font:12px system-ui,sans-serif;fill:#1d2430}'
        "@media(prefers-color-scheme:dark){text{fill:#e6eaf0}.b{fill:#12161d}}</style>"
        f'<rect class="b" width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
