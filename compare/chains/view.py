"""The savings of chains as sections of a report: a table and sentences for each line, and stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from compare.chains.columns import Saving
from compare.chains.plan import ChainPlan
from compare.measuring.lanes import lane_label, lane_title
from compare.measuring.metrics import Metric
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, figure
from compare.measuring.verdicts import matters, number, verdict
from compare.showing.section import Section

_TURN = Metric("chain", "a turn, both kept", "ms", "E2E of a turn", "client", None)
# The columns of a saving, in the order of the table and of the bars, with their colours.
_COLUMNS = {
    "handshake": ("handshake", "#3b6fb6"),
    "upload": ("upload", "#c77d1e"),
    "server_state": ("server state", "#5a8f3c"),
    "rest": ("rest", "#8a8f98"),
}
_WIDTH, _LEFT, _ROW, _TOP = 640.0, 110.0, 24.0, 56.0


def section(plan: ChainPlan, rtt_ms: float, tls: bool, found: Mapping[str, Sequence[Saving]]) -> Section:
    """One line: its table, its sentences, its picture. ``found`` has the savings of each wire, one a round."""
    figures = {wire: _figures(rounds) for wire, rounds in found.items() if rounds}
    after = {wire: of["after"] for wire, of in figures.items()}
    behind = _behind(found, after)
    rows = [
        [lane_label(wire), *(_cell(of[name]) for name in ("before", "after", "whole", *_COLUMNS)), _cell(behind[wire])]
        for wire, of in figures.items()
    ]
    line = f"RTT {rtt_ms:g} ms, {'TLS' if tls else 'no TLS'}"
    size = plan.question_bytes
    return Section(
        name=f"chain-{rtt_ms:g}ms{'-tls' * tls}",
        title=f"Chains of {plan.turns} turns: {line}",
        about=(
            f"Questions of {size:,} bytes, replies of {plan.reply_tokens} tokens from a model that does not wait, {plan.rounds}"
            f" rounds, {plan.mbit_per_s:g} Mbit/s; ms a turn, in brackets the 95 % interval. Before: each turn sends the whole"
            " conversation on a new connection. After: the server keeps the conversation, and the turns share a connection. The"
            " columns add up to the saving; rest has the way back, on which a turn's first event repeats its message."
            " Transport is what a turn takes longer than on the quickest wire when all is kept. The relay"
            " has no slow start, so a long upload costs less than on a real line."
        ),
        heads=["wire", "before", "after", "saving", *(title for title, _ in _COLUMNS.values()), "transport"],
        rows=rows,
        sentences=[*_sentences(figures, behind), verdict(_TURN, after)] if figures else ["Nothing was measured."],
        svg=_bars(f"What keeping saves, ms a turn: {line}", figures) if figures else "",
    )


def _figures(rounds: Sequence[Saving]) -> dict[str, Figure]:
    """The figures of a wire: its columns, before, after and the whole saving."""
    found = {}
    for name in ("before", "after", "whole", *_COLUMNS):
        made = figure([float(getattr(one, name)) for one in rounds])
        assert made is not None
        found[name] = made
    return found


def _behind(found: Mapping[str, Sequence[Saving]], after: Mapping[str, Figure]) -> dict[str, Figure]:
    """How much longer a turn takes on each wire than on the quickest one when all is kept, round by round."""
    quick = min(after, key=lambda wire: after[wire].median, default="")
    behind = {}
    for wire in after:
        made = figure([one.after - best.after for one, best in zip(found[wire], found[quick], strict=False)])
        assert made is not None
        behind[wire] = made
    return behind


def _sentences(figures: Mapping[str, Mapping[str, Figure]], behind: Mapping[str, Figure]) -> list[str]:
    """How much of each wire's saving is what, and how much of the largest saving is the transport."""
    if min(of["whole"].n for of in figures.values()) < ENOUGH_ROUNDS:
        return []
    said = []
    for wire, of in figures.items():
        before, whole = of["before"].median, of["whole"].median
        if not matters(_TURN, of["before"], of["after"]):
            said.append(f"{lane_title(wire)}: keeping saves nothing that matters.")
            continue
        parts = [
            f"{title} {number(of[name].median, 100)} ms"
            for name, (title, _) in _COLUMNS.items()
            if abs(of[name].median) >= 0.5
        ]
        said.append(f"{lane_title(wire)}: keeping saves {whole / before:.0%} ({', '.join(parts)}).")
    slow = max(figures, key=lambda wire: figures[wire]["before"].median)
    quick = min(figures, key=lambda wire: figures[wire]["after"].median)
    if quick != slow:
        whole = figures[slow]["before"].median - figures[quick]["after"].median
        less = f"From {lane_title(slow)}, before, to {lane_title(quick)}, after: {whole / figures[slow]['before'].median:.0%} less."
        if matters(_TURN, figures[slow]["after"], figures[quick]["after"]):
            transport = behind[slow].median
            share = f"{number(transport)} ms of these {number(whole)} ms ({transport / whole:.0%})"
            said.append(f"{less} The transport is {share}; {lane_title(slow)} with both kept has the rest too.")
        else:
            said.append(
                f"{less} Nothing of it that matters is the transport: {lane_title(slow)} with both kept is as quick."
            )
    return said


def _cell(found: Figure) -> str:
    low, middle, high = (f"{value:,.1f}" for value in (found.low, found.median, found.high))
    return middle if low == high else f"{middle} ({low}–{high})"


def _bars(title: str, figures: Mapping[str, Mapping[str, Figure]]) -> str:
    """A bar a wire: what is left after keeping, then the columns of the saving (SVG 2)."""
    high = max(max(of["before"].median, of["after"].median) for of in figures.values()) or 1.0
    scale = (_WIDTH - _LEFT - 90) / high
    parts = [f'<text x="10" y="20" font-weight="600">{escape(title)}</text>']
    x = _LEFT
    for label, colour in (("after", "#d0d5dd"), *_COLUMNS.values()):
        parts.append(f'<rect x="{x}" y="32" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="42">{label}</text>')
        x += 30 + 8 * len(label)
    for row, (wire, of) in enumerate(figures.items()):
        y, x = _TOP + row * _ROW, _LEFT
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(lane_label(wire))}</text>')
        for name, colour in (("after", "#d0d5dd"), *((name, colour) for name, (_, colour) in _COLUMNS.items())):
            width = max(0.0, of[name].median * scale)
            parts.append(f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="{_ROW - 9}" fill="{colour}"/>')
            x += width
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{number(of["before"].median)} ms</text>')
    height = _TOP + len(figures) * _ROW + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" height="{height:g}"'
        f' role="img" aria-label="{escape(title)}"><style>text{{font:12px system-ui,sans-serif;fill:#1d2430}}'
        "@media(prefers-color-scheme:dark){text{fill:#e6eaf0}.b{fill:#12161d}}</style>"
        f'<rect class="b" width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
