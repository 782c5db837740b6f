"""The pictures that a command makes: the race in a terminal, and the five transports on one time axis."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from protocols import TRANSPORTS
from sequence_diagrams import cast, overview
from sequence_diagrams.draw import write_svg

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def test_the_committed_pictures_move_and_have_a_dark_variant() -> None:
    race = (ROOT / "docs" / "race.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(race)
    assert "@keyframes" in race
    assert "prefers-reduced-motion" in race
    assert len(race) < 300_000
    five = (ROOT / "docs" / "overview.svg").read_text(encoding="utf-8")
    words = [text.text for text in ElementTree.fromstring(five).iter(f"{SVG}text")]
    assert [words.count(transport.label) for transport in TRANSPORTS.values()] == [len(overview.SCENES)] * 5
    assert "prefers-color-scheme:dark" in five


def test_a_command_in_a_terminal_becomes_frames() -> None:
    code = "import time\nfor word in ('one', 'two & <3>'):\n    print(word, flush=True)\n    time.sleep(0.5)"
    drawn = cast.svg(cast.record(("-c", code), first_rows=1))
    ElementTree.fromstring(drawn)
    assert "two &amp; &lt;3&gt;" in drawn


def test_one_axis_for_all_scenes() -> None:
    short, long = (
        overview.Track(tokens=[100.0], lost=[200.0], back=[300.0], end=end, ended="completed")
        for end in (400.0, 4000.0)
    )
    drawn = overview.draw({"A": {"sse": short}, "B": {"sse": long}})
    marks = [rect.get("x") for rect in ElementTree.fromstring(drawn).iter(f"{SVG}rect") if rect.get("class") == "sse"]
    assert len(set(marks)) == 1, "the same moment is at the same place in both panels"
    assert "on one linear axis" in drawn


def test_a_diagram_has_a_dark_variant_and_says_when_its_clock_starts_again(tmp_path: Path) -> None:
    write_svg((ROOT / "sequence_diagrams" / "sse.mmd").read_text(encoding="utf-8"), tmp_path / "sse.svg")
    drawn = (tmp_path / "sse.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in drawn
    assert "Times count from the beginning of each coloured block." in drawn
