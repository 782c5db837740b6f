"""The file that a picture or a session is written to: its name, and why it cannot be written, said before anything is paid for."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from pathlib import Path

from shared.client import text

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


def path_of(given: str) -> Path:
    """The path that a user typed. ``~`` is the user's home folder; ``~NAME`` of an unknown user is an ordinary name."""
    path = Path(given)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path


def obstacle(path: Path | None) -> str | None:
    """Why no file can be written at ``path`` (None: a new file in the current folder); None where nothing is in the way.

    The words say what to do. A disk that is full is noticed only when the file is written.
    """
    shown = text.line(str(path or "The current folder"))
    if "\0" in str(path):
        return f"{shown} cannot be the name of a file (it has a NUL); give another name."
    try:
        folder = Path.cwd() if path is None else path.absolute().parent
        if not folder.is_dir():
            return f"There is no folder {text.line(str(folder))}; make it first."
        if path is not None and path.is_dir():
            return f"{shown} is a folder; give the name of a file in it."
        if not os.access(path if path is not None and os.path.lexists(path) else folder, os.W_OK):
            return f"{shown} cannot be written by this user; give a file in another folder."
    except FileNotFoundError:
        return "The current folder was deleted; give the whole path of a file."
    except OSError as error:
        return f"{text.line(str(path), 40)} cannot be the name of a file ({error.strerror}); give another name."
    return None
