"""The cells of a run of the floors: which sides of which lane are measured in which row, and how long each takes."""

from __future__ import annotations

from dataclasses import dataclass

from compare.measuring.floors.plan import FLOORS, NODE, STREAMING, FloorPlan, loaded_together, without_sqlite
from compare.measuring.floors.rows import ROWS, hold_s
from compare.measuring.floors.start_up import START_S, on_a_file

# Stand in the usual run beside the transports and the usual sides: they tell grpcio, and Python, from the chat.
_BESIDE = {("saturated", "grpc-asgi"): ("floor", "memory"), **{("saturated", word): (NODE,) for word in STREAMING}}
# Seconds that a start takes: of the load generator, of one side, of all sides of a cell at the same time, and of one stream.
_LOAD_S = 0.8
_SIDE_S, _SIDES_S = 1.6, 3.0
_OPEN_S = 0.0012
_IDLE_S = 3.0
_WARM_S = 0.5
_SPREAD_S = 1.0
_READ_S = 4.5
_ONE_STREAM_S = 1.0
_SLOW_MODEL_S = 1.2
_SHARED = 1.5


@dataclass(frozen=True, slots=True)
class Cell:
    """A lane in a row: the sides that are measured, and the seconds that they are expected to take."""

    row: str
    word: str
    sides: tuple[str, ...]
    expected_s: float


def cells(plan: FloorPlan) -> list[Cell]:
    """All cells of a plan, row by row, in the order of the lanes."""
    found = []
    for row in plan.rows:
        for word in ROWS[row][1]:
            sides = plan.sides if word in plan.words else ()
            sides += _BESIDE.get((row, word), ()) if plan.usual else ()
            if word not in STREAMING or row == "slow-model":
                sides = tuple(name for name in sides if name != NODE)
            if sides:
                found.append(Cell(row, word, sides, _expected_s(plan.of_row(row), row, sides)))
    return found


def _expected_s(plan: FloorPlan, row: str, sides: tuple[str, ...]) -> float:
    of_memory = without_sqlite(sides)
    ours = [name for name in sides if name not in FLOORS]
    # A window lasts until its servers have worked for a while, which takes longer on a core that two share.
    windows = plan.rounds * len(loaded_together(sides, plan))
    window_s = plan.seconds * (_SHARED if plan.at_once else 1) + _WARM_S + _LOAD_S
    match row:
        case "saturated":
            return _SIDES_S + windows * window_s + len(sides) * (_ONE_STREAM_S + _WARM_S + _LOAD_S)
        case "paced":
            return _SIDES_S + windows * (max(4.0, plan.seconds) + _SPREAD_S + _WARM_S + _LOAD_S)
        case "readers":
            runs = plan.rounds * len(loaded_together(of_memory, plan))
            return runs * (_SIDE_S + _LOAD_S + hold_s(plan.readers) + _READ_S)
        case "rest":
            return 3 * (_SIDES_S + windows * window_s)
        case "idle":
            streams_s = plan.idle_streams * _OPEN_S
            return plan.once_rounds * (_SIDES_S + len(of_memory) * (_LOAD_S + _IDLE_S + streams_s))
        case "image":
            return _SIDES_S + windows * window_s
        case "start":
            return (1 + plan.once_rounds) * len(on_a_file(sides)) * START_S
    return _SIDES_S + plan.once_rounds * len(ours) * (_LOAD_S + _SLOW_MODEL_S)
