"""The moving picture of ``compare race``: a real run in a real terminal, as one animated SVG (SVG 2, CSS Animations).

``python -m sequence_diagrams.cast`` runs the race again and writes ``docs/race.svg``. A reader who asks for less motion
sees the last frame.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

OUT = Path(__file__).resolve().parents[1] / "docs" / "race.svg"
COMMAND = ("-m", "compare", "race", "--rounds", "6", "--tokens", "30", "--rate", "30", "What does a transport do?")
COLUMNS, ROWS = 100, 34
FRAME_S = 0.2
# The picture begins when so many rows show something, not with an empty screen while servers start.
FIRST_ROWS = 4
LAST_FRAME_S = 6.0
LONGEST_S = 120.0
CELL_WIDTH, CELL_HEIGHT, MARGIN = 8.0, 17.0, 14.0
BACKGROUND, FOREGROUND = "#14171c", "#d6dae0"
COLORS = {
    "black": "#3a3f47",
    "red": "#e5737a",
    "green": "#87c38a",
    "brown": "#e0bd7c",
    "blue": "#79aef0",
    "magenta": "#c696e6",
    "cyan": "#69c2cc",
    "white": "#d6dae0",
}


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring cells of one row that look alike; ``column`` is that of the first cell."""

    column: int
    text: str
    color: str
    bold: bool


Row = tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What the screen showed from ``at_s`` seconds after the first frame on."""

    at_s: float
    rows: tuple[Row, ...]


def record(command: Sequence[str] = COMMAND, first_rows: int = FIRST_ROWS) -> list[Frame]:
    """Run a command of this Python in a terminal of 100 by 34 cells; the screens that differ, at most five a second.

    The first of them has at least ``first_rows`` rows with words.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screen = pyte.Screen(COLUMNS, ROWS)
    stream, decoder = pyte.Stream(screen), codecs.getincrementaldecoder("utf-8")("replace")
    frames: list[Frame] = []
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "TERM": "xterm-256color",
            "COLUMNS": str(COLUMNS),
            "LINES": str(ROWS),
            "XDG_STATE_HOME": folder,
        }
        process = subprocess.Popen(
            [sys.executable, *command], stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)
        begun: float | None = None
        due, end = 0.0, time.monotonic() + LONGEST_S
        while time.monotonic() < end and (data := _read(master)) is not None:
            stream.feed(decoder.decode(data))
            now = time.monotonic()
            rows = tuple(_rows(screen))
            too_early = begun is None and sum(map(bool, rows)) < first_rows
            if now < due or too_early or (frames and frames[-1].rows == rows):
                continue
            begun = now if begun is None else begun
            frames.append(Frame(now - begun, rows))
            due = now + FRAME_S
        process.terminate()
        process.wait()
    os.close(master)
    last = tuple(_rows(screen))
    if begun is None:
        raise RuntimeError("the command showed nothing")
    if frames[-1].rows != last:
        frames.append(Frame(time.monotonic() - begun, last))
    return frames


def _read(master: int) -> bytes | None:
    """What the program wrote within one frame's time; None when it has closed the terminal."""
    if not select.select([master], [], [], FRAME_S / 4)[0]:
        return b""
    try:
        return os.read(master, 65536)
    except OSError:
        return None


def _rows(screen: pyte.Screen) -> Iterator[Row]:
    for number in range(screen.lines):
        cells = [screen.buffer[number][column] for column in range(screen.columns)]
        runs, column = [], 0
        for (color, bold), alike in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
            text = [cell.data for cell in alike]
            if "".join(text).strip():
                runs.append(Run(column, "".join(text).rstrip(), _color(color), bold))
            column += len(text)
        yield tuple(runs)


def _color(name: str) -> str:
    if name == "default":
        return FOREGROUND
    return COLORS.get(name.removeprefix("bright"), f"#{name}" if len(name) == 6 else FOREGROUND)


def svg(frames: Sequence[Frame]) -> str:
    """The frames as one picture that repeats; each different row is drawn once and used by all frames that show it."""
    total_s = frames[-1].at_s + LAST_FRAME_S
    names: dict[Row, str] = {}
    groups, styles = [], []
    ends = [frame.at_s for frame in frames[1:]] + [total_s]
    for number, (frame, end_s) in enumerate(zip(frames, ends, strict=True)):
        uses = "".join(
            f'<use href="#{names.setdefault(row, f"r{len(names)}")}" y="{MARGIN + (line + 0.8) * CELL_HEIGHT:g}"/>'
            for line, row in enumerate(frame.rows)
            if row
        )
        first, last = 100 * frame.at_s / total_s, 100 * end_s / total_s
        is_last = number == len(frames) - 1
        groups.append(f'<g class="f{" last" if is_last else ""}" style="animation-name:f{number}">{uses}</g>')
        before = "" if number == 0 else f"0%,{first - 0.001:.3f}%{{visibility:hidden}}"
        after = "" if is_last else f"{last:.3f}%,100%{{visibility:hidden}}"
        styles.append(f"@keyframes f{number}{{{before}{first:.3f}%,{last - 0.002:.3f}%{{visibility:visible}}{after}}}")
    rows = "".join(f'<g id="{name}">{"".join(_text(run) for run in row)}</g>' for row, name in names.items())
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, ROWS * CELL_HEIGHT + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
        ' role="img" aria-label="python -m compare race: six lanes race in a terminal, then a table and a verdict">'
        f"<style>text{{font:13.3px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}}"
        f".f{{visibility:hidden;animation:{total_s:.2f}s steps(1,end) infinite}}"
        f"@media (prefers-reduced-motion:reduce){{.f{{animation:none}}.last{{visibility:visible}}}}{''.join(styles)}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/><defs>{rows}</defs>{"".join(groups)}</svg>\n'
    )


def _text(run: Run) -> str:
    bold = ' font-weight="bold"' if run.bold else ""
    x, length = MARGIN + run.column * CELL_WIDTH, len(run.text) * CELL_WIDTH
    return (
        f'<text x="{x:g}" fill="{run.color}"{bold} textLength="{length:g}" lengthAdjust="spacingAndGlyphs"'
        f' xml:space="preserve">{escape(run.text, quote=False)}</text>'
    )


def main() -> int:
    """Record the race and write the picture, and return the exit status."""
    print("racing in a terminal ...")
    frames = record()
    OUT.write_text(svg(frames), encoding="utf-8")
    print(f"{OUT.name}: {len(frames)} frames, {frames[-1].at_s:.0f} s, {OUT.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
