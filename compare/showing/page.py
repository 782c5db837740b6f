"""The report as one HTML page that needs no network: the results as data, and a replay of raw arrivals."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any, TypeVar

import msgspec

from compare.measuring.formulas import delays, text_bytes
from compare.measuring.lanes import lane_label, lane_title
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import quantile
from compare.measuring.turns import Arrival, TurnRecord
from compare.measuring.verdicts import BUNCHED_SHARE, FELT_MS, FELT_SHARE
from compare.showing.guide import Guide
from compare.showing.how_to_read import how_to_read
from compare.showing.numbers import CONSTANTS, FORMULAS, INPUTS, coefficients
from compare.showing.results import Results
from compare.showing.section import Section, html

T = TypeVar("T")

_QUANTILES = 100
_REPLAYED = (
    "1 stream",
    "cut, with resume",
    "cut, without resume",
    "network mobile",
    "network lossy",
    "network wan",
    "behind a buffer",
    "nginx, plain",
    "nginx, buffering",
    "nginx, compressing",
    "nginx, gzip and buffering",
    "64 streams",
    "256 streams",
)


def _lane_colours() -> dict[str, tuple[str, str]]:
    """The colour of each lane on a light page and on a dark page, as ``shared/web/lanes.css`` has them."""
    light, _, dark = _LANES_CSS.partition("prefers-color-scheme: dark")
    of_light, of_dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part)) for part in (light, dark))
    return {lane: (colour, of_dark[lane]) for lane, colour in of_light.items()}


_LANES_CSS = (files("shared") / "web" / "lanes.css").read_text(encoding="utf-8")
LANE_COLOURS = _lane_colours()
# The page is one script and no module.
_GUIDE_JS = (files("shared") / "web" / "guide.js").read_text(encoding="utf-8").replace("export ", "")


def lane_rules(lanes: Iterable[str], attribute: str) -> tuple[str, str]:
    """CSS rules that give each lane's class its colour: for a light page, and for a dark page.

    A lane without a colour of its own, such as ``ndjson-h2``, has that of its transport, and a transport without one is grey.
    ``attribute``: ``fill`` or ``stroke``.
    """
    grey = LANE_COLOURS["rest"]
    colours = {lane: LANE_COLOURS.get(lane) or LANE_COLOURS.get(lane.partition("-")[0], grey) for lane in lanes}
    light, dark = ("".join(f".{lane}{{{attribute}:{pair[page]}}}" for lane, pair in colours.items()) for page in (0, 1))
    return light, dark


def page(results: Results, when: str, guide: Guide, turns: Sequence[TurnRecord], beside: Sequence[Section] = ()) -> str:
    """The page, from the templates and the run's data; ``when`` is its first line, ``beside`` are further sections."""
    data = {
        "results": msgspec.to_builtins(results),
        "when": when,
        "titles": {lane: lane_title(lane) for lane in results.lanes},
        "labels": {lane: lane_label(lane) for lane in (*results.lanes, *(point.word for point in results.loads))},
        "how_to_read": how_to_read(results),
        "guide": msgspec.to_builtins(guide),
        "metrics": {
            name: {
                "title": of.title,
                "unit": of.unit,
                "formula": of.formula,
                "points": of.points,
                "better": of.better,
                "of_gaps": of.of_gaps,
            }
            for name, of in METRICS.items()
        },
        "limits": {"felt_ms": FELT_MS, "felt_share": FELT_SHARE, "bunched_share": BUNCHED_SHARE},
        "delays": _by_lane(turns, _delay_curve),
        "gaps": _gaps(turns),
        "bytes": _by_lane((turn for turn in turns if turn.experiment == "bytes"), _byte_shares).get("bytes", {}),
        "replay": _replay(turns),
        "numbers": {
            "inputs": msgspec.to_builtins(INPUTS),
            "formulas": msgspec.to_builtins(FORMULAS),
            "constants": CONSTANTS,
            "coefficients": msgspec.to_builtins(coefficients(results)),
        },
    }
    # "</" would end the script element.
    text = msgspec.json.encode(data).decode().replace("</", "<\\/")
    made = _template("report.html")
    for mark, content in (
        ("/*STYLE*/", _LANES_CSS + _template("report.css")),
        ("/*SCRIPT*/", _GUIDE_JS + _template("numbers.js") + _template("report.js")),
        ("<!--BESIDE-->", "".join(map(html, beside))),
        ("/*DATA*/", text),
    ):
        made = made.replace(mark, content)
    return made


def _template(name: str) -> str:
    return (files("compare.showing") / "template" / name).read_text(encoding="utf-8")


def _by_lane(turns: Iterable[TurnRecord], make: Callable[[Sequence[TurnRecord]], T]) -> dict[str, dict[str, T]]:
    """What ``make`` makes of the turns of each experiment and lane, without failed turns and empty results."""
    grouped: dict[str, dict[str, list[TurnRecord]]] = {}
    for turn in turns:
        if turn.error is None:
            grouped.setdefault(turn.experiment, {}).setdefault(turn.lane, []).append(turn)
    return {
        experiment: {lane: made for lane, some in lanes.items() if (made := make(some))}
        for experiment, lanes in grouped.items()
    }


def _delay_curve(turns: Sequence[TurnRecord]) -> list[float]:
    """The delay at every hundredth of all chunks, pooled over turns."""
    pooled = [value for turn in turns for value in delays(turn)]
    if not pooled:
        return []
    return [round(value, 3) for i in range(_QUANTILES + 1) if (value := quantile(pooled, i / _QUANTILES)) is not None]


def _byte_shares(turns: Sequence[TurnRecord]) -> dict[str, float]:
    """Bytes a token: the text, the rest, and the bytes up."""
    counted = [turn for turn in turns if turn.down_bytes and turn.tokens]
    if not counted:
        return {}
    text = statistics.median(text_bytes(turn) / turn.tokens for turn in counted)
    down = statistics.median((turn.down_bytes or 0) / turn.tokens for turn in counted)
    up = statistics.median((turn.up_bytes or 0) / turn.tokens for turn in counted)
    return {"text": round(text, 2), "rest": round(down - text, 2), "up": round(up, 2)}


def _gaps(turns: Sequence[TurnRecord]) -> dict[str, dict[str, list[list[float]]]]:
    """The arrival of every chunk and the gap before it, of one turn a lane."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for experiment, lanes in _replayed_turns(turns).items():
        for lane, turn in lanes.items():
            times = [arrival.ms for arrival in turn.of("chunk")]
            pairs = [[round(after, 2), round(after - before, 3)] for before, after in itertools.pairwise(times)]
            if pairs:
                found.setdefault(experiment, {})[lane] = pairs
    return found


def _replay(turns: Sequence[TurnRecord]) -> dict[str, dict[str, Any]]:
    return {
        experiment: {
            lane: {"tokens": turn.tokens, "arrivals": [_moment(arrival) for arrival in turn.arrivals]}
            for lane, turn in lanes.items()
        }
        for experiment, lanes in _replayed_turns(turns).items()
    }


def _replayed_turns(turns: Sequence[TurnRecord]) -> dict[str, dict[str, TurnRecord]]:
    """One turn a lane of every experiment that is replayed: of the first round in which the most lanes came through."""
    found: dict[str, dict[str, TurnRecord]] = {}
    for experiment in _REPLAYED:
        rounds: dict[int, dict[str, TurnRecord]] = {}
        for turn in turns:
            if turn.experiment == experiment and turn.error is None:
                rounds.setdefault(turn.round, {}).setdefault(turn.lane, turn)
        if rounds:
            most = max(len(lanes) for lanes in rounds.values())
            found[experiment] = next(lanes for _, lanes in sorted(rounds.items()) if len(lanes) == most)
    return found


def _moment(arrival: Arrival) -> list[Any]:
    late = None if arrival.logged_ms is None else round(arrival.ms - arrival.logged_ms, 2)
    return [round(arrival.ms, 2), arrival.type, arrival.seq, late, arrival.text]
