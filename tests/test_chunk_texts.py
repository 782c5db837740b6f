"""The texts of chunk events: whole characters, never empty, short enough for a line."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import iter_graphemes

from shared.chat.chunk_texts import MAX_CHUNK_CHARS, ChunkTexts
from shared.events import Chunk, to_json

GRIN = "\N{GRINNING FACE}"
HIGH, LOW = "\ud83d", "\ude00"
# The bytes of the emoji, each as a character.
BYTES = GRIN.encode().decode("ascii", "surrogateescape")


def cut(*pieces: str) -> list[str]:
    texts = ChunkTexts()
    return [text for piece in pieces for text in texts.add(piece)] + list(texts.rest())


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        (("a", "", "b"), ["a", "b"]),
        ((HIGH, f"{LOW} ok"), [f"{GRIN} ok"]),
        ((f"so {HIGH}", LOW), ["so ", GRIN]),
        ((f"{HIGH}{LOW}",), [GRIN]),
        ((HIGH, "", LOW), [GRIN]),
        ((HIGH, HIGH, LOW), ["\ufffd", GRIN]),
        ((HIGH, "plain"), ["\ufffdplain"]),
        ((LOW, "plain"), ["\ufffd", "plain"]),
        (("end", HIGH), ["end", "\ufffd"]),
        ((f"a{LOW}{HIGH}b",), ["a\ufffd\ufffdb"]),
        ((BYTES[:2], BYTES[2:]), [GRIN]),
        ((f"so {BYTES[:1]}", BYTES[1:3], "", f"{BYTES[3]} ok"), ["so ", f"{GRIN} ok"]),
        ((f"{BYTES}{BYTES[:3]}", "plain"), [GRIN, "\ufffdplain"]),
        (("end", BYTES[:2]), ["end", "\ufffd"]),
        ((f"caf{BYTES[2]}", "plain"), ["caf\ufffd", "plain"]),
        (("\ud83d", "\udcf0 news"), ["\N{NEWSPAPER} news"]),
        ((f"{HIGH}{BYTES[0]}", BYTES[1]), ["\N{NEWSPAPER}", "\ufffd"]),
    ],
)
def test_an_emoji_in_parts_stays_whole(pieces: tuple[str, ...], texts: list[str]) -> None:
    assert cut(*pieces) == texts


@given(st.lists(st.text(max_size=40)))
def test_the_chunks_are_the_reply(pieces: list[str]) -> None:
    texts = cut(*pieces)
    assert "".join(texts) == "".join(pieces)
    assert all(texts)


@given(st.lists(st.text(alphabet=st.sampled_from(f"a{HIGH}{LOW}é"), max_size=5)))
def test_every_chunk_has_utf8_and_no_pair_is_lost(pieces: list[str]) -> None:
    whole = "".join(pieces)
    expected = whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert "".join(cut(*pieces)) == expected
    expected.encode()


@given(st.text(max_size=20), st.lists(st.integers(0, 80), max_size=6))
def test_utf8_that_is_cut_anywhere_is_the_reply(text: str, cuts: list[int]) -> None:
    data = text.encode()
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end].decode("utf-8", "surrogateescape") for start, end in itertools.pairwise(borders)]
    assert "".join(cut(*pieces)) == text


@pytest.mark.parametrize("piece", ["x", GRIN, "\u2028", "\x01", '"', "e\u0301", "👩‍👩‍👧‍👦", "\r\n", "🇩🇪"])
@pytest.mark.parametrize("before", ["", "a"])
def test_a_long_piece_is_split_between_characters(piece: str, before: str) -> None:
    text = before + piece * (3 * MAX_CHUNK_CHARS // len(piece))
    texts = cut(text)
    assert "".join(texts) == text
    assert len(texts) > 2
    clusters = {0}
    at = 0
    for cluster in iter_graphemes(text):
        at += len(cluster)
        clusters.add(at)
    at = 0
    for chunk in texts:
        assert len(chunk) <= MAX_CHUNK_CHARS
        at += len(chunk)
        assert at in clusters
        line = to_json(
            Chunk(turn_id="0b7f3c62-1d7e-4f0e-9a53-6f4a4f6f0c11", seq=2**31, at=1795000000123.456, text=chunk)
        )
        assert len(line) < 65536


def test_a_cluster_without_an_end_is_split_all_the_same() -> None:
    texts = cut("e" + "\u0301" * 20_000)
    assert [len(text) for text in texts] == [MAX_CHUNK_CHARS, MAX_CHUNK_CHARS, 20_001 - 2 * MAX_CHUNK_CHARS]
