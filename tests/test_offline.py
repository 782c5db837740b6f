"""The offline models: deterministic, whole graphemes, on schedule, over several turns, named as stand-ins."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from wcwidth import iter_graphemes

from shared.config import Settings
from shared.errors import ChatError
from shared.events import Usage
from shared.images.model import ImagePart
from shared.images.offline import OfflineImages
from shared.llm.model import ContextMessage, Delta
from shared.llm.offline import MODEL_ID, OfflineChat
from shared.llm.offline_reply import reply_tokens
from shared.llm.tokens import count_tokens, split_tokens
from shared.stage_directions import Stage, directions, mistake

MESSAGES = [
    "Hello",
    "My name is Ada.",
    "Explain cursors.",
    "नमस्ते दुनिया 👩‍👩‍👧‍👦",
    "한국어 🇩🇪🇫🇷 e\u0301",
    "",
    "a\r\nb\u2028c\x85d",
]


def conf(**given: Any) -> Settings:
    fast = {"offline_tokens_per_s": 0, "offline_first_token_ms": 0}
    return Settings(_env_file=None, **{**fast, **given})


def asked(*texts: str) -> list[ContextMessage]:
    return [ContextMessage("model" if i % 2 else "user", text) for i, text in enumerate(texts)]


async def said(model: OfflineChat, history: Sequence[ContextMessage]) -> list[Delta]:
    return [delta async for delta in model.stream(history, MODEL_ID)]


@pytest.mark.parametrize("message", MESSAGES)
async def test_streams_exactly_the_reply(message: str) -> None:
    history = asked(message)
    deltas = await said(OfflineChat(conf()), history)
    tokens = reply_tokens(history)
    assert [delta.text for delta in deltas[:-1]] == tokens
    assert deltas[-1] == Delta("", "stop", Usage(count_tokens([message]), len(tokens)))
    assert all(tokens)


@pytest.mark.parametrize("message", MESSAGES)
def test_no_token_ends_inside_a_grapheme(message: str) -> None:
    tokens = reply_tokens(asked(message))
    borders, at = {0}, 0
    for cluster in iter_graphemes("".join(tokens)):
        at += len(cluster)
        borders.add(at)
    at = 0
    for token in tokens:
        at += len(token)
        assert at in borders, token


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_tokens_join_to_the_text(text: str) -> None:
    tokens = split_tokens(text)
    assert "".join(tokens) == text
    assert all(tokens)


def test_the_reply_stresses_a_wire() -> None:
    replies = ["".join(reply_tokens(asked(f"Tell me about number {i}"))) for i in range(40)]
    for reply in replies:
        assert reply.startswith("# ")
        assert "```python\n" in reply
        assert "\n    " in reply
        assert "\n\n" in reply
        assert "**" in reply
        assert "\n- " in reply
        assert 60 <= len(split_tokens(reply)) <= 240
    every = "".join(replies)
    for piece in ("\u200d", "\u0301", "\u2028", "\x85", "🏽", "🇩🇪", "\ufe0f"):
        assert piece in every
    assert len(reply_tokens(asked("hi"))) < 60


def test_is_honest_once_a_session() -> None:
    first = "".join(reply_tokens(asked("Explain")))
    assert "offline stand-in" in first
    assert "GEMINI_API_KEY" in first
    assert "offline stand-in" not in "".join(reply_tokens(asked("Explain", first, "And now?")))


def test_remembers() -> None:
    def answer(*texts: str) -> str:
        return "".join(reply_tokens(asked(*texts)))

    assert "Ada" in answer("My name is Ada.", "Hi", "What is my name?")
    assert "**Grace**" in answer("My name is Ada.", "Hi", "No, my name is Grace", "Hi", "what's my name")
    assert "**dark green**" in answer(
        "My favourite colour is dark green, you know", "-", "What is my favourite colour?"
    )
    assert "not told me" in answer("What is my name?")
    assert "“one thing”" in answer("one thing", "-", "two", "-", "What did I ask first?")
    assert "“two”" in answer("one thing", "-", "two", "-", "What did I ask before?")
    assert "turn **3**" in answer("one", "-", "two", "-", "three")
    assert "3 messages" in answer("one", "-", "two", "-", "How many messages did I send?")


def test_same_in_every_process_and_different_for_different_words() -> None:
    assert reply_tokens(asked("x")) == reply_tokens(asked("x"))
    assert len({"".join(reply_tokens(asked(f"q{i}"))) for i in range(20)}) == 20
    # A golden reply. With Python's own hash() it would change from process to process.
    assert "".join(reply_tokens(asked("golden"))).split("\n", 1)[0] == "# What I can say offline 🇩🇪🇫🇷"


@pytest.mark.parametrize(("tokens", "reason"), [(1, "length"), (30, "length"), (1000, "stop")])
async def test_exact_length(tokens: int, reason: str) -> None:
    deltas = await said(OfflineChat(conf(offline_tokens=tokens)), asked("Explain"))
    assert len(deltas) == tokens + 1
    assert deltas[-1].finish_reason == reason
    assert [delta.text for delta in deltas[:-1]] == reply_tokens(asked("Explain"), tokens)
    assert len(await said(OfflineChat(conf(offline_tokens=tokens)), asked("/tokens 7 Explain"))) == 8


def test_padded_tokens() -> None:
    tokens = reply_tokens(asked("/tokens 40 /bytes 300 Explain"))
    assert [len(token.encode()) for token in tokens] == [300] * 40
    assert len("".join(tokens).replace(".", "")) > 40
    assert sum(map(len, reply_tokens(asked("/tokens 4096 /bytes 65536 Explain")))) <= 64 * 1024 * 1024


async def test_other_ids_are_not_found() -> None:
    model = OfflineChat(conf(genai_model_id="gemini-9"))
    assert model.default_model == "gemini-9"
    assert model.models == (MODEL_ID,)
    with pytest.raises(ChatError, match="GENAI_MODEL_ID") as error:
        await anext(model.stream(asked("x"), model.default_model))
    assert error.value.code == "model_not_found"


async def test_keeps_to_the_clock() -> None:
    model = OfflineChat(conf(offline_tokens_per_s=200, offline_first_token_ms=50, offline_tokens=41))
    start = time.monotonic()
    at = [time.monotonic() - start async for _ in model.stream(asked("x"), MODEL_ID)]
    assert at[0] >= 0.05
    assert 0.24 <= at[40] <= 0.8
    for i, arrival in enumerate(at[:41]):
        assert arrival >= 0.05 + i / 200 - 0.002


async def test_as_fast_as_it_can_never_awaits() -> None:
    model = OfflineChat(conf(offline_tokens=10_000))
    await said(model, asked("x"))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticker = asyncio.create_task(tick())
    start = time.perf_counter()
    assert len(await said(model, asked("x"))) == 10_001
    assert ticks == 0
    assert (time.perf_counter() - start) / 10_000 < 5e-6
    ticker.cancel()


def test_directions() -> None:
    assert directions("/slow 1.5 /think 0.5 /stall 2 /tokens 9 /fail model_timeout  hi\nyou") == Stage(
        "hi\nyou", tokens=9, slow_s=1.5, think_s=0.5, stall_s=2.0, fail="model_timeout"
    )
    assert directions("/fail-first content_refused") == Stage("", fail_first="content_refused")
    assert directions("/drop /quiet 2 /bytes 9 hi") == Stage("hi", token_bytes=9, quiet_s=2.0, drop=True)
    for ordinary in (
        "/fail internal",
        "/tokens -1",
        "/slow soon",
        "/tokens",
        "/help",
        "say /slow 1",
        "/tokens 99999999 x",
        "/bytes 65537 x",
        "/dropped x",
    ):
        assert directions(ordinary) == Stage(ordinary)
    # A wrong value gets a sentence that names the right ones. ``/drop`` takes no value, so it gets none.
    assert mistake("/tokens many hi") == "/tokens takes a whole number from 1 to 1,000,000, not many."
    assert [mistake(text) for text in ("/drop", "/drop hi", "/drop. hi", "/drop, hi")] == [""] * 4


@pytest.mark.parametrize("code", ["model_rate_limited", "model_unauthorized", "content_refused", "model_timeout"])
async def test_fails_when_told(code: str) -> None:
    seen = []
    with pytest.raises(ChatError) as error:
        async for delta in OfflineChat(conf()).stream(asked(f"/fail {code} hi"), MODEL_ID):
            seen.append(delta)
    assert (len(seen), error.value.code) == (3, code)
    with pytest.raises(ChatError) as error:
        await anext(OfflineChat(conf()).stream(asked(f"/fail-first {code}"), MODEL_ID))
    assert error.value.code == code


async def test_slow_and_stall() -> None:
    start = time.monotonic()
    at = [time.monotonic() - start async for _ in OfflineChat(conf()).stream(asked("/slow 0.1 /stall 0.2 x"), MODEL_ID)]
    assert at[0] >= 0.1
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert max(gaps) >= 0.2
    assert gaps.index(max(gaps)) == (len(at) - 1) // 2 - 1


async def test_thinks_before_it_speaks() -> None:
    start = time.monotonic()
    thinking = await said(OfflineChat(conf()), asked("/think 0.2 x"))
    assert time.monotonic() - start >= 0.2
    assert thinking[0] == Delta(thought=True)
    assert [delta.text for delta in thinking[1:-1]] == reply_tokens(asked("/think 0.2 x"))
    assert not any(delta.thought for delta in thinking[1:])


async def drawn(model: OfflineImages, prompt: str, width: int, height: int) -> list[ImagePart]:
    return [part async for part in model.generate(prompt, width, height)]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (64, 48), (1024, 1024), (1, 2000)])
async def test_draws_what_is_asked(width: int, height: int) -> None:
    parts = await drawn(OfflineImages(conf()), "a red fox", width, height)
    assert [part.preview for part in parts] == [True, True, False]
    for part in parts:
        with Image.open(io.BytesIO(part.data)) as picture:
            picture.load()
            assert (picture.size, picture.format) == ((width, height), "PNG")
        assert (part.width, part.height, part.mime_type) == (width, height, "image/png")
    if width > 1 and height > 1:
        assert all(len(part.data) < len(parts[2].data) for part in parts[:2])


async def test_same_prompt_same_picture() -> None:
    model = OfflineImages(conf())
    one, two, other = [(await drawn(model, prompt, 96, 96))[-1].data for prompt in ("a fox", "a fox", "a box")]
    assert one == two
    assert one != other


async def test_weight_of_pictures() -> None:
    model = OfflineImages(conf())
    medium = (await drawn(model, "a fox 👩‍👩‍👧‍👦 नमस्ते " * 50, 1024, 1024))[-1].data
    assert 1_000_000 < len(medium) < 2_200_000
    large = (await drawn(model, "a fox", 4096, 4096))[-1].data
    assert len(large) > 16 * 1024 * 1024


async def test_image_directions_and_sizes() -> None:
    model = OfflineImages(conf(max_image_pixels=100))
    for width, height in ((0, 5), (5, 0), (11, 10), (-1, -1)):
        with pytest.raises(ChatError) as error:
            model.check_size(width, height)
        assert error.value.code == "invalid_request"
    with pytest.raises(ChatError) as error:
        await anext(model.generate("/fail-first model_rate_limited x", 10, 10))
    assert error.value.code == "model_rate_limited"
    seen = []
    with pytest.raises(ChatError) as error:
        async for part in model.generate("/fail content_refused x", 10, 10):
            seen.append(part.preview)
    assert (seen, error.value.code) == ([True], "content_refused")
