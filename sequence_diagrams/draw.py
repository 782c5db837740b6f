"""From moments to a Mermaid sequence diagram, and from its source to an SVG (by mmdr, without a browser).

Times count from the beginning of each phase.
"""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import mmdr

from sequence_diagrams.moments import BALANCER, CLIENT, MODEL, OTHER, PART, SERVER, STORE, Moment
from sequence_diagrams.picture import TINTS
from sequence_diagrams.script import LEAVING
from sequence_diagrams.squeeze import squeezed

# The colour of a phase says what happens in it: health, sessions, a turn, a failure, leaving.
_COLOURS = {
    name: f"rgb({', '.join(str(part) for part in bytes.fromhex(light[1:]))})" for name, (light, _) in TINTS.items()
}
_TIMES = "Times count from the beginning of each coloured block."
_DARK = (
    "@media(prefers-color-scheme:dark){"
    + "".join(
        (
            ".paper{fill:#12161d}",
            *(f'rect[fill="{light}"]{{fill:{TINTS[name][1]}}}' for name, light in _COLOURS.items()),
            ".words,.messageText,.noteText,.noteText>tspan,.loopText,.loopText>tspan,.labelText,.labelText>tspan"
            "{fill:#e6eaf0!important}",
            ".halo{stroke:#12161d!important}",
            ".messageLine0,.messageLine1,.actor-line{stroke:#9aa8ba!important}",
            ".note,.labelBox{fill:#1d232d!important;stroke:#5a677a!important}",
            "marker path{fill:#9aa8ba!important;stroke:#9aa8ba!important}",
        )
    )
    + "}"
)
# The width of a letter of 16 px in DejaVu Sans, which is wider than most, and how much wider a capital is.
_CHAR_PX, _CAPITAL_PX = 8.3, 3.2
# An arrow ends so far before a lifeline, at most.
_ARROW_PX = 12.0
# A viewer's letters may be wider than these; so far from a lifeline a label still moves away.
_BESIDE_PX = 12.0
_LOOP_WORDS_PX = 7.0
# The box that names a loop is so wide.
_LOOP_BOX_PX = 50.0
# Lines of a label, and of a note over the whole width, stand on one line up to so many characters, times and sizes not counted.
_LABEL_CHARS = 44
_NOTE_CHARS = 80
# A line of a label is broken after so many characters: where nodes stand side by side, there is room for fewer.
_LINE_CHARS, _LINE_CHARS_OF_NODES = 64, 40
# A line may end before a value in braces, after a comma, and before a dot between two facts; a time and its size stay together.
_BREAK = re.compile(r" · (?!\d+ B)| (?=\{)|(?<=,) ")
_TIME_OR_SIZE = re.compile(r"[\d–]+ (?:ms|B)\b")
# A time alone and a time with a size count as so many characters: a longer number must not break a line elsewhere.
_FACT_CHARS, _FACTS_CHARS = 10, 16
_NAMES = {CLIENT: "Client", SERVER: "Server", STORE: "Store", MODEL: "Model"}
_NAMES_OF_NODES = {
    CLIENT: "Client",
    BALANCER: "Balancer",
    SERVER: "Node 1",
    OTHER: "Nodes 2 and 3",
    STORE: "Store",
    MODEL: "Model",
}
_LOOK: dict[str, Any] = {
    "theme": "base",
    "sequence": {"actorMargin": 115, "mirrorActors": False, "boxMargin": 6, "boxTextMargin": 2, "noteMargin": 2},
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
    names = _NAMES_OF_NODES if any(OTHER in (moment.source, moment.target) for moment in moments) else _NAMES
    lines = [
        f"%%{{init: {json.dumps(_LOOK)}}}%%",
        "%% Drawn from a recorded run; not written by hand: " + command,
        "sequenceDiagram",
        f"    title {title}",
        "    autonumber",
        *(f"    participant {short} as {name}" for short, name in names.items()),
    ]
    line_chars = _LINE_CHARS_OF_NODES if names is _NAMES_OF_NODES else _LINE_CHARS
    for phase in _phases(moments):
        lines += _phase(phase, line_chars)
    return "\n".join(lines) + "\n"


def _phases(moments: Sequence[Moment]) -> Iterator[list[Moment]]:
    current: list[Moment] = []
    for moment in moments:
        if moment.colour and current:
            yield current
            current = []
        current.append(moment)
    yield current


def _phase(moments: list[Moment], line_chars: int) -> Iterator[str]:
    head, *rest = moments
    if not rest or head.text == LEAVING:
        return
    yield f"    rect {_COLOURS[head.colour]}"
    if head.text:
        yield f"    Note over {CLIENT},{MODEL}: {joined(_safe(head.text), ' ', _NOTE_CHARS)}"
    begun = rest[0].at
    for looped, group in _grouped(rest):
        if not looped:
            for moment in group:
                yield from _one(moment, begun, line_chars)
            continue
        rows = _rows(group)
        yield f"    loop {_span(group, begun, times=max(len(row) for row in rows))}"
        for row in rows:
            yield "  " + _arrow(row[0], _loop_text(row), line_chars)
        yield "    end"
    yield "    end"


def _grouped(moments: list[Moment]) -> Iterator[tuple[bool, list[Moment]]]:
    """Groups of moments, each with whether it is drawn as a loop.

    The tokens, their commits and their deliveries are one loop, however they interleave. Events that were generated before, while
    nobody read them, are a loop of their own.
    """
    for looped, group in groupby(moments, key=lambda moment: moment.seq > 0):
        together = list(group)
        generated = {moment.seq for moment in together if moment.source == MODEL}
        if looped and generated:
            earlier = [moment for moment in together if moment.seq not in generated]
            if earlier:
                yield True, earlier
            together = [moment for moment in together if moment.seq in generated]
        yield looped, together


def _rows(group: list[Moment]) -> list[list[Moment]]:
    """The rows of a loop: token, commit, delivery. Raises RuntimeError when a chunk went in another order."""
    stages: dict[tuple[str, str], list[Moment]] = {}
    for moment in group:
        stages.setdefault((moment.source, moment.target), []).append(moment)
    order = [(MODEL, SERVER), (SERVER, STORE), (SERVER, CLIENT)]
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
        text += f" · {sizes[0]}–{sizes[-1]} B each" if len(sizes) > 1 else f" · {sizes[0]} B each"
    return text


def _span(group: list[Moment], begun: float, times: int) -> str:
    first, last = group[0].at - begun, max(moment.at for moment in group) - begun
    what = "for each token" if group[0].source == MODEL else "for each event that is there already"
    if group[0].text == PART:
        what = "for each part"
    return f"{what}, {times} times, {first:.0f}–{last:.0f} ms"


def _one(moment: Moment, begun: float, line_chars: int) -> Iterator[str]:
    if moment.source == moment.target:
        yield f"    Note over {moment.source or f'{CLIENT},{MODEL}'}: {_safe(moment.text)}"
        return
    facts = [f"{(moment.clock or moment.at) - begun:.0f} ms"]
    if moment.size:
        facts.append(f"{moment.size} B")
    yield _arrow(moment, f"{moment.text} · {' · '.join(facts)}", line_chars)


def _arrow(moment: Moment, text: str, line_chars: int) -> str:
    line = "-->>" if moment.target == CLIENT or moment.source == MODEL else "->>"
    if moment.lost:
        line = line.replace(">>", "x")
    return f"    {moment.source}{line}{moment.target}: {label(_safe(text), line_chars)}"


def label(text: str, line_chars: int) -> str:
    """The words of an arrow: short lines are joined, and a line of more than ``line_chars`` is broken."""
    lines = joined(text, " · ", min(_LABEL_CHARS, line_chars)).split("<br/>")
    return "<br/>".join(part for line in lines for part in _broken(line, line_chars))


def _broken(line: str, line_chars: int) -> Iterator[str]:
    """The parts of a line, ``line_chars`` at most each where the line has breaks; outside braces it breaks before inside."""
    ends = [found for found in _BREAK.finditer(line) if _chars(line[: found.start()]) <= line_chars]
    if _chars(line) <= line_chars or not ends:
        yield line
        return
    end = min(reversed(ends), key=lambda found: line.count("{", 0, found.start()) - line.count("}", 0, found.start()))
    yield line[: end.start()]
    yield from _broken(line[end.end() :], line_chars)


def _chars(line: str) -> int:
    facts = _TIME_OR_SIZE.search(line)
    if not facts:
        return len(canonical(line))
    time_only = line[facts.start() :] == facts[0] and facts[0].endswith("ms")
    return len(canonical(line[: facts.start()])) + (_FACT_CHARS if time_only else _FACTS_CHARS)


def joined(text: str, between: str, most_chars: int) -> str:
    """The text with its lines on as few lines as ``most_chars`` allows; numbers, times and sizes do not change the result."""
    lines: list[str] = []
    for line in text.split("<br/>"):
        together = (
            (lines[-1] if lines[-1].endswith(",") else lines[-1] + between.rstrip()) + " " + line if lines else ""
        )
        if lines and len(canonical(together)) <= most_chars:
            lines[-1] = together
        else:
            lines.append(line)
    return "<br/>".join(lines)


def _safe(text: str) -> str:
    """The text without the characters that Mermaid interprets: a semicolon ends a statement, # begins an entity."""
    return text.replace(";", ",").replace("#", "")


def canonical(source: str) -> str:
    """The order of the messages: the source without times, sizes and counts.

    The end of a stream is left out too, because a reader that has the terminal event may close before it.
    """
    text = re.sub(r" · [\d–]+ (?:ms|B)[^<\n]*", "", source)
    text = re.sub(r"    [SN]-->>C: (?:trailers grpc-status 0|the last HTTP chunk: the body ends)\n", "", text)
    return re.sub(r"\d+(?:…\d+)?", "N", text)


def write_svg(source: str, path: Path) -> None:
    """Render the source to an SVG file."""
    path.write_text(_polished(mmdr.render(source).svg()), encoding="utf-8")


def width_px(words: str) -> float:
    """How wide a viewer draws the words of a label, at most and about."""
    return _CHAR_PX * len(words) + _CAPITAL_PX * sum(letter.isupper() for letter in words)


def _beside_the_lifelines(svg: str) -> str:
    """The SVG with each label that lies on a lifeline moved to the nearest space between two lifelines that holds the label."""
    lifelines = sorted(float(x) for x in re.findall(r'<line id="actor\d+" x1="([^"]+)"', svg))

    def moved(texts: str, left: float, right: float, down: float = 0.0, beside: float = 0.0) -> str:
        lines = re.findall(r'<text x="([^"]+)"[^>]*>(.*?)</text>', texts)
        x = float(lines[0][0])
        room = max(width_px(html.unescape(re.sub(r"<[^>]*>", "", words))) for _, words in lines)
        spaces = [
            (a + b) / 2
            for a, b in itertools.pairwise(lifelines)
            if b - a >= room + (2 * beside if a == lifelines[0] else 0) and left <= a and b <= right
        ]
        if spaces and any(abs(line - x) <= room / 2 + _BESIDE_PX for line in lifelines):
            x = min(spaces, key=lambda middle: abs(middle - x))
        texts = re.sub(r'(<t(?:ext|span) x=")[^"]+', rf"\g<1>{x:g}", texts)
        return re.sub(r'( y=")([^"]+)', lambda found: f"{found[1]}{float(found[2]) + down:g}", texts)

    def of_arrow(found: re.Match[str]) -> str:
        left, right = sorted((float(found[3]), float(found[4])))
        return moved(found[1], left - _ARROW_PX, right + _ARROW_PX) + found[2]

    arrow = r'(<line x1="([^"]+)" y1="[^"]+" x2="([^"]+)" y2="[^"]+" class="messageLine)'
    svg = re.sub(rf'((?:<text[^>]*class="messageText"[^>]*>[^<]*</text>)+){arrow}', of_arrow, svg)
    # The words of a loop begin on its upper edge.
    loop = r'<text[^>]*class="loopText"[^>]*>.*?</text>'
    return re.sub(loop, lambda found: moved(found[0], lifelines[0], lifelines[-1], _LOOP_WORDS_PX, _LOOP_BOX_PX), svg)


def _polished(svg: str) -> str:
    """The SVG with a larger title, a background, words beside the lifelines and not on them, and a dark variant."""
    # The filter of the boxes' shadows is not in the file; some viewers show nothing where a filter is missing.
    svg = squeezed(_beside_the_lifelines(re.sub(r' filter="url\(#[^"]*\)"', "", svg)))
    left, top, width, height = re.findall(r'viewBox="(\S+) (\S+) (\S+) (\S+)"', svg)[0]
    paper = f'<rect class="paper" x="{left}" y="{top}" width="{width}" height="{height}" fill="#ffffff"/>'
    middle = float(left) + float(width) / 2
    times = f'<text class="words" x="{middle:g}" y="-6" text-anchor="middle" style="font-size:13px;fill:#33475b">{_TIMES}</text>'
    svg = re.sub(r"(<svg[^>]*>)", rf"\1<style>{_DARK}</style>{paper}{times}", svg, count=1)
    title = (
        '<text class="words" x="{:g}" y="-26" text-anchor="middle" style="font-size:22px;font-weight:600;fill:#1f3a5f">'
    )
    svg = re.sub(r'<text x="\S+" y="-25">', title.format(middle), svg, count=1)
    halo = "stroke:#ffffff;stroke-width:6px;stroke-opacity:0.7;fill:none;font-size:16px"
    words = r'<text ([^>]*)class="messageText"([^>]*) style="[^"]*">(.*?)</text>'
    return re.sub(
        words, lambda found: f'<text class="halo" {found[1]}{found[2]} style="{halo}">{found[3]}</text>{found[0]}', svg
    )
