"""The guide of the published run as a file for the pages: ``python -m compare.showing.guide_page`` writes it again."""

from __future__ import annotations

from pathlib import Path

import msgspec

import shared
from compare.showing.facts import published
from compare.showing.guide import guide_of

FILE = Path(shared.__file__).parent / "web" / "guide.json"


def content() -> str:
    """The file as it should be."""
    return msgspec.json.format(msgspec.json.encode(guide_of(published())), indent=1).decode() + "\n"


if __name__ == "__main__":
    FILE.write_text(content(), encoding="utf-8")
