"""What follows from the arrivals of a whole run: every experiment's figures, who differs, what the path did."""

from __future__ import annotations

from pathlib import Path

import msgspec

from compare.metrics import METRICS, Figure, Objectives, Sample, Take, figure, findings, summarise, verdict


class About(msgspec.Struct, frozen=True):
    """What an experiment is: its title, what was done, and the metrics it is about."""

    title: str
    what: str
    metrics: tuple[str, ...]


class Experiment(msgspec.Struct, kw_only=True):
    """One experiment: what was done, its figures by lane, who differs, what the path did, what failed."""

    title: str
    about: str
    metrics: tuple[str, ...]
    figures: dict[str, dict[str, Figure]]
    verdicts: list[str]
    findings: dict[str, list[str]]
    failures: list[str]


class Results(msgspec.Struct, kw_only=True):
    """What follows from the arrivals: experiment → lane → metric → figure, and in words."""

    version: int = 1
    begun_at: float
    seconds: float
    quick: bool
    seed: int
    lanes: list[str]
    setup: dict[str, str]
    experiments: dict[str, Experiment]
    unmeasured: dict[str, str]
    objectives: Objectives


def conclude(
    names: list[str],
    about: dict[str, About],
    takes: list[Take],
    samples: list[Sample],
) -> dict[str, Experiment]:
    """Figures, verdicts and findings of everything that was seen."""
    experiments = {}
    for name, of in about.items():
        mine = [taken for taken in takes if taken.experiment == name]
        values = [sample for sample in samples if sample.experiment == name]
        figures: dict[str, dict[str, Figure]] = {}
        path: dict[str, list[str]] = {}
        for lane in names:
            of_lane = [taken for taken in mine if taken.lane == lane]
            found = summarise(of_lane, of.metrics)
            for metric in of.metrics:
                made = figure([sample.value for sample in values if sample.lane == lane and sample.metric == metric])
                if made is not None:
                    found[metric] = made
            if found:
                figures[lane] = found
            if said := findings(of_lane):
                path[lane] = said
        lines = (
            verdict(METRICS[metric], {lane: found[metric] for lane, found in figures.items() if metric in found})
            for metric in of.metrics
        )
        experiments[name] = Experiment(
            title=of.title,
            about=of.what,
            metrics=of.metrics,
            figures=figures,
            verdicts=[line for line in lines if line],
            findings=path,
            failures=[f"{name}, {taken.lane}, round {taken.round + 1}: {taken.error}" for taken in mine if taken.error],
        )
    return experiments


def read(folder: Path) -> Results:
    """The results of a run. Raises OSError or msgspec.MsgspecError when there are none."""
    return msgspec.json.decode((folder / "results.json").read_bytes(), type=Results)
