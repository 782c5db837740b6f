"""The published page of results, ``compare/RESULTS.md``: a plain run, the same run over TLS, factors and chains, in short."""

from __future__ import annotations

from collections.abc import Sequence

from compare.measuring.lanes import lane_label, lane_title
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import Figure
from compare.measuring.verdicts import bunched, listed, matters, verdict
from compare.showing.facts import BRIEF, END_OF_BRIEF, cells_of
from compare.showing.report import rows, table, when
from compare.showing.results import Experiment, Results
from compare.showing.section import Section

_HOW_FAR = (
    "**How far they carry.** One machine, the server, the client and the relay on it, a model that computes nothing,"
    " Python on both ends: bytes, what a cut costs, and who waits for whom hold elsewhere; milliseconds and CPU are those of"
    " this machine, and under a real model's 20 to 200 ms a token the differences in transport delay between the streaming"
    " lanes cannot be felt."
)
# A table of so many columns fits the 830 px that GitHub gives a page.
_COLUMNS = 5
# Experiments that the page shows whole, below the table of all lanes.
_WHOLE = ("gRPC libraries", "stores", "packets")
# The figures that the page shows over TLS: what encryption could change.
_OVER_TLS = (
    ("1 stream", "ttft"),
    ("1 stream", "delay_p50"),
    ("bytes", "down_per_token"),
    ("throughput", "server_us"),
    ("throughput", "client_us"),
    ("connect", "connect_cold"),
    ("picture 4 MB", "image_ms"),
)
# The columns of the README's table: their heads, and the figures of the page's first table.
README = {
    "TTFT, ms": ("1 stream", "ttft"),
    "delay p50, ms": ("1 stream", "delay_p50"),
    "bytes a token": ("bytes", "down_per_token"),
    "server CPU, µs a token": ("throughput", "server_us"),
    "an open stream, KiB": ("memory", "stream_kib"),
    "after a cut, ms to the next token": ("cut, with resume", "back"),
    "4 MB picture, ms": ("picture 4 MB", "image_ms"),
}


def page(plain: Results, over_tls: Results | None = None, beside: Sequence[Section] = ()) -> str:
    """The page as Markdown. ``beside``: what ``compare factors`` and ``compare chain`` found, of which the sentences are shown."""
    parts = ["# A few results", "", when(plain), "", *_brief(plain)]
    for experiment in (plain.experiments[name] for name in _WHOLE if name in plain.experiments):
        parts += [f"## {experiment.title}", "", experiment.about, ""]
        parts += [table(plain, experiment)] if experiment.metrics else []
        parts += [*(f"- {sentence}" for sentence in experiment.verdicts), ""]
    if over_tls is not None:
        parts += _tls(plain, over_tls)
    about = ""
    for section in beside:
        if section.sentences:
            parts += [f"## {section.title}", ""]
            # The chains at each round trip have one description.
            parts += [section.about, ""] if section.about != about else []
            parts += [*(f"- {sentence}" for sentence in section.sentences), ""]
            about = section.about
    parts += [
        "Repeat all of it with `python -m compare all`, and the first part with `python -m compare run`. The formulas, the set-up"
        " and everything else that was measured stand in the reports they write.",
        "",
        f"{_HOW_FAR} Set-up: {plain.setup['versions']}.",
    ]
    return "\n".join(parts) + "\n"


def readme_table(text: str) -> str:
    """The README's table, cut out of the page's first tables. Raises ValueError where the page has none."""
    chosen = [BRIEF.index(pair) for pair in README.values()]
    found = [[label, *(cells[column] for column in chosen)] for label, cells in cells_of(text).items()]
    if not found:
        raise ValueError("the page has no table of the lanes")
    return "\n".join(rows(["lane", *README], found)) + "\n"


def _brief(plain: Results) -> list[str]:
    """The first table with its verdicts."""
    cells = [(plain.experiments[name], metric) for name, metric in BRIEF if name in plain.experiments]
    return [
        *_lanes(plain, cells),
        f"{END_OF_BRIEF}, in brackets the 95 % interval of a bootstrap; where intervals overlap, or with fewer than six"
        " rounds, no difference is claimed:",
        "",
        *_verdicts(cells),
        "",
    ]


def _tls(plain: Results, over_tls: Results) -> list[str]:
    """The part on the run over TLS: the figures of the plain run's lanes, their verdicts, and what differs from the plain run."""
    pairs = [pair for pair in _OVER_TLS if pair[0] in over_tls.experiments]
    cells = [(over_tls.experiments[name], metric) for name, metric in pairs]
    changed = [sentence for pair in pairs if (sentence := _changed(plain, over_tls, *pair))]
    return [
        "## Over TLS",
        "",
        f"The same run with every line encrypted: {when(over_tls)}",
        "",
        *_lanes(over_tls, cells, plain.lanes),
        *_verdicts(cells),
        *(
            [f"- Beside the plain run: {sentence}" for sentence in changed]
            or ["- Beside the plain run nothing changed by as much as matters."]
        ),
        "",
    ]


def _changed(plain: Results, over_tls: Results, name: str, metric: str) -> str:
    """A sentence on the lanes whose figure TLS changed by as much as matters; empty where it changed none."""
    found: list[tuple[str, Figure, Figure]] = []
    for lane in plain.lanes:
        before = plain.experiments[name].figure(lane, metric) if name in plain.experiments else None
        after = over_tls.experiments[name].figure(lane, metric)
        if before is not None and after is not None and matters(METRICS[metric], before, after):
            found.append((lane, before, after))
    if not found:
        return ""
    shares = [
        f"{lane_title(lane)} {(after.median - before.median) / before.median:+.0%}"
        for lane, before, after in found
        if before.median
    ]
    return f"{over_tls.experiments[name].title}, {METRICS[metric].title}: {listed(shares)}." if shares else ""


def _lanes(results: Results, cells: Sequence[tuple[Experiment, str]], lanes: Sequence[str] = ()) -> list[str]:
    """The cells as tables, each with the lanes as rows and no more columns than fit; an empty line follows each."""
    lines: list[str] = []
    for begin in range(0, len(cells), _COLUMNS):
        some = cells[begin : begin + _COLUMNS]
        heads = [f"{METRICS[metric].title}, {METRICS[metric].unit}<br>{one.title}" for one, metric in some]
        found = [
            [lane_label(lane), *(one.cell(lane, metric) for one, metric in some)] for lane in lanes or results.lanes
        ]
        lines += [*rows(["lane", *heads], found), ""]
    return lines


def _verdicts(cells: Sequence[tuple[Experiment, str]]) -> list[str]:
    """A sentence for each cell that can be judged, made anew from the figures of the run."""
    found = [
        (experiment.title, verdict(METRICS[metric], experiment.column(metric), bunched(experiment.figures)))
        for experiment, metric in cells
    ]
    return [f"- {title}: {sentence}" for title, sentence in found if sentence]
