"""The offline image model: a real PNG of the asked size, drawn from the prompt, without a key or a network.

The same prompt and size give the same bytes; another prompt gives other colours, shapes and words. Two coarse previews come first,
as far apart as ten tokens of the offline chat. A label in the picture says that it is a stand-in. Seeded grain gives a picture
the weight of a provider's: about 1.2 bytes a pixel.

The prompt may begin with directions of ``shared/stage_directions.py``: ``/slow S`` waits, ``/fail CODE`` fails after the
first preview, ``/fail-first CODE`` before it, ``/stall S`` pauses between the previews.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import textwrap
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from shared.config import Settings
from shared.errors import ChatError
from shared.events import Usage
from shared.images.model import ImagePart
from shared.llm.tokens import count_tokens
from shared.stage_directions import directions

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL_ID = "offline-image-1"
LABEL = "offline stand-in"

_MIME = "image/png"
_PREVIEW_CELLS = (16, 48)
_PREVIEW_TOKENS = 10
_GRAIN = 16
_BAND_PIXELS = 1 << 20


class OfflineImages:
    """ImageModel without a provider; it draws any size up to ``MAX_IMAGE_PIXELS``."""

    provider = "offline"
    default_model = MODEL_ID
    hint = "offline stand-in (set OPENAI_API_KEY for a real model)"

    def __init__(self, settings: Settings) -> None:
        self._max_pixels = settings.max_image_pixels
        self._first_s = settings.offline_first_token_ms / 1000
        self._pause_s = _PREVIEW_TOKENS / settings.offline_tokens_per_s if settings.offline_tokens_per_s else 0.0

    def check_size(self, width: int, height: int) -> None:
        """Raise ChatError ``invalid_request`` for a side below one pixel or more than ``MAX_IMAGE_PIXELS`` in all."""
        if width < 1 or height < 1 or width * height > self._max_pixels:
            raise ChatError(
                "invalid_request", f"The picture may have 1 to {self._max_pixels:,} pixels in all; give another size."
            )

    async def generate(self, prompt: str, width: int, height: int) -> AsyncGenerator[ImagePart, None]:
        """Two previews, then the picture: PNG of the asked size, drawn in a thread. Raises what a direction asks for."""
        self.check_size(width, height)
        stage = directions(prompt)
        await asyncio.sleep(self._first_s + stage.slow_s)
        if stage.fail_first:
            raise ChatError(stage.fail_first)
        picture = await asyncio.to_thread(_paint, stage.message, width, height)
        for cells in _PREVIEW_CELLS:
            data = await asyncio.to_thread(_preview, picture, cells)
            yield ImagePart(data, _MIME, width, height, preview=True)
            if stage.fail:
                raise ChatError(stage.fail)
            await asyncio.sleep(self._pause_s + stage.stall_s / 2)
        data = await asyncio.to_thread(_finish, picture, _seed(stage.message, width, height))
        yield ImagePart(data, _MIME, width, height, preview=False, usage=Usage(count_tokens([prompt]), None))

    async def aclose(self) -> None:
        """Nothing to release."""


def _seed(prompt: str, width: int, height: int) -> bytes:
    return hashlib.blake2b(f"{width}x{height} {prompt}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _paint(prompt: str, width: int, height: int) -> Image:
    """The picture without grain: a gradient, some discs, the prompt's words, the label."""
    from PIL import Image, ImageDraw, ImageFont

    dice = random.Random(_seed(prompt, width, height))
    hue, span = dice.randrange(360), dice.choice((40, 120, 180))
    corners = Image.new("RGB", (2, 2))
    for x in (0, 1):
        for y in (0, 1):
            corners.putpixel((x, y), _hsl((hue + span * (x + y) / 2) % 360, 60, 30 + 20 * x))
    picture = corners.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    side = min(width, height)
    for _ in range(dice.randint(5, 11)):
        x, y, r = dice.randrange(width), dice.randrange(height), side * dice.uniform(0.05, 0.3)
        colour = _hsl((hue + dice.randrange(-60, 60)) % 360, 75, dice.randint(35, 75))
        if dice.random() < 0.6:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        else:
            draw.regular_polygon((x, y, max(r, 1)), dice.randint(3, 7), rotation=dice.randrange(360), fill=colour)
    if side < 32:
        return picture
    size = max(8, side // 16)
    font = ImageFont.load_default(size)
    words = "\n".join(textwrap.wrap(" ".join(prompt[:1000].split()), max(4, int(width / size * 1.7)))[:8])
    for at, text, letters, anchor in (
        ((width / 2, height / 2), words, font, "mm"),
        ((size / 2, height - size / 2), LABEL, ImageFont.load_default(max(6, size // 2)), "ld"),
    ):
        draw.text(at, text, "white", letters, anchor, align="center", stroke_width=size // 16 + 1, stroke_fill="black")
    return picture


def _hsl(hue: float, saturation: int, lightness: int) -> tuple[int, ...]:
    from PIL import ImageColor

    return ImageColor.getrgb(f"hsl({hue},{saturation}%,{lightness}%)")


def _preview(picture: Image, cells: int) -> bytes:
    """The picture in at most ``cells`` × ``cells`` flat cells."""
    from PIL import Image

    small = picture.resize((min(cells, picture.width), min(cells, picture.height)), Image.Resampling.BOX)
    return _png(small.quantize(256).resize(picture.size, Image.Resampling.NEAREST), level=6)


def _finish(picture: Image, seed: bytes) -> bytes:
    """The bytes of the picture with seeded grain, which is drawn into ``picture`` itself."""
    from PIL import Image, ImageChops

    dice, levels = random.Random(seed), [value * _GRAIN // 256 for value in range(256)]
    width, height = picture.size
    rows = max(1, _BAND_PIXELS // width)
    # In bands, because randbytes and ImageChops hold the interpreter's lock while they run.
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        band = picture.crop(box)
        grain = Image.frombytes("L", band.size, dice.randbytes(width * band.height)).point(levels)
        picture.paste(ImageChops.subtract(band, Image.merge("RGB", (grain, grain, grain))), box)
    return _png(picture, level=1)


def _png(picture: Image, level: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=level)
    return out.getvalue()
