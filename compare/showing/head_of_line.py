"""The picture of head-of-line blocking: when each token of each stream was due and when it came, a panel a protocol (SVG 2)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from compare.measuring.packets.results import Round, late_tokens
from compare.measuring.packets.ways import WAYS, Connections
from compare.showing.plots import round_ticks

_WIDTH, _LEFT, _RIGHT = 760.0, 12.0, 12.0
_ROW, _TITLE, _GAP, _HEAD, _FOOT = 6.0, 18.0, 10.0, 42.0, 46.0
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1d2430}.t{font-weight:600;font-size:14px}.m{fill:#5b6675}.c{text-anchor:middle}"
    ".a{stroke:#d8dee7}.o{stroke:#8b97a8;stroke-width:1}.l{stroke:#b3261e;stroke-width:3}.b{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#e6eaf0}.m{fill:#9aa6b6}.a{stroke:#333c49}.o{stroke:#6b7788}.l{stroke:#ff8a80}"
    ".b{fill:#12161d}}"
)


def head_of_line(rounds: Sequence[Round], delay_ms: float) -> str:
    """The picture of these rounds, which have the same loss; empty without rounds.

    Each row is a stream. A tick is a token that came in time. A bar begins when a late token was due and ends when it came.
    """
    if not rounds:
        return ""
    first = rounds[0]
    seconds = max(_seconds(one) for one in rounds)
    panel = _TITLE + max(len(one.turns) for one in rounds) * _ROW + _GAP
    height = _HEAD + len(rounds) * panel + _FOOT
    title = f"Tokens of {len(first.turns)} streams at {first.loss:.0%} loss: which streams does a lost packet delay?"
    parts = [
        f'<text class="t" x="{_LEFT}" y="20">{escape(title)}</text>',
        f'<text class="m" x="{_LEFT}" y="36">A row is a stream; a tick is a token in time; a bar is a late token, from when it'
        " was due to when it came.</text>",
    ]
    bottom = height - _FOOT
    for value in round_ticks(seconds):
        x = _x(value, seconds)
        parts.append(f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEAD}" y2="{bottom:.1f}"/>')
        parts.append(f'<text class="m c" x="{x:.1f}" y="{bottom + 16:.1f}">{value:g} s</text>')
    parts.append(
        f'<text class="m" x="{_LEFT}" y="{bottom + 34:.1f}">Bars of several rows that end at the same moment were released by'
        " the same packet.</text>"
    )
    for place, one in enumerate(rounds):
        parts += _panel(one, delay_ms, seconds, _HEAD + place * panel)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" height="{height:g}"'
        f' role="img" aria-label="{escape(title)}"><style>{_STYLE}</style><rect class="b" width="100%" height="100%"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _panel(one: Round, delay_ms: float, seconds: float, top: float) -> list[str]:
    begun_ms = _begun_ms(one)
    whole = [turn for turn in one.turns if turn.error is None]
    late = late_tokens(whole, delay_ms)
    late_at = {(token.stream, token.came_ms) for token in late}
    tokens = [(turn.stream, turn.asked_at + arrival.ms) for turn in whole for arrival in turn.of("chunk")]
    ticks = "".join(
        f"M{_x((came - begun_ms) / 1000, seconds):.1f} {_y(stream, top) - 2:.1f}v4"
        for stream, came in tokens
        if (stream, came) not in late_at
    )
    bars = "".join(
        f"M{_x((token.due_ms - begun_ms) / 1000, seconds):.1f} {_y(token.stream, top):.1f}"
        f"H{_x((token.came_ms - begun_ms) / 1000, seconds):.1f}"
        for token in late
    )
    share = f"{len(late) / len(tokens):.1%}" if tokens else "–"
    return [
        f'<text x="{_LEFT}" y="{top + 13:.1f}">{escape(_titled(one.way, one.connections, len(one.turns)))}: {share} of the tokens'
        " late</text>",
        f'<path class="o" d="{ticks}"/>' if ticks else "",
        f'<path class="l" d="{bars}"/>' if bars else "",
    ]


def _titled(way: str, connections: Connections, streams: int) -> str:
    return f"{WAYS[way].title}, {'one connection' if connections == 'one' else f'{streams} connections'}"


def _begun_ms(one: Round) -> float:
    return min(turn.asked_at for turn in one.turns)


def _seconds(one: Round) -> float:
    ends = [turn.asked_at + turn.arrivals[-1].ms for turn in one.turns if turn.arrivals]
    return (max(ends, default=_begun_ms(one)) - _begun_ms(one)) / 1000 or 1.0


def _x(seconds: float, whole: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / whole


def _y(stream: int, top: float) -> float:
    return top + _TITLE + stream * _ROW + _ROW / 2
