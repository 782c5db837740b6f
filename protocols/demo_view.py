"""The demo while it runs: what each transport has brought so far, and the live table of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from protocols import TRANSPORTS
from protocols.live import LiveView
from shared.events import AnyEvent
from shared.reply import Fold, Picture

_TAIL_CHARS = 46
# The cells of the columns before what streams. A narrow terminal shows the first columns alone.
_BEFORE_TAIL, _LEAST_TAIL = 47, 12


@dataclass(slots=True)
class TransportRun:
    """One transport's conversation and picture.

    ``fold`` has the answer that streams now. ``live`` has the events as they came, ``log`` the same turns read again.
    ``whole`` counts the answers that came in one piece. ``differs`` says how the run differs from the others.
    """

    word: str
    step: str = "starting"
    fold: Fold = field(default_factory=Fold)
    session_id: str | None = None
    turn_ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    picture: Picture | None = None
    first_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    live: list[AnyEvent] = field(default_factory=list)
    log: list[AnyEvent] = field(default_factory=list)
    whole: int = 0
    bytes: int = 0
    differs: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The transport's name in tables."""
        return TRANSPORTS[self.word].label

    @property
    def tail(self) -> str:
        """The end of the answer that streams now, on one line."""
        begun = [entry for entry in self.fold.pictures.values() if entry[1]]
        if begun:
            about, data = begun[-1]
            return f"{'preview' if about.preview else 'picture'} {100 * len(data) // max(about.size_bytes, 1)} %"
        if not TRANSPORTS[self.word].tokens and self.step not in ("starting", "done", "failed"):
            return "(nothing yet: it comes whole)"
        return " ".join(self.fold.text.split())[-_TAIL_CHARS:]


class DemoView(LiveView):
    """The live table: a line for each transport."""

    def __init__(self, console: Console, runs: Mapping[str, TransportRun]) -> None:
        super().__init__(console)
        self._runs = runs

    def __rich__(self) -> Table:
        room = self.console.width - _BEFORE_TAIL
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("transport", style="bold")
        table.add_column(f"step ({self.elapsed_s:.1f} s)", min_width=22)
        if room >= 0:
            table.add_column("received", justify="right")
        if room >= _LEAST_TAIL:
            table.add_column("what streams", no_wrap=True, min_width=min(room, _TAIL_CHARS))
        for run in self._runs.values():
            cells = (run.label, run.step, str(len(run.live) + run.whole), Text(run.tail[-max(room, 1) :]))
            table.add_row(*cells[: len(table.columns)])
        return table
