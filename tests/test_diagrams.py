"""The diagrams: played again now, the messages have the order that is drawn; and what is committed fits together."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from protocols import TRANSPORTS
from sequence_diagrams.__main__ import HERE, differences, play
from sequence_diagrams.draw import canonical
from sequence_diagrams.script import FILES, SCRIPTS

NAMES = [FILES[word] + script for word in TRANSPORTS for script in SCRIPTS]


@pytest.mark.timeout(600)
def test_played_again_the_order_is_the_same(word: str) -> None:
    drawn = asyncio.run(play(word))
    assert set(drawn) == {FILES[word] + script for script in SCRIPTS}
    assert [line for name, source in drawn.items() for line in differences(name, source)] == []


def test_there_is_no_other() -> None:
    for suffix in ("mmd", "svg", "png"):
        assert {path.stem for path in HERE.glob(f"*.{suffix}")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_of_this_source(name: str) -> None:
    """Each arrow's words stand in the SVG, in the same order."""
    source = (HERE / f"{name}.mmd").read_text(encoding="utf-8")
    svg = (HERE / f"{name}.svg").read_text(encoding="utf-8")
    arrows = re.findall(r"^ +\w-?-[>x]+\w: (.*)$", source, re.MULTILINE)
    words = [line for arrow in arrows for line in arrow.split("<br/>")]
    drawn = re.findall(r'<text[^>]*class="messageText"[^>]*>(?:<tspan[^>]*>)?([^<]*)', svg)
    assert [word.replace("&gt;", ">") for word in drawn] == words
    assert (HERE / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_step_more_is_seen(tmp_path: Path) -> None:
    source = (HERE / "sse.mmd").read_text(encoding="utf-8")
    (tmp_path / "sse.mmd").write_text(source, encoding="utf-8")
    assert not differences("sse", re.sub(r"\d+ ms", "7 ms", source), tmp_path)
    assert differences("sse", source.replace("commit turn_started", "commit something"), tmp_path)
    assert differences("other", source, tmp_path)


def test_only_times_sizes_and_counts_are_left_out() -> None:
    line = "    S-->>C: event: chunk<br/>id: {turn}/2…13<br/>115–122 B each\n"
    assert canonical(line) == "    S-->>C: event: chunk<br/>id: {turn}/N\n"
