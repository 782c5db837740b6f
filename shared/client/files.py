"""The name of the file that a picture is written to."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

_SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


def free_name(prompt: str, mime_type: str) -> Path:
    """A file name made from the prompt; no file of this name exists yet."""
    suffix = _SUFFIX.get(mime_type, ".bin")
    stem = "-".join(re.findall(r"\w+", prompt.lower())[:8])[:60] or f"image-{uuid.uuid4().hex[:8]}"
    path, number = Path(stem + suffix), 1
    while path.exists():
        number += 1
        path = Path(f"{stem}-{number}{suffix}")
    return path
