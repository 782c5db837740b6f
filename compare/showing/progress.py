"""A bar over the expected seconds of a run, with the present step; lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# Shows a text, and adds the expected seconds of what is done to the progress.
Tick = Callable[[str, float], None]


def minutes(seconds: float) -> str:
    """``85 s`` or ``12 minutes``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


@contextmanager
def progress(console: Console, expected_s: float) -> Iterator[Tick]:
    """A bar over the expected seconds, with the present step; lines where there is no terminal."""
    begun = time.monotonic()
    done_s = 0.0

    def left() -> str:
        """The rest of the expected time, longer as far as the run has been slower than expected."""
        elapsed_s = time.monotonic() - begun
        pace = max(1.0, elapsed_s / done_s) if done_s > 10 else 1.0
        return f"about {minutes(max(0.0, expected_s - done_s) * pace)} left"

    if not console.is_terminal:

        def line(text: str, seconds: float) -> None:
            nonlocal done_s
            done_s += seconds
            if seconds:
                console.print(f"{time.monotonic() - begun:5.0f} s  {text}, {left()}", markup=False, soft_wrap=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=expected_s, left="")

        def move(text: str, seconds: float) -> None:
            nonlocal done_s
            done_s += seconds
            bar.update(task, description=f"{text:<44.44}", completed=done_s, left=left())

        yield move
