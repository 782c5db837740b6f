"""The diagrams: recorded again, the messages have the order that is drawn, and the committed files fit together."""

from __future__ import annotations

import asyncio
import html
import itertools
import re
from pathlib import Path

import mmdr
import pytest

from compare.lines.balancer import caddy_program
from protocols import TRANSPORTS
from sequence_diagrams.__main__ import HERE, differences, record
from sequence_diagrams.draw import canonical, joined, label, width_px
from sequence_diagrams.script import FILES, NODE_DIES, SCRIPTS
from sequence_diagrams.squeeze import squeezed

NAMES = [FILES[word] + script for word in TRANSPORTS for script in SCRIPTS]


@pytest.mark.timeout(600)
def test_recorded_again_the_order_is_the_same(word: str) -> None:
    # Without Caddy there is no balancer before the nodes.
    which = [script for script in SCRIPTS if script != NODE_DIES or caddy_program() is not None]
    drawn = asyncio.run(record(word, which))
    assert set(drawn) == {FILES[word] + script for script in which}
    assert [line for name, source in drawn.items() for line in differences(name, source)] == []


def test_there_are_no_other_files() -> None:
    for suffix in ("mmd", "svg"):
        assert {path.stem for path in HERE.glob(f"*.{suffix}")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_of_this_source(name: str) -> None:
    """The SVG has the words of each arrow, in the same order."""
    source = (HERE / f"{name}.mmd").read_text(encoding="utf-8")
    svg = (HERE / f"{name}.svg").read_text(encoding="utf-8")
    arrows = re.findall(r"^ +\w-?-[>x]+\w: (.*)$", source, re.MULTILINE)
    words = [line for arrow in arrows for line in arrow.split("<br/>")]
    drawn = re.findall(r'<text[^>]*class="messageText"[^>]*>(?:<tspan[^>]*>)?([^<]*)', svg)
    assert [word.replace("&gt;", ">") for word in drawn] == words


def test_another_step_is_a_difference(tmp_path: Path) -> None:
    source = (HERE / "sse.mmd").read_text(encoding="utf-8")
    (tmp_path / "sse.mmd").write_text(source, encoding="utf-8")
    assert not differences("sse", re.sub(r"\d+ ms", "7 ms", source), tmp_path)
    assert differences("sse", source.replace("commit turn_started", "commit something"), tmp_path)
    assert differences("other", source, tmp_path)


def test_only_times_sizes_and_counts_are_left_out() -> None:
    line = "    S-->>C: event: chunk<br/>id: {turn}/2…13 · 115–122 B each\n"
    assert canonical(line) == "    S-->>C: event: chunk<br/>id: {turn}/N\n"


def test_lines_are_joined_whatever_the_numbers_are() -> None:
    for seq, at in ((2, 8), (1234, 5678901)):
        label = f"event: chunk<br/>id: {{turn}}/{seq} · {at} ms · 178 B"
        assert joined(label, " · ", 44) == label.replace("<br/>", " · ")
    long = "Sec-WebSocket-Protocol: genai.chat.v1<br/>GET /ws, Upgrade: websocket"
    assert joined(long, " · ", 44) == long


def test_squeezing_moves_nothing_over_another_thing() -> None:
    """The middles of the texts keep their order, and two texts over each other at one place keep a line between them."""
    drawn = mmdr.render((HERE / "websockets_resume.mmd").read_text(encoding="utf-8")).svg()
    rows = re.compile(r'<text x="([^"]+)" y="([^"]+)"[^>]*class="(?:messageText|noteText)"')
    before, after = ([(float(x), float(y)) for x, y in rows.findall(svg)] for svg in (drawn, squeezed(drawn)))
    assert [x for x, _ in before] == [x for x, _ in after]
    assert sorted(after, key=lambda at: at[1]) == [
        after[before.index(at)] for at in sorted(before, key=lambda at: at[1])
    ]
    assert all(b[1] - a[1] >= 16 for a, b in itertools.pairwise(after) if a[0] == b[0])
    height = [float(re.findall(r'viewBox="\S+ \S+ \S+ (\S+)"', svg)[0]) for svg in (drawn, squeezed(drawn))]
    assert height[1] < 0.8 * height[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_fits_a_screen_or_two(name: str) -> None:
    """At the width of a README, 830 px, a picture is no taller than two small screens, and says where its clocks begin."""
    svg = (HERE / f"{name}.svg").read_text(encoding="utf-8")
    width, height = (float(size) for size in re.findall(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)[0])
    assert 830 * height / width < 750
    assert "Times count from the beginning of each coloured block." in svg
    assert "prefers-color-scheme:dark" in svg


@pytest.mark.parametrize("name", NAMES)
def test_no_label_lies_on_a_lifeline(name: str) -> None:
    """Neither the words of an arrow nor those of a loop, in the widest of the usual fonts."""
    svg = (HERE / f"{name}.svg").read_text(encoding="utf-8")
    lifelines = [float(x) for x in re.findall(r'<line id="actor\d+" x1="([^"]+)"', svg)]
    labels = re.findall(r'<text x="([^"]+)"[^>]*class="(?:message|loop)Text"[^>]*>(.*?)</text>', svg)
    assert labels
    for x, drawn in labels:
        words = html.unescape(re.sub(r"<[^>]*>", "", drawn))
        assert all(abs(line - float(x)) > width_px(words) / 2 for line in lifelines), words


def test_a_long_line_is_broken_whatever_the_numbers_are() -> None:
    request = "DATA SendMessageRequest {message: hello, session_id: {session}}"
    for facts in ("2 ms · 9 B", "10002 ms · 12345 B"):
        assert label(f"{request} · {facts}", 64) == f"{request}<br/>{facts}"
        broken = ["DATA SendMessageRequest", "{message: hello, session_id: {session}}", facts]
        assert label(f"{request} · {facts}", 40) == "<br/>".join(broken)


def test_two_answers_side_by_side_say_what_they_answer() -> None:
    source = (HERE / "rest_cancel.mmd").read_text(encoding="utf-8")
    assert "200 OK, to POST /chat<br/>" in source
    assert "200 OK, to POST /turns/{turn}/cancel<br/>" in source
