"""The folder of a report, which is tried before the minutes of measuring and not after them."""

from __future__ import annotations

import tempfile
from pathlib import Path


def prepare(folder: Path) -> None:
    """Make the folder where it is missing. Raises RuntimeError where no file can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RuntimeError(
            f"{folder}: no report can be written there: {error.strerror}. Name another folder."
        ) from None
