"""Frames that no API's page describes: what counts as the reply, what is a failure, and what an error's body may cost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from shared.events import Usage
from tests.provider_models import PROVIDERS, failed, provider_model, said, text_of, usage_of

both = pytest.mark.parametrize("provider", PROVIDERS)

DIGITS = "9" * 5000
Frames = list[Any]


def script(*frames: Any) -> list[bytes]:
    """One piece of bytes a frame; a string is the frame as it stands."""
    return [f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n".encode() for one in frames]


def choice(delta: dict[str, Any], reason: Any = None, index: Any = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason, **more}]}


def candidate(*parts: dict[str, Any], reason: Any = None, index: Any = 0) -> dict[str, Any]:
    content = {"content": {"role": "model", "parts": list(parts)}} if parts else {}
    return {"candidates": [{"index": index, **content, **({"finishReason": reason} if reason else {})}]}


STOP = choice({}, "stop")
TOOL = choice({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]})
OPENAI: dict[str, tuple[Frames, str, str]] = {
    "a part without a type": ([choice({"content": [{"text": "Hi"}]}), STOP], "Hi", "stop"),
    "two choices in a frame": (
        [{"choices": [*choice({"content": "No"}, index=1)["choices"], *choice({"content": "Hi"})["choices"]]}, STOP],
        "Hi",
        "stop",
    ),
    "two choices in turn": (
        [
            choice({"content": "Hi"}),
            choice({"content": "No"}, index=1),
            choice({}, "length", index=1),
            choice({"content": " you"}),
            STOP,
        ],
        "Hi you",
        "stop",
    ),
    "one choice with another index": ([choice({"content": "Hi"}, index=7), choice({}, "stop", index=7)], "Hi", "stop"),
    "a number of 5,000 digits": ([f'{{"created": {DIGITS}, "choices": [{{"delta": {{"content": "Hi"}}}}]}}', STOP], "Hi", "stop"),
    "a tab that is not escaped": (['{"choices": [{"delta": {"content": "a\tb"}}]}', STOP], "a\tb", "stop"),
    "text beside a tool": ([TOOL, choice({"content": "Hi"}), STOP], "Hi", "stop"),
}  # fmt: skip
GEMINI: dict[str, tuple[Frames, str, str]] = {
    "two candidates in a frame": (
        [
            {
                "candidates": [
                    *candidate({"text": "No"}, index=1)["candidates"],
                    *candidate({"text": "Hi"})["candidates"],
                ]
            },
            candidate(reason="STOP"),
        ],
        "Hi",
        "stop",
    ),
    "two candidates in turn": (
        [
            candidate({"text": "Hi"}),
            candidate({"text": "No"}, index=1, reason="MAX_TOKENS"),
            candidate({"text": " you"}, reason="STOP"),
        ],
        "Hi you",
        "stop",
    ),
    "a number of 5,000 digits": (
        [candidate({"text": "Hi"}), f'{{"usageMetadata": {{"promptTokenCount": {DIGITS}}}}}', candidate(reason="STOP")],
        "Hi",
        "stop",
    ),
}
REPLIES = [(provider, name) for provider, table in (("openai", OPENAI), ("gemini", GEMINI)) for name in table]


@pytest.mark.parametrize(("provider", "name"), REPLIES)
async def test_what_the_reply_is(provider: str, name: str) -> None:
    frames, reply, reason = (OPENAI if provider == "openai" else GEMINI)[name]
    async with provider_model(provider) as (model, emulator):
        emulator.script = script(*frames)
        deltas = await said(model, "hi emulate:scripted")
        assert (text_of(deltas), deltas[-1].finish_reason) == (reply, reason)
        assert usage_of(deltas) is None


REFUSED, FAILED = "content_refused", "model_unavailable"
HI = choice({"content": "Hi"})


@pytest.mark.parametrize(
    ("provider", "frames", "code", "heard"),
    [
        ("openai", [choice({"content": [{"type": "refusal", "refusal": "no"}]}), STOP], REFUSED, ""),
        ("openai", [HI, choice({}, "sensitive")], REFUSED, "Hi"),
        ("openai", [HI, choice({}, "network_error")], FAILED, "Hi"),
        ("openai", [HI, choice({}, "insufficient_system_resource")], FAILED, "Hi"),
        ("openai", [HI, choice({}, "abort")], FAILED, "Hi"),
        ("openai", [TOOL, STOP], FAILED, ""),
        ("openai", [TOOL, "[DONE]"], FAILED, ""),
        ("gemini", [candidate({"functionCall": {"name": "f"}}), candidate(reason="STOP")], FAILED, ""),
        ("gemini", [candidate(reason="LANGUAGE")], FAILED, ""),
        ("gemini", [{"promptFeedback": {"blockReason": 1}}], REFUSED, ""),
    ],
)
async def test_what_is_no_reply(provider: str, frames: Frames, code: str, heard: str) -> None:
    async with provider_model(provider, provider_retries=2) as (model, emulator):
        emulator.script = script(*frames)
        error, before = await failed(model, "hi emulate:scripted")
        assert (error.code, before) == (code, heard)
        assert len(emulator.seen) == 1


async def test_an_event_of_another_type_is_a_sign_of_life() -> None:
    async with provider_model("openai") as (model, emulator):
        emulator.script = [b"event: ping\ndata: ping\n\n", *script(HI, STOP)]
        assert text_of(await said(model, "hi emulate:scripted")) == "Hi"
        emulator.script = [b"event: message\ndata: ping\n\n", *script(HI, STOP)]
        assert (await failed(model, "hi emulate:scripted"))[0].code == FAILED


async def test_counts_inside_a_choice() -> None:
    async with provider_model("openai") as (model, emulator):
        emulator.script = script(HI, choice({}, "stop", usage={"prompt_tokens": 7, "completion_tokens": 4}))
        assert usage_of(await said(model, "hi emulate:scripted")) == Usage(7, 4)


@both
@pytest.mark.parametrize("scenario", ["endless-error", "coded-error"])
async def test_a_status_is_told_whatever_its_body_is(provider: str, scenario: str) -> None:
    async with provider_model(provider) as (model, _):
        await said(model, "hi")
        begun = time.monotonic()
        error, _ = await failed(model, f"hi emulate:{scenario}")
        assert error.code == "model_unauthorized"
        assert "(HTTP 401)" in error.message
        # The emulator leaves the body open for a minute.
        assert time.monotonic() - begun < 30
