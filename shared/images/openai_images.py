"""Pictures from the OpenAI images API: ``POST {OPENAI_BASE_URL}/images/generations``.

The GPT image models answer with server-sent events, two partial pictures before the final one. ``dall-e-*`` and anything
else (OpenAI has retired DALL·E; a server behind ``OPENAI_BASE_URL`` may still have it) answer with one JSON object. The SDK
checks neither model nor size; the table here does, before a request is paid for.
https://platform.openai.com/docs/api-reference/images
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from shared.config import Settings
from shared.errors import ChatError
from shared.images.download import Downloads
from shared.images.model import ImagePart
from shared.images.picture import decode_base64, read_picture
from shared.llm.checked import NotAnAnswer, fields, items, usage
from shared.llm.openai_sdk import OPENAI_URL, OpenAIClient, openai_provider
from shared.llm.provider import AnswerBroken, broken_off

PARTIAL_IMAGES = 2
MAX_PICTURE_BYTES = 64 * 1024 * 1024
# The limit for a picture in base64 with the JSON around it.
MAX_FRAME_BYTES = 2 * MAX_PICTURE_BYTES


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What a family of image models accepts; ``extra`` are parameters that a server may not know."""

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
# The first row whose prefix begins the model's name is the model's.
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
        self._provider = openai_provider(settings, "OPENAI_IMAGE_MODEL")
        self._sdk = OpenAIClient(settings, self._provider)
        self._downloads = Downloads(settings.openai_base_url or OPENAI_URL, MAX_PICTURE_BYTES)

    def check_size(self, width: int, height: int) -> None:
        """Raise ChatError ``invalid_request``, naming the sizes that the model draws, for any other."""
        if width < 1 or height < 1 or width * height > self._max_pixels:
            raise ChatError(
                "invalid_request", f"The picture may have 1 to {self._max_pixels:,} pixels in all; give another size."
            )
        if not self.kind.fits(width, height):
            raise ChatError(
                "invalid_request", f"{self.default_model} does not draw {width}x{height}; it draws: {self.kind.sizes}."
            )

    async def generate(self, prompt: str, width: int, height: int) -> AsyncGenerator[ImagePart, None]:
        """At most two previews from a GPT image model, none from another, then the picture; no answer is paid for twice.

        Raises ChatError: ``model_timeout`` when all of it takes longer than ``IMAGE_TIMEOUT_S``, ``model_unavailable`` for
        something that is no picture, and what ``OpenAIClient.frames`` raises.
        """
        self.check_size(width, height)
        # The time in which this machine imports the SDK is not the provider's.
        await self._sdk.open()
        due = asyncio.get_running_loop().time() + self._timeout_s
        failure: ChatError | None = None
        async with aclosing(self._parts(prompt, width, height)) as parts:
            part: ImagePart | None = None
            while failure is None and (part is None or part.preview):
                try:
                    async with asyncio.timeout_at(due):
                        part = await anext(parts, None)
                except TimeoutError:
                    words = self._provider.sentence(
                        f"drew for longer than {self._timeout_s:g} s; ask for a smaller picture, or raise IMAGE_TIMEOUT_S."
                    )
                    failure = ChatError("model_timeout", words)
                except NotAnAnswer as error:
                    words = self._provider.sentence("sent something that is not a whole picture; try again.")
                    failure = AnswerBroken(words, cause=f"NotAnAnswer: {error}")
                else:
                    if part is None:
                        raise broken_off(self._provider)
                    yield part
        if failure is not None:
            raise failure

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.aclose()

    async def _parts(self, prompt: str, width: int, height: int) -> AsyncGenerator[ImagePart, None]:
        """The pictures of one answer. Raises NotAnAnswer for a final picture that is no picture, else ChatError."""
        client = await self._sdk.open()
        stream = {"stream": True, "partial_images": PARTIAL_IMAGES} if self.kind.streams else {}
        frames = self._sdk.frames(
            client.images.with_streaming_response.generate,
            self.default_model,
            {"prompt": prompt, "size": f"{width}x{height}", "n": 1},
            {**stream, **self.kind.extra},
            MAX_FRAME_BYTES,
        )
        previews = 0
        async with aclosing(frames):
            async for frame in frames:
                answer = fields(frame.value)
                if answer.get("type") == "image_generation.partial_image" and previews < PARTIAL_IMAGES:
                    previews += 1
                    # A preview that cannot be read is dropped, and the answer goes on.
                    try:
                        preview = await self._picture(answer, preview=True)
                    except NotAnAnswer:
                        continue
                    yield preview
                elif answer.get("type") == "image_generation.completed":
                    yield await self._picture(answer, answer)
                elif "data" in answer:
                    yield await self._picture(fields(next(iter(items(answer["data"])), None)), answer)

    async def _picture(
        self, picture: dict[str, Any], answer: dict[str, Any] | None = None, *, preview: bool = False
    ) -> ImagePart:
        """The picture in one object of an answer: in base64, or behind a URL."""
        data, url = picture.get("b64_json"), picture.get("url")
        if data:
            content = await asyncio.to_thread(decode_base64, data)
        elif isinstance(url, str) and url.lstrip()[:5].lower() == "data:":
            content = await asyncio.to_thread(decode_base64, url)
        elif isinstance(url, str) and url.strip() and not preview:
            content = await self._downloads.fetch(url.strip())
        else:
            raise NotAnAnswer("no picture in the answer")
        return await asyncio.to_thread(
            read_picture,
            content,
            self._max_pixels,
            preview=preview,
            revised_prompt=picture.get("revised_prompt"),
            usage=usage((answer or {}).get("usage"), "input_tokens", "output_tokens"),
        )
