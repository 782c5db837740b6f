"""Both chat providers, with their real SDKs, against every scenario of the emulators."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from shared.events import Usage
from shared.llm.model import ChatModel, ContextMessage, Delta
from shared.llm.open import open_chat_model
from tests.emulators import PROVIDER_TEXT, WRONG_KEY, Emulator, Seen
from tests.emulators.chat import LONG, WILD
from tests.emulators.wire import TOKENS
from tests.provider_models import KEY, PROVIDERS, TEXT, failed, provider_settings, said, text_of, usage_of

CANCEL_MS = 250

Open = Callable[..., ChatModel]


@pytest.fixture(scope="module", autouse=True)
def _sdks_are_imported() -> None:
    """Import the SDKs before the tests: the first import takes about a second, too long for the short limits below."""
    importlib.import_module("google.genai")
    importlib.import_module("openai")


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as running:
        yield running


@pytest.fixture(params=PROVIDERS)
async def open_model(request: pytest.FixtureRequest, emulator: Emulator) -> AsyncIterator[Open]:
    opened: list[ChatModel] = []

    def opening(key: str = KEY, **given: Any) -> ChatModel:
        keys = {"gemini_api_key": key, "openai_api_key": key}
        model = open_chat_model(provider_settings(request.param, emulator, **{**keys, **given}))
        opened.append(model)
        return model

    yield opening
    for model in opened:
        await model.aclose()


async def ended(emulator: Emulator, index: int = 0) -> Seen:
    """A request, when the emulator knows how it ended."""
    await emulator.until(lambda: len(emulator.seen) > index and emulator.seen[index].ended_at is not None)
    return emulator.seen[index]


@pytest.mark.parametrize(
    ("scenario", "text", "reason", "usage"),
    [
        ("plain", f"{TEXT}1 messages", "stop", Usage(7, 4)),
        ("long", "".join(f"t{i} " for i in range(LONG)), "stop", Usage(7, 4)),
        ("wild", "".join(WILD), "stop", Usage(7, 4)),
        ("empty", TEXT, "stop", Usage(7, 4)),
        ("nothing", "", "stop", Usage(7, 4)),
        ("thoughts", TEXT, "stop", Usage(7, 4)),
        ("no-usage", TEXT, "stop", None),
        ("max-tokens", TEXT, "length", Usage(7, 4)),
        ("slow-200", TEXT, "stop", Usage(7, 4)),
    ],
)
async def test_answers(open_model: Open, scenario: str, text: str, reason: str, usage: Usage | None) -> None:
    deltas = await said(open_model(), f"hi emulate:{scenario}")
    assert text_of(deltas) == text
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [reason]
    assert deltas[-1].finish_reason == reason
    assert usage_of(deltas) == usage


async def test_streams_while_the_model_speaks(open_model: Open, emulator: Emulator) -> None:
    model = open_model()
    async with aclosing(model.stream([ContextMessage("user", "emulate:paced-1000")], model.default_model)) as stream:
        assert (await anext(stream)).text == "t0 "
        assert emulator.seen[0].frames < 100


@pytest.mark.parametrize(
    ("scenario", "code", "heard"),
    [
        ("block-prompt", "content_refused", ""),
        ("block-reply", "content_refused", TEXT),
        ("status-400", "invalid_request", ""),
        ("status-401", "model_unauthorized", ""),
        ("status-403", "model_unauthorized", ""),
        ("status-404", "model_not_found", ""),
        ("status-429", "model_rate_limited", ""),
        ("status-500", "model_unavailable", ""),
        ("status-503", "model_unavailable", ""),
        ("status-504", "model_timeout", ""),
        ("error-frame-503", "model_unavailable", TEXT),
        ("error-frame-429", "model_rate_limited", TEXT),
        ("garbage", "model_unavailable", TEXT),
        ("cut", "model_unavailable", TEXT),
        ("cut-first-1", "model_unavailable", ""),
        ("eof", "model_unavailable", TEXT),
    ],
)
async def test_failures(
    open_model: Open, caplog: pytest.LogCaptureFixture, scenario: str, code: str, heard: str
) -> None:
    caplog.set_level(logging.INFO)
    error, before = await failed(open_model(), f"hi emulate:{scenario}")
    assert (error.code, before) == (code, heard)
    assert PROVIDER_TEXT not in caplog.text
    assert KEY not in caplog.text


async def test_a_wrong_key_is_told_without_a_letter_of_it(open_model: Open) -> None:
    error, _ = await failed(open_model(WRONG_KEY), "hi")
    assert error.code == "model_unauthorized"
    assert "_API_KEY" in error.message


async def test_an_unknown_model_names_the_setting(open_model: Open) -> None:
    error, _ = await failed(open_model(), "hi", "missing-model")
    assert error.code == "model_not_found"
    assert "GENAI_MODEL_ID" in error.message
    assert "missing-model" in error.message


async def test_nobody_answers(open_model: Open) -> None:
    closed = "http://127.0.0.1:9"
    error, _ = await failed(open_model(google_gemini_base_url=closed, openai_base_url=closed), "hi")
    assert error.code == "model_unavailable"


@pytest.mark.parametrize(
    ("scenario", "setting", "heard"),
    [
        ("hang", "provider_first_frame_timeout_s", ""),
        ("stall-first", "provider_first_frame_timeout_s", ""),
        ("slow-5000", "provider_first_frame_timeout_s", ""),
        ("stall", "provider_between_frames_timeout_s", TEXT),
        ("hang", "provider_total_timeout_s", ""),
    ],
)
async def test_timeouts(open_model: Open, emulator: Emulator, scenario: str, setting: str, heard: str) -> None:
    # Long enough for the first turn, which imports the SDK, on a machine that is busy.
    model = open_model(**{setting: 3})
    await said(model, "hi")
    error, before = await failed(model, f"hi emulate:{scenario}")
    assert (error.code, before) == ("model_timeout", heard)
    assert (await ended(emulator, 1)).ended_by == "client"


async def test_the_time_of_the_import_is_not_the_providers(open_model: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    to_thread, calls = asyncio.to_thread, itertools.count()

    async def slowly(*work: Any) -> Any:
        # The first call imports the SDK; later ones are the SDK's own.
        await asyncio.sleep(0 if next(calls) else 2.5)
        return await to_thread(*work)

    monkeypatch.setattr(asyncio, "to_thread", slowly)
    deltas = await said(open_model(provider_first_frame_timeout_s=2), "hi")
    assert text_of(deltas) == f"{TEXT}1 messages"


async def test_a_long_answer_has_a_total(open_model: Open, emulator: Emulator) -> None:
    model = open_model(provider_total_timeout_s=3)
    await said(model, "hi")
    error, before = await failed(model, "hi emulate:paced-1000")
    assert error.code == "model_timeout"
    assert "whole answer" in error.message
    assert before.startswith("t0 t1 ")
    assert (await ended(emulator, 1)).ended_by == "client"


@pytest.mark.parametrize("scenario", ["flaky-2", "drop-2", "limited-1"])
async def test_tries_again_before_the_answer_begins(open_model: Open, emulator: Emulator, scenario: str) -> None:
    deltas = await said(open_model(provider_retries=2), f"hi emulate:{scenario}")
    assert text_of(deltas) == f"{TEXT}1 messages"
    assert len(emulator.seen) == (2 if scenario == "limited-1" else 3)


@pytest.mark.parametrize(
    ("scenario", "requests"),
    [
        ("status-503", 3),
        ("status-429", 1),
        ("limited-60", 1),
        ("status-401", 1),
        ("cut", 1),
        ("cut-first-1", 1),
        ("eof", 1),
        ("eof-first", 1),
        ("garbage", 1),
        ("error-frame-503", 1),
        ("error-first-503", 1),
    ],
)
async def test_does_not_try_again(open_model: Open, emulator: Emulator, scenario: str, requests: int) -> None:
    error, _ = await failed(open_model(provider_retries=2), f"hi emulate:{scenario}")
    assert len(emulator.seen) == requests
    if scenario == "limited-60":
        assert error.retry_after_s == 60


async def test_the_history_goes_whole(open_model: Open, emulator: Emulator) -> None:
    model = open_model(genai_system_instruction="Be brief.")
    history = [
        ContextMessage("user", "One e\u0301"),
        ContextMessage("model", "Two\n\n"),
        ContextMessage("user", "Three"),
    ]
    deltas = [delta async for delta in model.stream(history, model.default_model)]
    body = emulator.seen[0].body
    if model.provider == "gemini":
        assert body["contents"] == [{"role": said.role, "parts": [{"text": said.text}]} for said in history]
        assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
        assert text_of(deltas) == f"{TEXT}3 messages"
    else:
        roles = ("system", "user", "assistant", "user")
        texts = ("Be brief.", *(said.text for said in history))
        assert body["messages"] == [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
        assert text_of(deltas) == f"{TEXT}4 messages"
    settings = {**body, **body.get("generationConfig", {})}
    assert not {"temperature", "top_p", "top_k", "topP", "topK"} & settings.keys()


async def test_a_long_history_does_not_hold_up_the_event_loop(open_model: Open, emulator: Emulator) -> None:
    model = open_model()
    await said(model, "hi")
    history = [ContextMessage("model" if i % 2 else "user", f"message {i}") for i in range(5001)]
    # CPU time of this thread without the garbage collector, so that other work on the machine does not count.
    gc.collect()
    gc.disable()
    before = time.thread_time()
    for _ in range(4):
        json.loads(json.dumps([{"role": said.role, "parts": [{"text": said.text}]} for said in history]))
    yardstick, worst, before = time.thread_time() - before, 0.0, time.thread_time()
    stream = asyncio.create_task(_all(model, history))
    try:
        while not stream.done():
            await asyncio.sleep(0)
            worst, before = max(worst, time.thread_time() - before), time.thread_time()
    finally:
        gc.enable()
    assert text_of(await stream) == f"{TEXT}5001 messages"
    # The SDKs' own way of passing messages takes more than ten yardsticks; the emulator shares this loop.
    assert worst < 3 * yardstick


async def _all(model: ChatModel, history: list[ContextMessage]) -> list[Delta]:
    return [delta async for delta in model.stream(history, model.default_model)]


@pytest.mark.parametrize("stage", ["hang", "stall-first", "slow-5000", "stall", "paced-1000"])
async def test_cancelling_the_task_closes_upstream(open_model: Open, emulator: Emulator, stage: str) -> None:
    model = open_model()
    heard = asyncio.Event()

    async def read() -> None:
        async for delta in model.stream([ContextMessage("user", f"emulate:{stage}")], model.default_model):
            if delta.text:
                heard.set()

    task = asyncio.create_task(read())
    if stage in ("stall", "paced-1000"):
        await heard.wait()
    else:
        await emulator.until(lambda: bool(emulator.seen))
    pressed = time.time() * 1000
    task.cancel()
    seen = await ended(emulator)
    assert seen.ended_by == "client"
    assert (seen.ended_at or 0) - pressed < CANCEL_MS
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("stage", ["stall", "paced-1000"])
async def test_closing_the_iterator_closes_upstream(open_model: Open, emulator: Emulator, stage: str) -> None:
    """The reader stops outside of the iterator. The SDKs' own iterators would leave the request open."""
    model = open_model()
    stream = model.stream([ContextMessage("user", f"emulate:{stage}")], model.default_model)
    await anext(stream)
    pressed = time.time() * 1000
    await stream.aclose()
    seen = await ended(emulator)
    assert seen.ended_by == "client"
    assert (seen.ended_at or 0) - pressed < CANCEL_MS


async def test_three_hundred_streams(open_model: Open, emulator: Emulator) -> None:
    model = open_model()
    await said(model, "hi")
    emulator.seen.clear()
    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(said(model, f"{i} emulate:paced-20")) for i in range(300)]
    assert {text_of(task.result()) for task in tasks} == {"".join(f"t{i} " for i in range(20))}
    first_end = min(seen.ended_at or 0 for seen in emulator.seen)
    assert max(seen.at for seen in emulator.seen) < first_end + 5000
    assert time.monotonic() - start < 60


async def test_three_hundred_are_open_at_once(open_model: Open, emulator: Emulator) -> None:
    model = open_model()
    streams = [model.stream([ContextMessage("user", f"{i} emulate:stall")], model.default_model) for i in range(300)]
    for delta in await asyncio.gather(*(anext(stream) for stream in streams)):
        assert delta.text == TOKENS[0]
    assert [seen.ended_at for seen in emulator.seen] == [None] * 300
    pressed = time.time() * 1000
    await asyncio.gather(*(stream.aclose() for stream in streams))
    for i in range(300):
        assert (await ended(emulator, i)).ended_by == "client"
    assert max(seen.ended_at or 0 for seen in emulator.seen) - pressed < 3000
