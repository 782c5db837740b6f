"""What follows from the arrivals of a whole run: figures, verdicts and findings for each experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from compare.measuring.experiments.run import Description
from compare.measuring.findings import findings
from compare.measuring.goodput import Objectives
from compare.measuring.lanes import lane_title
from compare.measuring.loads import LoadPoint
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import Figure, figure_of_rounds
from compare.measuring.turns import Sample, TurnRecord
from compare.measuring.verdicts import bunched, median_with_interval, summarise, verdict


class Experiment(msgspec.Struct, kw_only=True):
    """One experiment: its figures by lane and metric, its verdicts, the findings on each lane's path, its failures."""

    title: str
    about: str
    metrics: tuple[str, ...]
    figures: dict[str, dict[str, Figure]]
    verdicts: list[str]
    findings: dict[str, list[str]]
    failures: list[str]

    def figure(self, lane: str, metric: str) -> Figure | None:
        """One cell of the experiment's table; None where nothing was measured."""
        return self.figures.get(lane, {}).get(metric)

    def column(self, metric: str) -> dict[str, Figure]:
        """The figures of a metric by lane, as far as they were measured."""
        return {lane: found[metric] for lane, found in self.figures.items() if metric in found}

    def cell(self, lane: str, metric: str) -> str:
        """One cell as text, with its interval; a dash where nothing was measured."""
        found = self.figure(lane, metric)
        return "–" if found is None else median_with_interval(metric, found)


class Results(msgspec.Struct, kw_only=True):
    """The results of a run. ``begun_at`` is epoch ms; ``tls``: the lines were encrypted; ``unmeasured`` says why an
    experiment is missing.

    ``passes`` is how many passes the run had, each on servers of its own: with one, the rounds of a figure share their servers.
    ``loads`` are the points from which other loads are computed, ``connections`` how many a client of a transport holds open;
    ``cut_tokens`` is the length of the answers that were cut.
    ``pictures`` has what experiments drew themselves: by the name of a file without ``.svg``, the title and the SVG.
    """

    version: int = 1
    begun_at: float
    seconds: float
    quick: bool
    passes: int = 1
    tls: bool = False
    seed: int
    lanes: list[str]
    setup: dict[str, str]
    experiments: dict[str, Experiment]
    unmeasured: dict[str, str]
    objectives: Objectives
    loads: list[LoadPoint] = []
    connections: dict[str, int] = {}
    cut_tokens: int = 0
    pictures: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict)


def conclude(
    lanes: Sequence[str],
    descriptions: Mapping[str, Description],
    turns: Sequence[TurnRecord],
    samples: Sequence[Sample],
    said: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Experiment]:
    """The experiments of a run, from everything that was recorded in it.

    ``said``: the sentences of experiments that judge themselves.
    """
    return {
        name: _conclude_one(
            name,
            description,
            lanes,
            [turn for turn in turns if turn.experiment == name],
            [sample for sample in samples if sample.experiment == name],
            said.get(name, ()),
        )
        for name, description in descriptions.items()
    }


def _conclude_one(
    name: str,
    description: Description,
    lanes: Sequence[str],
    turns: Sequence[TurnRecord],
    samples: Sequence[Sample],
    said: Sequence[str],
) -> Experiment:
    figures: dict[str, dict[str, Figure]] = {}
    on_path: dict[str, list[str]] = {}
    for lane in lanes:
        of_lane = [turn for turn in turns if turn.lane == lane]
        found = summarise(of_lane, description.metrics)
        for metric in description.metrics:
            measured = [
                (sample.round, sample.value) for sample in samples if sample.lane == lane and sample.metric == metric
            ]
            if (made := figure_of_rounds(measured)) is not None:
                found[metric] = made
        if found:
            figures[lane] = found
        if sentences := findings(of_lane):
            on_path[lane] = sentences
    sentences = [
        verdict(
            METRICS[metric],
            {lane: found[metric] for lane, found in figures.items() if metric in found},
            bunched(figures),
        )
        for metric in description.metrics
    ]
    return Experiment(
        title=description.title,
        about=description.what,
        metrics=description.metrics,
        figures=figures,
        verdicts=[*said, *(sentence for sentence in sentences if sentence)],
        findings=on_path,
        failures=[
            f"{name}, {lane_title(turn.lane)}, round {turn.round + 1}: {turn.error}" for turn in turns if turn.error
        ],
    )


def read(folder: Path) -> Results:
    """The results in the folder of a run. Raises OSError or msgspec.MsgspecError when there are none."""
    return msgspec.json.decode((folder / "results.json").read_bytes(), type=Results)
