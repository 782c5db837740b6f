"""What the guide knows: cells of one run, from its results or from the published table in ``compare/RESULTS.md``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from compare.measuring.lanes import LANES, lane_label, lane_title
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure
from compare.measuring.verdicts import median_with_interval
from compare.showing.results import Results

# The cells of the short report, an experiment and a metric each, in the order of the published table's columns.
BRIEF = (
    ("1 stream", "ttft"),
    ("1 stream", "delay_p50"),
    ("64 streams", "delay_p99"),
    ("bytes", "down_per_token"),
    ("throughput", "server_us"),
    ("throughput", "client_us"),
    ("memory", "stream_kib"),
    ("cancel", "cancel"),
    ("cut, with resume", "back"),
    ("cut, without resume", "back"),
    ("cut, without resume", "again"),
    ("picture 4 MB", "image_ms"),
    ("picture 4 MB", "image_wire"),
)
PUBLISHED = "RESULTS.md"
END_OF_BRIEF = "Medians over rounds"
_CELL = re.compile(r"([\d,.]+)(?: \(([\d,.]+)–([\d,.]+)\))?")


@dataclass(frozen=True, slots=True)
class Facts:
    """The figures of one run by experiment, metric and lane; ``held``: what a path did to a lane, by experiment and lane.

    ``source`` names the run in a sentence.
    """

    source: str
    lanes: Sequence[str]
    figures: Mapping[tuple[str, str, str], Figure]
    held: Mapping[tuple[str, str], str] = field(default_factory=dict)
    measured: frozenset[str] = frozenset()

    def figure(self, experiment: str, metric: str, lane: str) -> Figure | None:
        """One cell; None where nothing was measured."""
        return self.figures.get((experiment, metric, lane))

    def say(self, experiment: str, metric: str, lane: str) -> str:
        """One cell with its unit, such as ``128 B``; empty where nothing was measured."""
        found = self.figure(experiment, metric, lane)
        return "" if found is None else f"{median_with_interval(metric, found)} {METRICS[metric].unit}"

    def median(self, experiment: str, metric: str, lane: str) -> float | None:
        """The median of one cell."""
        found = self.figure(experiment, metric, lane)
        return None if found is None else found.median


def of_results(results: Results, source: str = "this run") -> Facts:
    """The facts of a run."""
    figures: dict[tuple[str, str, str], Figure] = {}
    held: dict[tuple[str, str], str] = {}
    for name, experiment in results.experiments.items():
        for lane, found in experiment.figures.items():
            figures |= {(name, metric, lane): figure for metric, figure in found.items()}
        for lane, sentences in experiment.findings.items():
            if found_held := [sentence for sentence in sentences if sentence.startswith("a buffer")]:
                held[name, lane] = found_held[0]
        for failure in experiment.failures:
            failed = [lane for lane in results.lanes if f", {lane_title(lane)}, round" in failure]
            held |= {(name, lane): f"did not get through: {failure}" for lane in failed}
    return Facts(source, results.lanes, figures, held, frozenset(results.experiments))


def cells_of(page: str) -> dict[str, list[str]]:
    """The cells of BRIEF by the label of the lane, from the text of the published page; empty where the page has none.

    The columns stand in several tables, one below the other. Other tables follow the sentence that begins with ``END_OF_BRIEF``.
    """
    found: dict[str, list[str]] = {}
    labels = {lane_label(lane) for lane in LANES}
    for line in page.partition(f"\n{END_OF_BRIEF}")[0].splitlines():
        label, *cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if label in labels:
            found.setdefault(label, []).extend(cells)
    return {label: cells for label, cells in found.items() if len(cells) == len(BRIEF)}


def published() -> Facts:
    """The facts of the published run."""
    cells = cells_of((files("compare") / PUBLISHED).read_text(encoding="utf-8"))
    figures: dict[tuple[str, str, str], Figure] = {}
    for lane in LANES:
        for (experiment, metric), cell in zip(BRIEF, cells.get(lane_label(lane), ()), strict=False):
            if match := _CELL.fullmatch(cell):
                low, middle, high = (float((match[i] or match[1]).replace(",", "")) for i in (2, 1, 3))
                figures[experiment, metric, lane] = Figure(middle, low, high, ENOUGH_ROUNDS, high)
    return Facts("the published run", list(LANES), figures, measured=frozenset(name for name, _ in BRIEF))
