"""The reader of providers' streams: every form that servers and gateways send, cut anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.llm.checked import NotAnAnswer
from shared.llm.frames import ALIVE, WHOLE, Frame, read_frames

MAX = 1 << 20
A, B = {"a": "é\u2028"}, {"b": [1, None]}
JSON_A, JSON_B = json.dumps(A, ensure_ascii=False), json.dumps(B)


def read(body: bytes, cuts: list[int], max_bytes: int = MAX) -> list[Frame]:
    """The frames of a body that arrives in pieces, without the signs of life."""

    async def chunks() -> AsyncIterator[bytes]:
        borders = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
        for start, end in itertools.pairwise(borders):
            yield body[start:end]

    async def all_frames() -> list[Frame]:
        return [frame async for frame in read_frames(chunks(), max_bytes)]

    return [frame for frame in asyncio.run(all_frames()) if frame is not ALIVE]


def values(body: str, cuts: list[int]) -> list[Any]:
    return ["[DONE]" if frame.done else frame.value for frame in read(body.encode(), cuts)]


STREAMS = {
    "standard": f"data: {JSON_A}\n\ndata: {JSON_B}\n\ndata: [DONE]\n\n",
    "crlf": f"data: {JSON_A}\r\n\r\ndata: {JSON_B}\r\n\r\ndata: [DONE]\r\n\r\n",
    "cr": f"data: {JSON_A}\r\rdata: {JSON_B}\r\rdata: [DONE]\r\r",
    "no blank": f"data:{JSON_A}\n\ndata:{JSON_B}\n\ndata:[DONE]\n\n",
    "byte order mark": f"\ufeffdata: {JSON_A}\n\ndata: {JSON_B}\n\ndata: [DONE]\n\n",
    "comments": f": ping\n\n:\n:x\ndata: {JSON_A}\n: ping\n\n: p\n\ndata: {JSON_B}\n\ndata: [DONE]\n\n: bye\n\n",
    "other fields": f"retry: 5\nid: 1\nevent: message\ndata: {JSON_A}\nnonsense\n\nevent:x\ndata: {JSON_B}\n\ndata: [DONE]\n\n",
    "no empty lines": f"data: {JSON_A}\ndata: {JSON_B}\ndata: [DONE]\n",
    "no last line end": f"data: {JSON_A}\n\ndata: {JSON_B}\n\ndata: [DONE]",
    "leading lines": f"\n\n \ndata: {JSON_A}\n\ndata: {JSON_B}\n\ndata:  [DONE] \n\n",
    "in several lines": 'data: {\ndata:   "a": "é\u2028"\ndata: }\n\ndata: ' + JSON_B + "\n\ndata: [DONE]\n\n",
}
ANSWERS = {
    "one line": JSON_A,
    "one line and its end": f"{JSON_A}\r\n",
    "pretty": json.dumps(A, indent=2),
    "pretty with empty lines": json.dumps(A, indent=2).replace("\n", "\n\n"),
    "byte order mark": f"\ufeff \n{JSON_A}",
}


@pytest.mark.parametrize("name", STREAMS)
@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_streams(name: str, cuts: list[int]) -> None:
    assert values(STREAMS[name], cuts) == [A, B, "[DONE]"]


@pytest.mark.parametrize("name", ANSWERS)
@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 100), max_size=8))
def test_an_answer_that_was_not_streamed_is_whole(name: str, cuts: list[int]) -> None:
    assert values(ANSWERS[name], cuts) == [A, "[DONE]"]


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 100), max_size=8))
def test_one_value_a_line_is_a_stream(cuts: list[int]) -> None:
    assert values(f"{JSON_A}\n{JSON_B}\n\n{JSON_A}\n", cuts) == [A, B, A]
    assert values(f"[{JSON_A}\n,\n{JSON_B}]", cuts) == [[A, B], "[DONE]"]


def test_any_bytes_are_a_sign_of_life() -> None:
    async def frames(*chunks: bytes) -> list[Frame]:
        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return [frame async for frame in read_frames(body(), MAX)]

    assert asyncio.run(frames(b" ", b": ping\n\n", b"data: [", b"1]\n", b"\n")) == [
        ALIVE, ALIVE, ALIVE, Frame([1]), ALIVE,
    ]  # fmt: skip
    assert asyncio.run(frames(b'{"a": ', b"1}")) == [ALIVE, ALIVE, Frame({"a": 1}), WHOLE]


def test_an_event_has_its_type() -> None:
    assert read(b"event: error\ndata: {}\n\ndata: {}\n\n", []) == [Frame({}, "error"), Frame({})]


@pytest.mark.parametrize(
    "body",
    [
        b"data: <html>\n\n",
        b'data: {"a": 1\n\n',
        b'data: {"a": ',
        b'{"a": ',
        b"[1, 2",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: \xff\xfe\n\n",
    ],
)
def test_what_is_no_frame(body: bytes) -> None:
    with pytest.raises(NotAnAnswer) as caught:
        read(body, [])
    assert not caught.value.web_page


def test_a_web_page_and_a_limit() -> None:
    with pytest.raises(NotAnAnswer) as caught:
        read(b"\r\n<!doctype html><html>", [1])
    assert caught.value.web_page
    for body in (b"data: " + b"x" * 200, b"data: xx\n" * 60, b"{" + b" " * 200, b"x" * 200):
        with pytest.raises(NotAnAnswer, match="larger than 100"):
            read(body, [*range(0, 200, 7)], 100)


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_no_bytes_raise_anything_else(body: bytes, cuts: list[int]) -> None:
    for start in (b"", b"data: ", b"{", b"data: {}\n\n"):
        with contextlib.suppress(NotAnAnswer):
            read(start + body, cuts)
