"""An SVG of a sequence diagram without its empty rows: every height is mapped, and nothing else changes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable

# So much empty height stays between two things, in the units of the SVG.
_GAP = 5.0
# Half the height of a text of 16 px, and what a line, an arrow head or a number needs above and below itself.
_TEXT, _ABOVE, _BELOW = 9.0, 3.0, 5.0
# The title stands above this height, and the boxes of the participants begin at it.
_TOP = 0.0
_BOX = 19.0
# A note ends so far below its words.
_NOTE = 4.0
_DEFS = re.compile(r"(<defs>.*?</defs>|<style>.*?</style>)", re.DOTALL)
_HEIGHTS = re.compile(r'(?P<head> (?:y1|y2)=")(?P<at>[^"]+)|(?P<points> points=")(?P<list>[^"]+)')
_WORDS = re.compile(r'(<text [^>]*?\by=")([^"]+)("[^>]*>)')
_RECT = re.compile(r'(<rect[^>]* y=")([^"]+)("[^>]* height=")([^"]+)("[^>]*)')


def squeezed(svg: str) -> str:
    """The SVG with each empty height above ``_GAP`` cut down to it."""
    new = _mapping(_merged(_used(_DEFS.sub("", svg))))
    parts = _DEFS.split(svg)
    parts[::2] = [_mapped(part, new) for part in parts[::2]]
    return re.sub(
        r'viewBox="(\S+) (\S+) (\S+) (\S+)"',
        lambda found: (
            f'viewBox="{found[1]} {found[2]} {found[3]} {new(float(found[2]) + float(found[4])) - float(found[2]):g}"'
        ),
        "".join(parts),
        count=1,
    )


def _used(svg: str) -> Iterable[tuple[float, float]]:
    """The heights at which something is drawn, from and to."""
    yield _TOP - 1000, _TOP
    for _, y, rest in _WORDS.findall(svg):
        if "sequenceNumber" in rest or float(y) < _TOP:
            continue
        middle = float(y) + _to_middle(rest)
        half = _BOX if "actor-box" in rest else _TEXT
        yield middle - half, middle + half
    for y in re.findall(r'<line [^>]*y1="([^"]+)"[^>]*class="messageLine', svg):
        yield float(y) - _ABOVE, float(y) + _BELOW
    for top, height in re.findall(r'<rect x="[^"]+" y="([^"]+)"[^>]* height="([^"]+)"[^>]*class="(?:note|rect)"', svg):
        yield float(top), float(top)
        yield float(top) + float(height) - 1, float(top) + float(height) + _NOTE
    for y in re.findall(r'<line [^>]*y1="([^"]+)"[^>]*class="loopLine"', svg):
        yield float(y) - 1, float(y) + 1


def _to_middle(text: str) -> float:
    """From the height that a text gives to the middle of its letters: with dy="1em" that is one line lower."""
    return 16.0 if 'dy="1em"' in text else -5.0 if "loopText" in text else -4.0 if "sequenceNumber" in text else 0.0


def _merged(used: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    whole: list[tuple[float, float]] = []
    for top, bottom in sorted(used):
        if whole and top <= whole[-1][1]:
            whole[-1] = whole[-1][0], max(whole[-1][1], bottom)
        else:
            whole.append((top, bottom))
    return whole


def _mapping(whole: list[tuple[float, float]]) -> Callable[[float], float]:
    def new(y: float) -> float:
        saved = 0.0
        for (_, above), (below, _) in itertools.pairwise(whole):
            if y <= above:
                break
            gap, kept = below - above, min(_GAP, below - above)
            # A height inside the gap keeps its place in proportion.
            saved += (gap - kept) * min(1.0, (y - above) / gap)
        return y - saved

    return new


def _mapped(part: str, new: Callable[[float], float]) -> str:
    def rect(found: re.Match[str]) -> str:
        top, height = float(found[2]), float(found[4])
        more = _NOTE if 'class="note"' in found[5] else 0.0
        return f"{found[1]}{new(top):g}{found[3]}{new(top + height) - new(top) + more:g}{found[5]}"

    def height(found: re.Match[str]) -> str:
        if found["points"]:
            pairs = (point.split(",") for point in found["list"].split())
            return found["points"] + " ".join(f"{x},{new(float(y)):g}" for x, y in pairs)
        return f"{found['head']}{new(float(found['at'])):g}"

    def words(found: re.Match[str]) -> str:
        down = _to_middle(found[3])
        return f"{found[1]}{new(float(found[2]) + down) - down:g}{found[3]}"

    part = _WORDS.sub(words, part)
    return _HEIGHTS.sub(height, _RECT.sub(rect, part))
