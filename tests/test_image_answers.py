"""What image servers send beside the page of the API, through the real SDK against the emulator."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from shared.config import Settings
from shared.errors import ChatError
from shared.events import Usage
from shared.images.model import ImagePart
from shared.images.openai_images import OpenAIImages
from shared.images.picture import decode_base64, read_picture
from shared.llm.checked import NotAnAnswer
from tests.emulators import PROVIDER_TEXT, Emulator
from tests.emulators.images import damaged, picture

KEY = "secret-key-0123456789"
GPT, OTHER = "gpt-image-2.6-flare", "stable-diffusion"
SIZE = (1536, 1024)


@asynccontextmanager
async def image_model(model: str, **given: Any) -> AsyncIterator[tuple[OpenAIImages, Emulator]]:
    async with Emulator() as emulator:
        conf = {"openai_api_key": KEY, "openai_base_url": emulator.openai_url, "openai_image_model": model, **given}
        images = OpenAIImages(Settings(_env_file=None, **conf))
        try:
            yield images, emulator
        finally:
            await images.aclose()


async def drawn(images: OpenAIImages, scenario: str) -> ImagePart:
    """The one picture of an answer."""
    (part,) = [part async for part in images.generate(f"a fox emulate:{scenario}", *SIZE)]
    with Image.open(io.BytesIO(part.data)) as whole:
        whole.load()
        assert whole.size == (part.width, part.height) == SIZE
    assert (part.preview, part.mime_type, part.revised_prompt) == (False, "image/png", None)
    return part


@pytest.mark.parametrize(
    "scenario", ["whole", "data-uri", "data-url", "wrapped", "url-alphabet", "url", "url-redirect"]
)
async def test_pictures_in_other_forms(scenario: str) -> None:
    async with image_model(OTHER) as (images, emulator):
        part = await drawn(images, scenario)
        assert part.data == picture("1536x1024", 200)
        for seen in emulator.seen[1:]:
            assert not {"authorization", "cookie", "x-api-key"} & seen.headers.keys()
        assert len(emulator.seen) == {"url": 2, "url-redirect": 5}.get(scenario, 1)


@pytest.mark.parametrize(
    "scenario",
    [
        "url-too-many",
        "url-missing",
        "url-elsewhere",
        "url-escape",
        "url-file",
        "url-number",
        "truncated",
        "broken",
        "bomb",
        "list",
        "no-data",
    ],
)
async def test_what_is_no_picture(scenario: str) -> None:
    async with image_model(OTHER) as (images, emulator):
        with pytest.raises(ChatError) as caught:
            await drawn(images, scenario)
        error = caught.value
        assert error.code == "model_unavailable"
        assert error.message == "The OpenAI-compatible server sent something that is not a whole picture; try again."
        assert error.cause
        assert KEY not in repr(error)
        assert len([seen for seen in emulator.seen if seen.path.endswith("/generations")]) == 1


async def test_a_picture_behind_a_url_has_the_same_time_limit() -> None:
    async with image_model(OTHER, image_timeout_s=30) as (images, _):
        await drawn(images, "url")
    async with image_model(OTHER, image_timeout_s=0.001) as (images, _):
        with pytest.raises(ChatError) as caught:
            await drawn(images, "url")
        assert caught.value.code == "model_timeout"


@pytest.mark.parametrize(
    ("model", "scenario", "left"),
    [
        (OTHER, "no-response-format", set()),
        (GPT, "no-stream", {"output_format"}),
        (GPT, "vague", set()),
        (OTHER, "vague", set()),
    ],
)
async def test_servers_that_refuse_what_is_always_asked(model: str, scenario: str, left: set[str]) -> None:
    async with image_model(model) as (images, emulator):
        await drawn(images, scenario)
        assert [seen.status for seen in emulator.seen] == [400, 200]
        assert emulator.seen[1].body.keys() - {"model", "prompt", "size", "n"} == left
        await drawn(images, scenario)
        assert [seen.status for seen in emulator.seen] == [400, 200, 200]


async def test_a_whole_picture_in_place_of_a_stream() -> None:
    async with image_model(GPT) as (images, emulator):
        await drawn(images, "whole")
        assert emulator.seen[0].body["stream"] is True
        assert len(emulator.seen) == 1


async def test_counts_are_checked() -> None:
    async with image_model(OTHER) as (images, _):
        assert (await drawn(images, "odd-counts")).usage == Usage(None, 4)


@pytest.mark.parametrize("kind", ["truncated", "broken", "bomb"])
async def test_damaged_pictures(kind: str) -> None:
    with pytest.raises(NotAnAnswer):
        await asyncio.to_thread(read_picture, damaged(kind), 4096 * 4096, preview=False)


def test_only_picture_formats_are_read() -> None:
    """Pillow's readers of other formats run programs (EPS) or are rarely maintained."""
    for kind in ("BMP", "TIFF", "PPM"):
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, kind)
        with pytest.raises(NotAnAnswer):
            read_picture(out.getvalue(), 100, preview=False)
    for kind, media_type in (
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
    ):
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, kind)
        part = read_picture(out.getvalue(), 64, preview=True, revised_prompt="a \ud83d fox")
        assert (part.mime_type, part.width, part.revised_prompt) == (media_type, 8, "a \ufffd fox")
        with pytest.raises(NotAnAnswer, match="more than 63 pixels"):
            read_picture(out.getvalue(), 63, preview=False)


def test_a_uri_may_be_percent_encoded() -> None:
    assert decode_base64("data:image/png;base64,%2B%2Fs%3D") == decode_base64("+/s=") == b"\xfb\xfb"


@pytest.mark.parametrize("text", ["a", "a=b=", "data:image/png;base64", "%%%%", PROVIDER_TEXT + "!", 7, None, "é" * 4])
def test_what_is_no_base64(text: Any) -> None:
    with pytest.raises(NotAnAnswer):
        decode_base64(text)
