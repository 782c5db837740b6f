"""The folder that a run writes: raw arrivals, results, a report as Markdown with its plots, and a report as one HTML page."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from compare.measuring.ladder import PHASES
from compare.measuring.lanes import lane_label, lane_title
from compare.measuring.metrics import METRICS
from compare.measuring.turns import Sample, TurnRecord
from compare.measuring.verdicts import listed, titles
from compare.showing import ladder, section
from compare.showing.facts import BRIEF, of_results
from compare.showing.guide import NEEDS, Guide, answer, guide_of
from compare.showing.how_to_read import how_to_read
from compare.showing.page import page
from compare.showing.plots import plots
from compare.showing.results import Experiment, Results

PLOTS = "plots"
# What other commands leave in the folder of a run, by the names of their files.
BESIDE = ("factors", "chain")
FILES = ("arrivals.jsonl", "results.json", "report.md", "report.html")
# Needs that come together: the README's table, and what a chat in a browser wants besides.
_TOGETHER = (
    ["tokens", "browser"],
    ["tokens", "both-ways"],
    ["tokens", "contract"],
    ["tokens", "browser", "resume", "pictures"],
    ["tokens", "proxy", "gzip"],
)


def write(folder: Path, results: Results, turns: Sequence[TurnRecord], samples: Sequence[Sample]) -> None:
    """Write the four files. What ``compare factors`` and ``compare chain`` left in the folder becomes a part of the report."""
    folder.mkdir(parents=True, exist_ok=True)
    arrivals, encoded, as_markdown, as_page = (folder / name for name in FILES)
    with arrivals.open("wb") as file:
        for record in (*turns, *samples):
            file.write(msgspec.json.encode(record) + b"\n")
    encoded.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    guide, drawn = guide_of(of_results(results)), plots(results) | ladder.ladders(results) | results.pictures
    beside = [one for name in BESIDE for one in section.read(folder, name)]
    (folder / PLOTS).mkdir(exist_ok=True)
    for name, (_, svg) in drawn.items():
        (folder / PLOTS / f"{name}.svg").write_text(svg, encoding="utf-8")
    as_markdown.write_text(
        markdown(results, guide, {name: title for name, (title, _) in drawn.items()}, beside), encoding="utf-8"
    )
    as_page.write_text(page(results, when(results), guide, turns, beside), encoding="utf-8")


def markdown(results: Results, guide: Guide, drawn: Mapping[str, str], beside: Sequence[section.Section] = ()) -> str:
    """The report as Markdown; ``drawn``: the titles of the plots beside it, by their names; ``beside``: further sections."""
    parts = [f"# Five transports compared\n\n{when(results)}\n"]
    parts += [f"![{title}]({PLOTS}/{name}.svg)\n" for name, title in drawn.items()]
    for name, experiment in results.experiments.items():
        parts.append(f"## {experiment.title}\n\n{experiment.about}\n")
        if experiment.metrics:
            parts.append(table(results, experiment))
        parts += [f"- {sentence}" for sentence in experiment.verdicts]
        for lane, sentences in experiment.findings.items():
            parts += [f"- On the path of {lane_title(lane)}: {sentence}." for sentence in sentences]
        parts += [f"- Failed: {failure}" for failure in experiment.failures]
        if name == "throughput":
            parts.append("- Where the client's CPU an event is more than the server's, the client is the limit.")
        parts.append("")
    parts += [section.markdown(one, PLOTS) for one in beside]
    parts.append(f"## How to read it\n\n{how_to_read(results)}\n")
    parts.append("| metric | unit | formula | from → to |\n|---|---|---|---|")
    parts += [f"| {of.title} | {of.unit} | {of.formula} | {of.points} |" for of in METRICS.values()]
    if any(name in results.experiments for name in ladder.EXPERIMENTS):
        parts += _names_elsewhere()
    parts.append("\n## Set-up\n\n| | |\n|---|---|")
    parts += [f"| {what} | {value} |" for what, value in results.setup.items()]
    parts.append("\n## Not measured\n")
    parts += [f"- {what}: {why}" for what, why in results.unmeasured.items()]
    parts.append(
        "- Several machines, and real networks beyond this machine: not in this run. The networks lan, wan, mobile and lossy are"
        " shaped in the relay.\n"
    )
    parts.append(
        "## Which to take\n\nOne answer to each need and to the needs of the README together; `python -m compare guide --run FOLDER"
        " --need NAME,NAME` answers any others, as the page `report.html` does.\n"
    )
    for names in (*([need.name] for need in guide.needs), *_TOGETHER):
        found = answer(guide, names)
        needed = listed([NEEDS[name] for name in names])
        also = f" ({titles(found.also, 'or')} would do as well)" if found.also else ""
        parts.append(
            f"- **{needed}**: {lane_title(found.take)}{also}. {_sentence('Price', found.prices)} {_sentence('Not', found.others)}"
        )
    return "\n".join(parts) + "\n"


def _names_elsewhere() -> list[str]:
    """The rungs of the ladder with the names of other tools."""
    named = [[phase.title, phase.ends, phase.aiperf, phase.k6] for phase in PHASES.values()]
    said = "The rungs of the ladder, and their names in AIPerf and k6, which report the length of each phase by itself:"
    return [f"\n{said}\n", *rows(["rung", "when", "AIPerf", "k6"], named)]


def when(results: Results) -> str:
    """One line: when and where the run was, and how far its numbers carry."""
    begun = datetime.datetime.fromtimestamp(results.begun_at / 1000, datetime.UTC)
    length = "quick run" if results.quick else "full run"
    return (
        f"{begun:%Y-%m-%d %H:%M} UTC, {length} of {results.seconds / 60:.1f} minutes, seed {results.seed}, "
        f"{results.setup['machine']}, {results.setup['python']}. One machine, loopback: what differs between two transports "
        "carries over, milliseconds do not."
    )


def _sentence(head: str, said: Sequence[str]) -> str:
    return f"{head}: {'; '.join(said)}." if said else ""


def table(results: Results, experiment: Experiment) -> str:
    """The figures of an experiment as Markdown, a lane a row."""
    names = [name for name in experiment.metrics if any(name in found for found in experiment.figures.values())]
    if not names:
        return "Nothing was measured.\n"
    heads = [f"{METRICS[name].title} ({METRICS[name].unit})" for name in names]
    found = [
        [lane_label(lane), *(experiment.cell(lane, name) for name in names)]
        for lane in results.lanes
        if lane in experiment.figures
    ]
    return "\n".join(rows(["lane", *heads], found)) + "\n"


def rows(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown; all columns but the first are aligned to the right."""
    lines = [heads, *cells]
    head, *rest = [f"| {' | '.join(line)} |" for line in lines]
    return [head, "|---|" + "---:|" * (len(heads) - 1), *rest]


def in_short(results: Results) -> list[str]:
    """The run in a few sentences for a terminal: what differs in a way that one can feel, and what the guide makes of it."""
    found = []
    for experiment, metric in BRIEF:
        if experiment in results.experiments:
            head = f"{METRICS[metric].title}: "
            said = [sentence for sentence in results.experiments[experiment].verdicts if sentence.startswith(head)]
            found += [
                f"{results.experiments[experiment].title}, {sentence}" for sentence in said if " than " in sentence
            ]
    chat = answer(guide_of(of_results(results)), ["tokens", "browser"])
    return [
        *found,
        f"For a chat in a browser this run says: {lane_title(chat.take)}. Other needs: python -m compare guide",
    ]
