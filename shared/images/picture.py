"""A picture as a provider sends it: base64 in JSON, decoded and checked before any other code gets it."""

from __future__ import annotations

import binascii
import io
import re
import warnings
from urllib.parse import unquote

import pybase64

from shared.events import Usage
from shared.images.model import ImagePart
from shared.llm.checked import NotAnAnswer

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
MAX_PROMPT_CHARS = 8192

_DATA_URI = re.compile(r"\s*data:[^,]{0,200},", re.IGNORECASE)
_WHITE_SPACE = re.compile(r"\s+")
_URL_ALPHABET = str.maketrans("-_", "+/")


def decode_base64(text: object) -> bytes:
    """The bytes in base64 (RFC 4648): also inside a ``data:`` URI, broken into lines, in the alphabet of URLs, without padding.

    A URI may have some of the characters percent-encoded (RFC 2397, section 2). Raises NotAnAnswer.
    """
    if not isinstance(text, str):
        raise NotAnAnswer(f"a picture is a {type(text).__name__}")
    if _DATA_URI.match(text):
        text = unquote(text)
    digits = _WHITE_SPACE.sub("", _DATA_URI.sub("", text, count=1)).translate(_URL_ALPHABET).rstrip("=")
    try:
        return pybase64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise NotAnAnswer("a picture is not base64") from None


def read_picture(
    data: bytes, max_pixels: int, *, preview: bool, revised_prompt: object = None, usage: Usage | None = None
) -> ImagePart:
    """The picture in ``data``, whole and not too large; slow, so call it in a thread.

    Its media type and its size in pixels are read from its own bytes, not from what was asked for. Raises NotAnAnswer.
    """
    from PIL import Image

    # Pillow only warns at its own limit. Here no picture of that size may be loaded.
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(data), formats=tuple(MEDIA_TYPES)) as picture:
            (width, height), mime_type = picture.size, MEDIA_TYPES[picture.format or ""]
            if width * height > max_pixels:
                raise NotAnAnswer(f"a picture has more than {max_pixels} pixels")
            picture.load()
    except NotAnAnswer:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise many things for damaged bytes
        raise NotAnAnswer(f"a picture cannot be read: {type(error).__name__}") from None
    prompt = revised_prompt[:MAX_PROMPT_CHARS] if isinstance(revised_prompt, str) and revised_prompt else None
    if prompt is not None:
        prompt = prompt.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return ImagePart(data, mime_type, width, height, preview, prompt, usage)
