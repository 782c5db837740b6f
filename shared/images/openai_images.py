"""Pictures from the OpenAI images API: ``POST {OPENAI_BASE_URL}/images/generations``.

The GPT image models answer with server-sent events, two partial pictures before the final one. ``dall-e-*`` and anything
else (OpenAI has retired DALL·E; a server behind ``OPENAI_BASE_URL`` may still have it) answer with one JSON object. The SDK
checks neither model nor size; the table here does, before a request is paid for.
https://platform.openai.com/docs/api-reference/images
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.config import Settings
from shared.errors import ChatError
from shared.events import Usage
from shared.images.model import ImagePart
from shared.llm.openai_sdk import OpenAIClient, chat_error, request_failures
from shared.llm.provider import Provider, broken_off

if TYPE_CHECKING:
    from openai import AsyncOpenAI


PROVIDER = Provider("OpenAI", "OPENAI_API_KEY", "OPENAI_IMAGE_MODEL")
PARTIAL_IMAGES = 2

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What a family of image models takes. ``extra`` goes into the request as it is."""

    prefix: str
    streams: bool
    sizes: str
    fits: Callable[[int, int], bool]
    extra: dict[str, Any] = field(default_factory=dict)


def _one_of(*sizes: str) -> Callable[[int, int], bool]:
    return lambda width, height: f"{width}x{height}" in sizes


def _flexible(width: int, height: int) -> bool:
    """GPT image models from 2 on: sides divisible by 16, ratio 1:3 to 3:1, up to 3840x2160 in either direction."""
    long, short = max(width, height), min(width, height)
    return width % 16 == 0 and height % 16 == 0 and long <= 3 * short and long <= 3840 and long * short <= 3840 * 2160


_B64 = {"response_format": "b64_json"}
_PNG = {"output_format": "png"}
_CLASSIC = ("1024x1024", "1536x1024", "1024x1536")
_DALLE2, _DALLE3 = ("256x256", "512x512", "1024x1024"), ("1024x1024", "1792x1024", "1024x1792")
# The first prefix that fits.
KINDS = (
    ModelKind("gpt-image-1", True, ", ".join(_CLASSIC), _one_of(*_CLASSIC), _PNG),
    ModelKind("gpt-image-", True, "sides divisible by 16, 1:3 to 3:1, at most 3840x2160", _flexible, _PNG),
    ModelKind("chatgpt-image", True, ", ".join(_CLASSIC), _one_of(*_CLASSIC), _PNG),
    ModelKind("dall-e-2", False, ", ".join(_DALLE2), _one_of(*_DALLE2), _B64),
    ModelKind(
        "dall-e-3", False, ", ".join(_DALLE3), _one_of(*_DALLE3), {**_B64, "quality": "standard", "style": "vivid"}
    ),
    ModelKind("", False, "any", lambda width, height: True, _B64),
)


class OpenAIImages:
    """ImageModel on the OpenAI images API; ``OPENAI_IMAGE_MODEL`` names the model."""

    provider = "openai"
    hint = ""

    def __init__(self, settings: Settings) -> None:
        if settings.openai_api_key is None and settings.openai_base_url is None:
            raise ValueError("IMAGE_PROVIDER=openai needs OPENAI_API_KEY, or OPENAI_BASE_URL of a server without a key")
        self.default_model = settings.openai_image_model
        self.kind = next(kind for kind in KINDS if self.default_model.startswith(kind.prefix))
        self._max_pixels = settings.max_image_pixels
        self._timeout_s = settings.image_timeout_s
        self._sdk = OpenAIClient(settings)

    def check_size(self, width: int, height: int) -> None:
        """Raise ChatError ``invalid_request``, naming the sizes that the model draws, for any other."""
        if width < 1 or height < 1 or width * height > self._max_pixels:
            raise ChatError("invalid_request", f"The picture may have 1 to {self._max_pixels} pixels in all.")
        if not self.kind.fits(width, height):
            raise ChatError(
                "invalid_request", f"{self.default_model} does not draw {width}x{height}; it draws: {self.kind.sizes}."
            )

    async def generate(self, prompt: str, width: int, height: int) -> AsyncGenerator[ImagePart, None]:
        """At most two previews from a GPT image model, none from another, then the picture; nothing is ever asked twice.

        Raises ChatError ``model_timeout`` when the whole of it takes longer than ``IMAGE_TIMEOUT_S``, and as
        ``shared/llm/limits.py`` says.
        """
        self.check_size(width, height)
        asked = {"model": self.default_model, "prompt": prompt, "size": f"{width}x{height}", "n": 1, **self.kind.extra}
        due = asyncio.get_running_loop().time() + self._timeout_s
        client = await self._sdk.open()
        parts = self._streamed(client, asked) if self.kind.streams else self._whole(client, asked)
        failure: ChatError | None = None
        part: ImagePart | None = None
        try:
            while failure is None and (part is None or part.preview):
                try:
                    async with asyncio.timeout_at(due):
                        part = await anext(parts, None)
                except TimeoutError:
                    failure = ChatError("model_timeout", f"OpenAI drew for longer than {self._timeout_s:g} s.")
                except request_failures() as error:
                    failure = chat_error(error, PROVIDER, self.default_model)
                else:
                    if part is None:
                        failure = broken_off(PROVIDER)
                    else:
                        yield part
        finally:
            await parts.aclose()
        if failure is not None:
            raise failure

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.aclose()

    async def _streamed(self, client: AsyncOpenAI, asked: dict[str, Any]) -> AsyncGenerator[ImagePart, None]:
        events = await client.images.generate(**asked, stream=True, partial_images=PARTIAL_IMAGES)
        # Leaving the block closes the upstream request, wherever the stream is.
        async with events:
            async for event in events:
                if event.type == "image_generation.partial_image":
                    yield await asyncio.to_thread(_part, event.b64_json, True, None, None)
                elif event.type == "image_generation.completed":
                    usage = Usage(event.usage.input_tokens, event.usage.output_tokens) if event.usage else None
                    yield await asyncio.to_thread(_part, event.b64_json, False, None, usage)

    async def _whole(self, client: AsyncOpenAI, asked: dict[str, Any]) -> AsyncGenerator[ImagePart, None]:
        answer = await client.images.generate(**asked)
        picture = answer.data[0] if answer.data else None
        if picture is None or not picture.b64_json:
            raise ChatError("model_unavailable", "OpenAI answered without a picture.")
        usage = Usage(answer.usage.input_tokens, answer.usage.output_tokens) if answer.usage else None
        yield await asyncio.to_thread(_part, picture.b64_json, False, picture.revised_prompt, usage)


def _part(b64_json: str, preview: bool, revised_prompt: str | None, usage: Usage | None) -> ImagePart:
    """Decode a picture; its media type and its size in pixels are read from its own bytes, not from what was asked for."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = base64.b64decode(b64_json, validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            width, height = picture.size
            mime_type = _MIME[picture.format or ""]
    except (binascii.Error, UnidentifiedImageError, KeyError):
        raise ChatError("model_unavailable", "OpenAI sent something that is not a picture.") from None
    return ImagePart(data, mime_type, width, height, preview, revised_prompt, usage)
