"""The picture of the rooms: it shows the imports of the tree, each in its place, and its lines and words do not meet."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sequence_diagrams.architecture import COMMAND, OUT, ROOMS, ROUTES, arrows, draw
from sequence_diagrams.counting import ROOT
from sequence_diagrams.imports import imported_names
from sequence_diagrams.rooms import imports_between_rooms

SVG = "{http://www.w3.org/2000/svg}"
# A letter of 12 px in DejaVu Sans, which is wider than most, with the space between letters.
CHAR_PX = 7.2
LINE_PX = 12.0
# The smallest tree with an import: the server of a transport imports the chat.
TREE = {
    "protocols/__init__.py": "",
    "protocols/sse/server.py": "from shared.chat.service import Service",
    "protocols/sse/client.py": "import json",
    "shared/chat/service.py": "class Service: ...",
    "shared/llm/model.py": "",
    "shared/store/open.py": "",
    "shared/images/model.py": "",
    "shared/client/http.py": "",
}


def planted(root: Path, files: dict[str, str]) -> Path:
    """A tree of these files beside those of ``TREE``."""
    for name, text in {**TREE, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def arrows_of(root: Path) -> dict[tuple[str, str], str]:
    return {(route.source, route.target): words for route, words in arrows(imports_between_rooms(root)).items()}


def test_the_committed_picture_shows_the_imports_of_the_tree() -> None:
    assert OUT.read_text(encoding="utf-8") == draw(), f"{COMMAND} draws it again"


def test_an_import_adds_its_arrow(tmp_path: Path) -> None:
    assert arrows_of(planted(tmp_path, {})) == {("servers", "shared/chat"): "1 of 5 boxes"}
    before = draw(tmp_path)
    planted(tmp_path, {"shared/chat/service.py": "def ask():\n    from shared.llm import model"})
    assert arrows_of(tmp_path) == {
        ("servers", "shared/chat"): "1 of 5 boxes",
        ("shared/chat", "shared/llm"): "",
    }
    assert draw(tmp_path).count("<polyline") == before.count("<polyline") + 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import a.b\n\nx = 1\n", ["a.b"]),
        ("from a import (\n    b,\n    c,\n)\n\n\nclass D: ...\n", ["a.b", "a.c"]),
        ("from a import (\nb,\n\nc)\n", ["a.b", "a.c"]),
        ("from a \\\n  import b", ["a.b"]),
        ("import a\nif a: import b\n", ["a", "b"]),
        ("x = 1; from a import b\n", ["a.b"]),
        ('import a\n\nTEXT = """\nimport b\n"""\n\nimport c\n', ["a", "c"]),
        ('TEXT = """\nimport b\n"""\n', []),
        ('from importlib import import_module\nimport_module(f"a.{x}.b")\n', ["importlib.import_module", "a.*.b"]),
        ("", []),
    ],
)
def test_imports_are_read_wherever_they_stand(text: str, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text, encoding="utf-8")
    assert sorted(imported_names(path)) == sorted(names)


def test_the_table_of_transports_imports_a_module_of_each_by_its_name(tmp_path: Path) -> None:
    table = 'import importlib\nimportlib.import_module(f"protocols.{folder}.client")'
    assert ("protocols", "clients' side") in arrows_of(planted(tmp_path, {"protocols/__init__.py": table}))


@pytest.mark.parametrize(
    ("file", "text", "rooms"),
    [
        ("shared/chat/service.py", "import protocols", "from shared/chat to protocols"),
        ("shared/chat/service.py", "from protocols.sse import server", "from shared/chat to sse server"),
        ("shared/llm/model.py", "from shared.images import model", "from shared/llm to shared/images"),
        ("protocols/sse/client.py", "from shared.store import open", "from sse client to shared/store"),
        ("protocols/sse/server.py", "import protocols.sse.client", "from sse server to sse client"),
        ("shared/client/http.py", "import compare.race", "from shared/client to compare"),
        ("shared/chat/service.py", "import shared.audio.model", "from shared/chat to shared/audio"),
        ("shared/store/open.py", "import protocols.sse.other", "protocols.sse.other is in no room"),
    ],
)
def test_an_import_without_a_place_is_named(file: str, text: str, rooms: str, tmp_path: Path) -> None:
    others = dict.fromkeys(("compare/race.py", "shared/audio/model.py", "protocols/sse/other.py"), "")
    root = planted(tmp_path, {**others, file: text})
    with pytest.raises(ValueError, match=rooms) as raised:
        draw(root)
    assert file.removesuffix(".py").replace("/", ".") + " imports " in str(raised.value)


def test_the_rooms_are_folders_that_exist() -> None:
    for name, box in ROOMS.items():
        if " " not in name:
            assert (ROOT / name).is_dir()
            inside = re.findall(r"\w+/", " ".join(box.lines))
            assert [folder for folder in inside if not (ROOT / name / folder).is_dir()] == []


def test_no_arrow_crosses_another() -> None:
    lines = [list(pairwise(route.points)) for route in ROUTES]
    assert [
        (one, other)
        for ones, others in combinations(lines, 2)
        for one in ones
        for other in others
        if _overlap(_span(one), _span(other))
    ] == []


def test_no_line_runs_through_words() -> None:
    svg = ElementTree.fromstring(OUT.read_text(encoding="utf-8"))
    lines = [segment for route in ROUTES for segment in pairwise(route.points)]
    lines += [
        ((float(x), float(top)), (float(x), float(bottom)))
        for path in svg.iter(f"{SVG}path")
        for x, top, bottom in re.findall(r"^M(\S+) (\S+)V(\S+)$", path.get("d", ""))
    ]
    words = list(svg.iter(f"{SVG}text"))
    assert len(words) > len(ROOMS) * 2
    for text in words:
        x, y, width = float(text.get("x", "")), float(text.get("y", "")), len(text.text or "") * CHAR_PX
        left = x - width / 2 if text.get("class") in ("c", "f") else x
        assert left >= 0
        box = (left, y - LINE_PX, left + width, y)
        assert [line for line in lines if _overlap(box, _span(line))] == [], text.text


def _span(line: tuple[tuple[float, float], tuple[float, float]]) -> tuple[float, float, float, float]:
    """The rectangle of a horizontal or vertical line: left, top, right, bottom."""
    (x1, y1), (x2, y2) = line
    assert x1 == x2 or y1 == y2
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
