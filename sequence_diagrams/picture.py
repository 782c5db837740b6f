"""The frame of a picture of the documents (SVG 2): as wide as GitHub shows a page, readable on a light page and on a dark page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

WIDTH = 830.0
# Class ``t``: a title. ``m``: muted words. ``b``: the background.
_LIGHT = (
    "text{font:12px system-ui,sans-serif;fill:#1d2430}.t{font-weight:600;font-size:15px}.m{fill:#5b6675}.b{fill:#fff}"
)
_DARK = "text{fill:#e6eaf0}.m{fill:#9aa6b6}.b{fill:#12161d}"

# The colours of areas, on a light page and on a dark page.
TINTS = {
    "green": ("#ecf7ef", "#16281d"),
    "blue": ("#ecf3fd", "#16233a"),
    "amber": ("#fff8e7", "#2d2615"),
    "red": ("#fdeeec", "#331d1c"),
    "grey": ("#f4f4f6", "#20242b"),
}


def picture(label: str, height: float, parts: Iterable[str], light: str, dark: str) -> str:
    """The picture of these elements. ``label`` is its name for a screen reader; ``light`` and ``dark`` are further rules of CSS."""
    size = f'viewBox="0 0 {WIDTH:g} {height:g}" width="{WIDTH:g}" height="{height:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}">'
        f"<style>{_LIGHT}{light}@media(prefers-color-scheme:dark){{{_DARK}{dark}}}</style>"
        f'<rect class="b" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )
