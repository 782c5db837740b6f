"""Moments as a Mermaid sequence diagram, and as SVG and PNG (with mmdr: no browser is needed).

Times count from the beginning of each phase; ``canonical`` is a diagram without times, sizes and counts: the order of its messages.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import mmdr
import novasvg  # type: ignore[import-untyped]
from PIL import Image

from sequence_diagrams.record import C, D, M, Moment, S

# One look for all: a phase's colour says what kind of thing happens in it.
COLOURS = {
    "green": "rgb(236, 247, 239)",
    "blue": "rgb(236, 243, 253)",
    "amber": "rgb(255, 248, 231)",
    "red": "rgb(253, 238, 236)",
    "grey": "rgb(244, 244, 246)",
}
PNG_WIDTH = 1500
_NAMES = {C: "Client", S: "Server", D: "Store", M: "Model"}
_LOOK: dict[str, Any] = {
    "theme": "base",
    "sequence": {"messageMargin": 28, "actorMargin": 90, "mirrorActors": True},
    "themeVariables": {
        "fontFamily": "Inter, Segoe UI, DejaVu Sans, sans-serif",
        "fontSize": "15px",
        "actorBkg": "#1f3a5f",
        "actorBorder": "#1f3a5f",
        "actorTextColor": "#ffffff",
        "actorLineColor": "#9aa8ba",
        "signalColor": "#2b3a4d",
        "signalTextColor": "#1b2530",
        "noteBkgColor": "#ffffff",
        "noteBorderColor": "#c9d1dc",
        "noteTextColor": "#33475b",
        "labelBoxBkgColor": "#ffffff",
        "labelBoxBorderColor": "#7b8ba1",
        "labelTextColor": "#33475b",
        "loopTextColor": "#33475b",
        "sequenceNumberColor": "#ffffff",
    },
}


def diagram(title: str, moments: Sequence[Moment], command: str) -> str:
    """The Mermaid source."""
    lines = [
        f"%%{{init: {json.dumps(_LOOK)}}}%%",
        "%% Drawn from a recorded run; not written by hand: " + command,
        "sequenceDiagram",
        f"    title {title}",
        "    autonumber",
        *(f"    participant {short} as {name}" for short, name in _NAMES.items()),
    ]
    for phase in _phases(moments):
        lines += _phase(phase)
    return "\n".join(lines) + "\n"


def _phases(moments: Sequence[Moment]) -> Iterator[list[Moment]]:
    current: list[Moment] = []
    for moment in moments:
        if moment.colour and current:
            yield current
            current = []
        current.append(moment)
    yield current


def _phase(moments: list[Moment]) -> Iterator[str]:
    head, *rest = moments
    if not rest:
        return
    yield f"    rect {COLOURS[head.colour]}"
    if head.text:
        yield f"    Note over C,M: {_safe(head.text)}"
    begun = rest[0].at
    for looped, group in _grouped(rest):
        if not looped:
            for moment in group:
                yield from _one(moment, begun)
            continue
        rows = _rows(group)
        yield f"    loop {_span(group, begun, times=max(len(row) for row in rows))}"
        for row in rows:
            yield "  " + _arrow(row[0], _loop_text(row))
        yield "    end"
    yield "    end"


def _grouped(moments: list[Moment]) -> Iterator[tuple[bool, list[Moment]]]:
    """What repeats, and what does not: a token, its commit and its way to the client are one loop, however they interleave.

    What was generated before, while nobody read it, is a loop of its own.
    """
    for looped, group in groupby(moments, key=lambda moment: moment.seq > 0):
        together = list(group)
        made = {moment.seq for moment in together if moment.source == M}
        if looped and made:
            old = [moment for moment in together if moment.seq not in made]
            if old:
                yield True, old
            together = [moment for moment in together if moment.seq in made]
        yield looped, together


def _rows(group: list[Moment]) -> list[list[Moment]]:
    """Token, commit, delivery: the order in which each single chunk went, which is checked."""
    stages: dict[tuple[str, str], list[Moment]] = {}
    for moment in group:
        stages.setdefault((moment.source, moment.target), []).append(moment)
    order = [(M, S), (S, D), (S, C)]
    times = {(stage, moment.seq): moment.at for stage, row in stages.items() for moment in row}
    for (stage, seq), at in times.items():
        for later in order[order.index(stage) + 1 :]:
            if times.get((later, seq), at) < at:
                raise RuntimeError(f"chunk {seq} went {later} before {stage}: a reader saw it before it was committed")
    return [stages[stage] for stage in order if stage in stages]


def _loop_text(row: list[Moment]) -> str:
    first, last = row[0], row[-1]
    text = first.text
    if first.seq != last.seq:
        text = re.sub(rf"(seq:? |/){first.seq}\b", rf"\g<1>{first.seq}…{last.seq}", text)
    sizes = sorted({moment.size for moment in row if moment.size})
    if sizes:
        text += f"<br/>{sizes[0]}–{sizes[-1]} B each" if len(sizes) > 1 else f"<br/>{sizes[0]} B each"
    return text


def _span(group: list[Moment], begun: float, times: int) -> str:
    first, last = group[0].at - begun, max(moment.at for moment in group) - begun
    what = "for each token" if group[0].source == M else "for each event that is there already"
    return f"{what}, {times} times, {first:.0f}–{last:.0f} ms"


def _one(moment: Moment, begun: float) -> Iterator[str]:
    if moment.source == moment.target:
        yield f"    Note over {moment.source or 'C,M'}: {_safe(moment.text)}"
        return
    facts = [f"{(moment.clock or moment.at) - begun:.0f} ms"]
    if moment.size:
        facts.append(f"{moment.size} B")
    yield _arrow(moment, f"{moment.text}<br/>{' · '.join(facts)}")


def _arrow(moment: Moment, text: str) -> str:
    line = "-->>" if moment.target == C or moment.source == M else "->>"
    if moment.lost:
        line = line.replace(">>", "x")
    return f"    {moment.source}{line}{moment.target}: {_safe(text)}"


def _safe(text: str) -> str:
    """Mermaid ends a statement at a semicolon, and # begins an entity."""
    return text.replace(";", ",").replace("#", "")


def canonical(source: str) -> str:
    """The order of the messages: a diagram without times, sizes and counts.

    Nor what ends a stream after its terminal event: a reader may hang up before that.
    """
    text = re.sub(r"<br/>[\d–]+ (?:ms|B)[^<\n]*", "", source)
    text = re.sub(r"    S-->>C: (?:trailers grpc-status 0|the last HTTP chunk: the body ends)\n", "", text)
    return re.sub(r"\d+(?:…\d+)?", "N", text)


def render(source: str, path: Path) -> None:
    """``path`` with ``.svg`` and with ``.png``."""
    svg = _polished(mmdr.render(source).svg())
    path.with_suffix(".svg").write_text(svg, encoding="utf-8")
    pixels = novasvg.Document.load_from_data(svg).render_to_bitmap(PNG_WIDTH, -1, novasvg.Color("#ffffff"))
    with Image.open(io.BytesIO(pixels.to_png())) as picture:
        # A palette: a fifth of the size.
        picture.convert("RGB").quantize(128).save(path.with_suffix(".png"), optimize=True)


def _polished(svg: str) -> str:
    """A title that can be read, white paper, and light behind the words where a life line runs through them."""
    left, top, width, height = re.findall(r'viewBox="(\S+) (\S+) (\S+) (\S+)"', svg)[0]
    paper = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#ffffff"/>'
    svg = re.sub(r"(<svg[^>]*>)", rf"\1{paper}", svg, count=1)
    middle = float(left) + float(width) / 2
    title = f'<text x="{middle:g}" y="-20" text-anchor="middle" style="font-size:22px;font-weight:600;fill:#1f3a5f">'
    svg = re.sub(r'<text x="\S+" y="-25">', title, svg, count=1)
    halo = "stroke:#ffffff;stroke-width:6px;stroke-opacity:0.7;fill:none;font-size:16px"
    words = r'<text ([^>]*)class="messageText"([^>]*) style="[^"]*">(.*?)</text>'
    return re.sub(words, lambda found: f'<text {found[1]}{found[2]} style="{halo}">{found[3]}</text>{found[0]}', svg)
