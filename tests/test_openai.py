"""OpenAI images with the real SDK against the emulator, and chat completions on the wire."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from PIL import Image

from shared.config import Settings
from shared.errors import ChatError
from shared.events import Usage
from shared.images.model import ImagePart
from shared.images.offline import OfflineImages
from shared.images.open import open_image_model
from shared.images.openai_images import OpenAIImages
from shared.llm.model import ContextMessage
from shared.llm.openai_chat import OpenAIChat
from tests.emulators import PROVIDER_TEXT, WRONG_KEY, Emulator

KEY = "secret-key-0123456789"
GPT, DALLE = "gpt-image-2.6-flare", "dall-e-3"
CANCEL_MS = 250

Open = Callable[..., OpenAIImages]


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as running:
        yield running


@pytest.fixture
async def open_images(emulator: Emulator) -> AsyncIterator[Open]:
    opened = []

    def opening(model: str = GPT, key: str = KEY, **given: Any) -> OpenAIImages:
        conf = {"openai_api_key": key, "openai_base_url": emulator.openai_url, "openai_image_model": model, **given}
        opened.append(OpenAIImages(Settings(_env_file=None, **conf)))
        return opened[-1]

    yield opening
    for model in opened:
        await model.aclose()


async def drawn(model: OpenAIImages, prompt: str, size: tuple[int, int] = (1024, 1024)) -> list[ImagePart]:
    return [part async for part in model.generate(prompt, *size)]


async def failed(model: OpenAIImages, prompt: str) -> tuple[ChatError, int]:
    """The error, and the number of pictures before it."""
    parts = 0
    with pytest.raises(ChatError) as caught:
        async for _ in model.generate(prompt, 1024, 1024):
            parts += 1
    error = caught.value
    for one in (error, error.__cause__, error.__context__):
        for secret in (PROVIDER_TEXT, KEY, WRONG_KEY):
            assert secret not in repr(one)
    return error, parts


async def test_a_gpt_image_model_streams_previews(open_images: Open, emulator: Emulator) -> None:
    parts = await drawn(open_images(), "a fox", (1536, 1024))
    assert [part.preview for part in parts] == [True, True, False]
    assert len({part.data for part in parts}) == 3
    for part in parts:
        assert (part.width, part.height, part.mime_type, part.revised_prompt) == (1536, 1024, "image/png", None)
        with Image.open(io.BytesIO(part.data)) as picture:
            assert picture.size == (1536, 1024)
    assert parts[-1].usage == Usage(9, 196)
    asked = {"model": GPT, "prompt": "a fox", "size": "1536x1024", "n": 1, "output_format": "png"}
    assert emulator.seen[0].body == {**asked, "stream": True, "partial_images": 2}
    assert emulator.seen[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("model", "extra"), [(DALLE, {"quality": "standard", "style": "vivid"}), ("dall-e-2", {})])
async def test_dalle_has_its_own_parameters(
    open_images: Open, emulator: Emulator, model: str, extra: dict[str, str]
) -> None:
    (part,) = await drawn(open_images(model), "a fox")
    assert (part.preview, part.width, part.revised_prompt) == (False, 1024, "revised: a fox")
    asked = {"model": model, "prompt": "a fox", "size": "1024x1024", "n": 1, "response_format": "b64_json"}
    assert emulator.seen[0].body == {**asked, **extra}


async def test_another_servers_model(open_images: Open) -> None:
    (part,) = await drawn(open_images("stable-diffusion", openai_api_key=None), "a fox", (100, 60))
    assert (part.width, part.height) == (100, 60)


@pytest.mark.parametrize(
    ("model", "good", "bad"),
    [
        ("gpt-image-1.5", [(1024, 1024), (1536, 1024)], [(512, 512), (1024, 768), (2048, 2048)]),
        (
            GPT,
            [(1024, 1024), (1536, 864), (3840, 2160), (16, 48)],
            [(1000, 1000), (16, 64), (4096, 1024), (3840, 3840)],
        ),
        (DALLE, [(1792, 1024), (1024, 1792)], [(512, 512), (1536, 1024)]),
        ("dall-e-2", [(256, 256), (512, 512)], [(1792, 1024)]),
        ("stable-diffusion", [(7, 9)], [(0, 9), (100_000, 100_000)]),
    ],
)
async def test_sizes_are_checked_before_they_are_paid_for(
    open_images: Open,
    emulator: Emulator,
    model: str,
    good: list[tuple[int, int]],
    bad: list[tuple[int, int]],
) -> None:
    images = open_images(model)
    for size in good:
        images.check_size(*size)
    for size in bad:
        with pytest.raises(ChatError) as error:
            await drawn(images, "a fox", size)
        assert error.value.code == "invalid_request"
    assert emulator.seen == []


@pytest.mark.parametrize("model", [GPT, DALLE])
@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("status-400", "invalid_request"),
        ("status-401", "model_unauthorized"),
        ("status-403", "model_unauthorized"),
        ("status-429", "model_rate_limited"),
        ("status-500", "model_unavailable"),
        ("block", "content_refused"),
        ("eof", "model_unavailable"),
        ("not-a-picture", "model_unavailable"),
    ],
)
async def test_failures(
    open_images: Open, emulator: Emulator, caplog: pytest.LogCaptureFixture, model: str, scenario: str, code: str
) -> None:
    caplog.set_level(logging.INFO)
    error, _ = await failed(open_images(model), f"a fox emulate:{scenario}")
    assert error.code == code
    # An error that names no cause may mean a parameter that the server does not know.
    assert len(emulator.seen) == (2 if scenario == "status-400" else 1)
    assert PROVIDER_TEXT not in caplog.text
    assert KEY not in caplog.text
    if code == "model_rate_limited":
        assert error.retry_after_s == 7


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("error-frame-429", "model_rate_limited"),
        ("error-frame-500", "model_unavailable"),
        ("cut", "model_unavailable"),
        ("garbage", "model_unavailable"),
    ],
)
async def test_failures_inside_the_stream(open_images: Open, emulator: Emulator, scenario: str, code: str) -> None:
    error, parts = await failed(open_images(), f"a fox emulate:{scenario}")
    assert (error.code, parts) == (code, 1)
    assert len(emulator.seen) == 1


async def test_a_wrong_key_and_a_retired_model(open_images: Open) -> None:
    error, _ = await failed(open_images(key=WRONG_KEY), "a fox")
    assert error.code == "model_unauthorized"
    assert "OPENAI_API_KEY" in error.message
    error, _ = await failed(open_images("gpt-image-1"), "a fox")
    assert error.code == "model_not_found"
    assert "OPENAI_IMAGE_MODEL" in error.message
    assert "gpt-image-1" in error.message


@pytest.mark.parametrize(("model", "scenario", "parts"), [(GPT, "stall", 1), (GPT, "hang", 0), (DALLE, "hang", 0)])
async def test_a_picture_has_a_time_limit(
    open_images: Open, emulator: Emulator, model: str, scenario: str, parts: int
) -> None:
    images = open_images(model, image_timeout_s=2)
    error, before = await failed(images, f"a fox emulate:{scenario}")
    assert (error.code, before) == ("model_timeout", parts)
    await emulator.until(lambda: emulator.seen[0].ended_by == "client")


@pytest.mark.parametrize(
    ("model", "scenario"), [(GPT, "stall"), (GPT, "hang"), (GPT, "slow-5000"), (DALLE, "slow-5000")]
)
async def test_cancelling_closes_upstream(open_images: Open, emulator: Emulator, model: str, scenario: str) -> None:
    images = open_images(model)
    task = asyncio.create_task(drawn(images, f"a fox emulate:{scenario}"))
    frames = 1 if scenario == "stall" else 0
    await emulator.until(lambda: bool(emulator.seen) and emulator.seen[0].frames >= frames, 10)
    pressed = time.time() * 1000
    task.cancel()
    await emulator.until(lambda: emulator.seen[0].ended_by == "client")
    assert (emulator.seen[0].ended_at or 0) - pressed < CANCEL_MS
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_after_a_preview_closes_upstream(open_images: Open, emulator: Emulator) -> None:
    parts = open_images().generate("a fox emulate:stall", 1024, 1024)
    assert (await anext(parts)).preview
    pressed = time.time() * 1000
    await parts.aclose()
    await emulator.until(lambda: emulator.seen[0].ended_by == "client")
    assert (emulator.seen[0].ended_at or 0) - pressed < CANCEL_MS


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, OfflineImages),
        ({"openai_api_key": KEY}, OpenAIImages),
        ({"openai_base_url": "http://127.0.0.1:1/v1"}, OfflineImages),
        ({"openai_api_key": KEY, "image_provider": "offline"}, OfflineImages),
        ({"image_provider": "openai", "openai_base_url": "http://127.0.0.1:1/v1"}, OpenAIImages),
    ],
)
def test_the_model_is_chosen_by_what_keys_there_are(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], kind: type
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    model = open_image_model(Settings(_env_file=None, **given))
    assert type(model) is kind
    assert bool(model.hint) is (kind is OfflineImages)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        open_image_model(Settings(_env_file=None, image_provider="openai"))


@pytest.mark.parametrize("key", [None, KEY])
async def test_chat_completions_on_the_wire(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """The SDK's own variables name the server. A local server needs no key."""
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.openai_url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = OpenAIChat(Settings(_env_file=None, genai_provider="openai", genai_model_id="llama", openai_api_key=key))
    deltas = [delta async for delta in model.stream([ContextMessage("user", "hi")], "llama")]
    await model.aclose()
    assert deltas[-1].finish_reason == "stop"
    seen = emulator.seen[0]
    body = {"model": "llama", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert seen.body == {**body, "stream_options": {"include_usage": True}}
    assert seen.headers["authorization"] == f"Bearer {key or 'none'}"
