"""The race while it runs: for each lane its state, its text and its times so far."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from compare.measuring.lanes import RunningLane, lane_label
from compare.measuring.turns import Arrival
from protocols.live import LiveView

_BARS = "▁▂▃▄▅▆▇█"
_BAR_COUNT = 16
# The cells behind a lane's name with their widths. A narrow terminal shows the first of them that fit; the bars fill what remains.
_CELLS: Mapping[str, tuple[int, JustifyMethod]] = {
    "state": (9, "left"),
    "tokens": (7, "right"),
    "first": (12, "right"),
    "late": (13, "right"),
    "gap": (10, "right"),
    "bytes": (9, "right"),
}
_SPACE = 2
_STYLES = {
    "streaming": "green",
    "done": "bold green",
    "line lost": "bold red",
    "resumed": "bold yellow",
    "failed": "bold red",
}


@dataclass(slots=True)
class Track:
    """The first stream of one lane in the present round. ``whole``: the reply came in one piece, so no token was counted."""

    name: str
    state: str = "waiting"
    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    whole: bool = False
    arrived_ms: list[float] = field(default_factory=list)
    delays_ms: list[float] = field(default_factory=list)
    first_ms: float | None = None
    lane: RunningLane | None = None
    down_before: int = 0

    def begin(self, lane: RunningLane) -> None:
        """Start a new round."""
        self.state, self.texts, self.tokens, self.first_ms, self.whole = "asked", [], 0, None, False
        self.arrived_ms, self.delays_ms = [], []
        self.lane = lane
        self.down_before = lane.relay.down_bytes if lane.relay else 0

    def watch(self, arrival: Arrival) -> None:
        """Add an arrival to the state that is shown."""
        match arrival.type:
            case "chunk" | "reply":
                if self.first_ms is None:
                    self.first_ms = arrival.ms
                self.texts.append(arrival.text)
                self.tokens += 1
                self.arrived_ms.append(arrival.ms)
                if arrival.logged_ms is not None:
                    self.delays_ms.append(arrival.ms - arrival.logged_ms)
                self.whole = arrival.type == "reply"
                self.state = "done" if self.whole else "streaming"
            case "image_chunk":
                self.tokens += 1
                self.state = "picture"
            case "picture" | "turn_completed":
                self.state = "done"
            case "lost":
                self.state = "line lost"
            case "resumed":
                self.state = "resumed"
            case type if type.startswith("turn_") and type != "turn_started":
                self.state = type.removeprefix("turn_")

    @property
    def down_bytes(self) -> int:
        """Bytes that the relay has given the client in this round."""
        return self.lane.relay.down_bytes - self.down_before if self.lane and self.lane.relay else 0

    @property
    def gaps_ms(self) -> list[float]:
        """The gaps between arrivals."""
        return [after - before for before, after in itertools.pairwise(self.arrived_ms)]

    @property
    def bars(self) -> str:
        """The last gaps as bars; the longest of them has the full height."""
        gaps = self.gaps_ms[-_BAR_COUNT:]
        longest = max(gaps, default=0.0)
        return "".join(_BARS[min(7, int(8 * gap / longest))] if longest > 0 else _BARS[0] for gap in gaps)


class RaceView(LiveView):
    """All lanes while they stream."""

    def __init__(self, console: Console, tracks: Mapping[str, Track], total: int, title: str) -> None:
        super().__init__(console)
        self._tracks = tracks
        self._total = total
        self._title = title
        self._round = ""

    def __rich__(self) -> RenderableType:
        return Group(
            Text(f"{self._title}  {self._round}  {self.elapsed_s:.1f} s", style="bold"),
            *(self._lane(track) for track in self._tracks.values()),
        )

    def begin(self, round: str) -> None:
        """A round begins."""
        self._round = round
        self.step(round)

    def _counted(self, track: Track) -> str:
        if track.whole:
            return "whole"
        return f"{track.tokens}/{self._total}" if self._total else str(track.tokens)

    def _lane(self, track: Track) -> RenderableType:
        gaps = track.gaps_ms
        cells: dict[str, str | Text] = {
            "state": Text(track.state, style=_STYLES.get(track.state, "")),
            "tokens": self._counted(track),
            "first": "" if track.first_ms is None else f"1st {track.first_ms:,.0f} ms",
            "late": "" if not track.delays_ms else f"late {statistics.median(track.delays_ms):,.1f} ms",
            "gap": "" if not gaps else f"gap {statistics.median(gaps):,.0f} ms",
            "bytes": f"{track.down_bytes:,} B",
        }
        names = max(cell_len(lane_label(name)) for name in self._tracks)
        head = Table.grid(padding=(0, _SPACE, 0, 0))
        head.add_column(width=names, no_wrap=True)
        row: list[str | Text] = [Text(lane_label(track.name), style="bold cyan")]
        left = self.console.width - names
        for name, (width, justify) in _CELLS.items():
            if left < _SPACE + width:
                left = 0
                break
            head.add_column(width=width, justify=justify, no_wrap=True)
            row.append(cells[name])
            left -= _SPACE + width
        if left > _SPACE:
            head.add_column(no_wrap=True)
            row.append(Text(track.bars[_SPACE - left :], style="green"))
        head.add_row(*row)
        width = max(20, self.console.width - 4)
        text = " ".join("".join(track.texts).split())[-width:]
        if not text and track.name == "rest":
            text = "(one whole reply: nothing until everything is there)"
        return Group(head, Text("  " + text, style="dim", no_wrap=True, overflow="crop"))
