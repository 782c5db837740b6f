"""The parts of the shell alone: Markdown in pieces, percentiles, words, the table of commands."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import TRANSPORTS
from shared.client import text
from shared.client.shell.client_stats import percentile
from shared.client.shell.commands import COMMANDS
from shared.client.shell.markdown import MAX_BLOCK_CHARS, MarkdownStream
from shared.client.shell.painter import Painter
from tests.conftest import WORDS

PIECES = st.lists(
    st.sampled_from(
        [
            "word", "other", " ", "  ", "\n", "\n\n", "# ", "## ", "- ", "1. ", "2. ", "> ", "```", "```py\n", "\n```\n", "    ",
            "\t", "`", "*", "**", "_", "~~", "[a](b)", "![c](d)", "<e>", "[f]: g\n", "|", "\n--|--\n", "h | i\n", "---\n", "===\n",
            "é", "👩‍👩‍👧‍👦", "\r\n", "\r", "\u2028", "\x1b[1m", ".", ":", "x" * 50,
        ]
    ),
    max_size=60,
)  # fmt: skip
LETTER = re.compile(r"[^\W\d_]")
SGR = re.compile(r"\x1b\[[\d;]*m")


def painted(source: str, cuts: list[int], painter: Painter) -> list[str]:
    blocks, rows, start = MarkdownStream(plain=painter.plain), [], 0
    for cut in [*sorted(cut % (len(source) + 1) for cut in cuts), len(source)]:
        blocks.feed(source[start:cut])
        start = cut
        while done := blocks.finished():
            rows += [row for block in done for row in painter.block(block)]
        painter.tail(blocks.tail, 40)
    while done := blocks.finished(end=True):
        rows += [row for block in done for row in painter.block(block)]
    return rows


@given(PIECES, st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([20, 60, 120]))
@settings(max_examples=150, deadline=None)
def test_no_letter_is_lost_however_it_comes(pieces: list[str], cuts: list[int], columns: int) -> None:
    source = "".join(pieces)
    rows = painted(source, cuts, Painter(lambda: columns, plain=False))
    shown = SGR.sub("", "\n".join(rows))
    assert "\x1b" not in shown
    assert "".join(LETTER.findall(shown)) == "".join(LETTER.findall(text.visible(source)))


@given(PIECES, st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=100, deadline=None)
def test_plain_is_plain(pieces: list[str], cuts: list[int]) -> None:
    source = "".join(pieces)
    rows = painted(source, cuts, Painter(lambda: 80, plain=True))
    assert "\n".join(rows) == text.visible(source).removesuffix("\n")


def test_long_blocks_come_in_pieces() -> None:
    code = "\n".join(f"    line {i}" for i in range(600))
    source = f"Look:\n\n```python\n{code}\n```\n\n" + "".join(f"- item {i}\n" for i in range(600)) + "\nend " * 3_000
    assert len(source) > 5 * MAX_BLOCK_CHARS
    rows = [
        SGR.sub("", row) for row in painted(source, list(range(0, len(source), 997)), Painter(lambda: 80, plain=False))
    ]
    assert [row for row in rows if row.startswith("    line")] == code.split("\n")
    assert rows.count("```python") == 1
    assert rows.count("```") == 1
    assert [row for row in rows if row.startswith(" • ")] == [f" • item {i}" for i in range(600)]
    assert sum(row.split().count("end") for row in rows) == 3_000


def test_percentiles_are_nearest_rank() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(
    ("shown", "want"),
    [
        (text.duration(0.44), "0.4 ms"),
        (text.duration(153), "153 ms"),
        (text.duration(3_400), "3.4 s"),
        (text.duration(125_000), "2 min 05 s"),
        (text.size(999), "999 B"),
        (text.size(2_400_000), "2.4 MB"),
        (text.line("a\r\nb\x1b[2Jc", 0), "a␤b␛[2Jc"),
        (text.line("0123456789", 5), "0123…"),
        (text.plural(1, "message"), "1 message"),
    ],
)
def test_words(shown: str, want: str) -> None:
    assert shown == want


def test_the_table_names_every_command() -> None:
    wanted = (
        "help new sessions use info history export reset delete clear image stop retry switch cut stats server health"
        " ping docs demo"
    )
    assert set(COMMANDS) == {*wanted.split(), "connect", "disconnect", "quit"}
    assert set(WORDS) == set(TRANSPORTS)
