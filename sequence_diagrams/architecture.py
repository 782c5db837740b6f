"""The rooms of the project and the imports between them as a picture (SVG 2), read from the source.

``python -m sequence_diagrams.architecture`` writes ``docs/architecture.svg``. The layout says where a room stands and where an
arrow may run. An arrow is drawn where an import exists. Where an import has no such place, the command fails and names the import.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from compare.showing.page import lane_rules
from protocols import TRANSPORTS
from sequence_diagrams.counting import ROOT
from sequence_diagrams.picture import TINTS, picture
from sequence_diagrams.rooms import Import, imports_between_rooms, side
from shared.usage import usage_of

COMMAND = "python -m sequence_diagrams.architecture"
OUT = ROOT / "docs" / "architecture.svg"
LABEL = "The rooms of the project and the imports between them"
_HEIGHT = 784.0
_LINE = 17.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with its title and its lines of words, in pixels. ``tint`` is the class of its colour, ``lane`` of its edge's."""

    x: float
    y: float
    width: float
    height: float
    tint: str
    title: str
    lines: tuple[str, ...] = ()
    lane: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Where the arrow from a room or frame to another runs, and where the words stand that say how many rooms it stands for."""

    source: str
    target: str
    points: tuple[tuple[float, float], ...]
    words_at: tuple[float, float] = (0, 0)


@dataclass(frozen=True, slots=True)
class Wall:
    """A vertical line between two rooms or frames that says that there is no import, with lines of words beside it."""

    x: float
    top: float
    bottom: float
    lines: tuple[str, ...]


_SERVERS, _CLIENTS = (tuple(side(word, name) for word in TRANSPORTS) for name in ("server", "client"))
_BENEATH = ("shared/server", "shared/chat", "shared/store", "shared/llm", "shared/images")
_CLIENTS_SIDE = ("shared/client", *_CLIENTS)
_SERVERS_SIDE = (*_SERVERS, *_BENEATH)
# An arrow from or to a frame stands for the rooms in it.
FRAMES: Mapping[str, tuple[str, ...]] = {
    "servers": _SERVERS,
    "clients": _CLIENTS,
    "clients' side": _CLIENTS_SIDE,
    "servers' side": _SERVERS_SIDE,
    "product": ("protocols", "shared", *_CLIENTS_SIDE, *_SERVERS_SIDE),
}
_FRAME_BOXES = {
    "product": Box(10, 114, 810, 624, "group", "The product: nothing in it imports what stands above"),
    "clients' side": Box(22, 148, 608, 158, "group", "the clients’ side"),
    "servers' side": Box(22, 414, 608, 312, "group", "the servers’ side"),
    "clients": Box(34, 242, 584, 52, "group", ""),
    "servers": Box(34, 438, 584, 52, "group", ""),
}
_ROW_GAP, _ROW_PAD = 8.0, 6.0


def _row(name: str, rooms: tuple[str, ...], tint: str, file: str) -> dict[str, Box]:
    """One box for each transport, side by side in their frame."""
    frame = _FRAME_BOXES[name]
    width = (frame.width - 2 * _ROW_PAD + _ROW_GAP) / len(rooms) - _ROW_GAP
    return {
        room: Box(
            frame.x + _ROW_PAD + place * (width + _ROW_GAP),
            frame.y + _ROW_PAD,
            width,
            frame.height - 2 * _ROW_PAD,
            tint,
            TRANSPORTS[word].label,
            (file,),
            word,
        )
        for place, (word, room) in enumerate(zip(TRANSPORTS, rooms, strict=True))
    }


ROOMS: Mapping[str, Box] = {
    "tests": Box(10, 32, 246, 46, "grey", "tests/", ("conformance, wires, faults, pages",)),
    "sequence_diagrams": Box(292, 32, 246, 46, "grey", "sequence_diagrams/", ("what happens on each wire",)),
    "compare": Box(574, 32, 246, 46, "grey", "compare/", ("race, experiments, probe, report",)),
    "protocols": Box(714, 148, 94, 578, "violet", "protocols/", ("the table of", "the five;", "serve, chat,", "demo")),
    "shared/client": Box(34, 172, 584, 42, "green", "shared/client/", ("resuming, HTTP, the command line",)),
    **_row("clients", _CLIENTS, "green", "client.py"),
    "shared": Box(
        190, 338, 428, 44, "amber", "shared/: the words of both sides", ("events, errors, sessions, settings",)
    ),
    **_row("servers", _SERVERS, "blue", "server.py"),
    "shared/server": Box(150, 518, 250, 44, "blue", "shared/server/", ("access, limits, start and stop; http/",)),
    "shared/chat": Box(
        190, 594, 428, 44, "chat", "shared/chat/", ("the one chat: turns, their logs, reading from a cursor",)
    ),
    "shared/store": Box(34, 670, 178, 44, "blue", "shared/store/", ("sqlite/, redis/",)),
    "shared/llm": Box(252, 670, 160, 44, "blue", "shared/llm/", ("models, and one offline",)),
    "shared/images": Box(452, 670, 166, 44, "blue", "shared/images/", ("pictures, also offline",)),
}
# A folder of a room that a reader looks for.
_SHELL = Box(508, 179, 102, 28, "green", "shell/")

ROUTES = (
    Route("tests", "sequence_diagrams", ((256, 55), (292, 55))),
    Route("tests", "compare", ((133, 32), (133, 14), (697, 14), (697, 32))),
    Route("sequence_diagrams", "compare", ((538, 55), (574, 55))),
    Route("tests", "product", ((133, 78), (133, 114)), (143, 100)),
    Route("sequence_diagrams", "product", ((415, 78), (415, 114)), (425, 100)),
    Route("compare", "product", ((697, 78), (697, 114)), (707, 100)),
    Route("clients", "protocols", ((618, 268), (714, 268)), (636, 261)),
    Route("servers", "protocols", ((618, 464), (714, 464)), (636, 457)),
    Route("protocols", "shared", ((714, 360), (618, 360))),
    Route("protocols", "clients' side", ((714, 193), (630, 193)), (636, 186)),
    Route("protocols", "servers' side", ((714, 578), (630, 578)), (636, 571)),
    Route("clients' side", "shared", ((404, 306), (404, 338)), (414, 326)),
    Route("servers' side", "shared", ((404, 414), (404, 382)), (414, 402)),
    Route("clients", "shared/client", ((326, 242), (326, 214)), (336, 232)),
    Route("servers", "shared/server", ((275, 490), (275, 518)), (285, 508)),
    Route("servers", "shared/chat", ((424, 490), (424, 594)), (432, 546)),
    Route("servers", "shared/store", ((60, 490), (60, 670)), (68, 584)),
    Route("shared/server", "shared/chat", ((295, 562), (295, 594))),
    Route("shared/server", "shared/store", ((170, 562), (170, 670))),
    Route("shared/chat", "shared/store", ((201, 638), (201, 670))),
    Route("shared/chat", "shared/llm", ((332, 638), (332, 670))),
    Route("shared/chat", "shared/images", ((535, 638), (535, 670))),
    Route("shared/store", "shared/llm", ((212, 692), (252, 692))),
    Route("shared/images", "shared/llm", ((452, 692), (412, 692))),
)
WALLS = (
    Wall(60, 306, 414, ("neither side", "imports the other")),
    Wall(530, 490, 594, ("the chat", "imports no", "transport")),
)
# What the walls and the title of the product say in words: the first never imports the second.
NEVER = (
    ("clients' side", "servers' side"),
    ("servers' side", "clients' side"),
    *(("shared/chat", transports) for transports in ("servers", "clients", "protocols")),
    *(("product", tool) for tool in ("tests", "sequence_diagrams", "compare")),
)
_LEGEND = (
    "An arrow: the first imports the second. From or to a frame, it stands for all boxes in it, or for as many as the words say.",
    f"A red line: no import, and none is allowed. Drawn from the imports by {COMMAND}.",
)
# The colours of the boxes on a light page and on a dark page.
_TINTS = {**TINTS, "violet": ("#f3effb", "#262036"), "chat": ("#d3e4fc", "#1f3a66"), "group": ("none", "none")}


def draw(root: Path = ROOT) -> str:
    """The picture of the imports in the tree ``root``. Raises ValueError where an import has no place in the layout."""
    parts = ['<marker id="h" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6.5" markerHeight="6.5" orient="auto">']
    parts.append('<path class="h" d="M0 0 8 4 0 8Z"/></marker>')
    parts += [_frame(box) for box in _FRAME_BOXES.values()]
    parts += [_arrow(route, words) for route, words in arrows(imports_between_rooms(root)).items()]
    parts += [_wall(wall) for wall in WALLS]
    parts += [_room(box) for box in (*ROOMS.values(), _SHELL)]
    parts += [_text("m", 10, _HEIGHT - 29 + _LINE * i, line) for i, line in enumerate(_LEGEND)]
    return picture(LABEL, _HEIGHT, parts, *_style())


def arrows(imports: Mapping[tuple[str, str], Import]) -> dict[Route, str]:
    """The routes on which imports run, each with the words that say for how many rooms it stands; for all: no words."""
    drawn: dict[Route, set[tuple[str, str]]] = {route: set() for route in ROUTES}
    for (source, target), one in imports.items():
        fitting = [route for route in ROUTES if _fits(route.source, route.target, source, target)]
        if not fitting or any(_fits(*never, source, target) for never in NEVER):
            raise ValueError(
                f"{one.importer} imports {one.imported}, and the layout has no arrow from {source} to {target}."
            )
        drawn[fitting[0]].add((source, target))
    return {route: _how_many(route, pairs) for route, pairs in drawn.items() if pairs}


def _fits(sources: str, targets: str, source: str, target: str) -> bool:
    return source in _rooms(sources) and target in _rooms(targets)


def _rooms(name: str) -> tuple[str, ...]:
    return FRAMES.get(name, (name,))


def _how_many(route: Route, pairs: Collection[tuple[str, str]]) -> str:
    """The words beside an arrow: ``all but REST``, or ``3 of 18 boxes``."""
    possible = [(source, target) for source in _rooms(route.source) for target in _rooms(route.target)]
    missing = [pair for pair in possible if pair not in pairs]
    if len(missing) == 1:
        (source, target) = missing[0]
        room = ROOMS[source if route.source in FRAMES else target]
        return f"all but {room.title.strip('/').rpartition('/')[2]}"
    return f"{len(pairs)} of {len(possible)} boxes" if missing else ""


def _frame(box: Box) -> str:
    return _rectangle(box) + (_text("m", box.x + 12, box.y + 18, box.title) if box.title else "")


def _room(box: Box) -> str:
    middle, top = box.x + box.width / 2, box.y + (box.height - _LINE * (1 + len(box.lines))) / 2 + 13
    parts = [_rectangle(box)]
    if box.lane:
        parts.append(f'<rect class="{box.lane}" x="{box.x:g}" y="{box.y:g}" width="5" height="{box.height:g}" rx="2"/>')
    parts.append(_text("f", middle, top, box.title))
    parts += [_text("c", middle, top + _LINE * (1 + i), line) for i, line in enumerate(box.lines)]
    return "".join(parts)


def _rectangle(box: Box) -> str:
    size = f'width="{box.width:g}" height="{box.height:g}"'
    return f'<rect class="r {box.tint}" x="{box.x:g}" y="{box.y:g}" {size} rx="5"/>'


def _arrow(route: Route, words: str) -> str:
    points = " ".join(f"{x:g},{y:g}" for x, y in route.points)
    return f'<polyline class="l" points="{points}"/>' + (_text("m", *route.words_at, words) if words else "")


def _wall(wall: Wall) -> str:
    middle = (wall.top + wall.bottom) / 2
    top = middle - _LINE * len(wall.lines) / 2 + 13
    cross = f"M{wall.x - 6:g} {middle - 6:g}l12 12m0-12l-12 12"
    parts = [f'<path class="w d" d="M{wall.x:g} {wall.top:g}V{wall.bottom:g}"/><path class="w" d="{cross}"/>']
    parts += [_text("", wall.x + 14, top + _LINE * i, line) for i, line in enumerate(wall.lines)]
    return "".join(parts)


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _style() -> tuple[str, str]:
    """The rules for a light page, and those for a dark page."""
    lanes = lane_rules(TRANSPORTS, "fill")
    tints = ["".join(f".{name}{{fill:{pair[page]}}}" for name, pair in _TINTS.items()) for page in (0, 1)]
    light = (
        ".c,.f{text-anchor:middle}.f{font-weight:600;font-size:13px}.r{stroke:#c3ccd8}.l{fill:none;stroke:#5b6675;"
        "stroke-width:1.5;marker-end:url(#h)}.h{fill:#5b6675}.w{fill:none;stroke:#b3261e;stroke-width:2}.d{stroke-dasharray:5 4}"
    )
    dark = ".r{stroke:#3d4757}.l{stroke:#9aa6b6}.h{fill:#9aa6b6}.w{stroke:#ff8a80}"
    return light + tints[0] + lanes[0], dark + tints[1] + lanes[1]


def main() -> int:
    """Write the picture, and return the exit status; with ``--check`` 1 where the committed picture differs."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=usage_of(__doc__))
    parser.add_argument("--check", action="store_true", help="change nothing, fail where the picture would differ")
    args = parser.parse_args()
    try:
        drawn = draw()
    except ValueError as error:
        print(f"{error} Give it a place in {Path(__file__).relative_to(ROOT)}, or take the import away.")
        return 1
    if args.check:
        same = OUT.exists() and OUT.read_text(encoding="utf-8") == drawn
        print(f"{OUT.name}: {'as committed' if same else f'differs; {COMMAND} draws it again'}")
        return 0 if same else 1
    OUT.write_text(drawn, encoding="utf-8")
    print(OUT.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
