"""What a run is written as: the raw arrivals, the results, a page to read, and a page to look at."""

from __future__ import annotations

import datetime
import itertools
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from compare.guide import Need, guide
from compare.metrics import METRICS, Arrival, Figure, Sample, Take, delays, number, quantile, text_bytes
from compare.results import Experiment, Results

_TEMPLATE = Path(__file__).parent / "template"
_QUANTILES = 100
_BRIEF = (
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


def write(folder: Path, results: Results, takes: Sequence[Take], samples: Sequence[Sample]) -> None:
    """Write the four files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "arrivals.jsonl").open("wb") as file:
        for line in (*takes, *samples):
            file.write(msgspec.json.encode(line) + b"\n")
    (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    needs = guide(results)
    (folder / "report.md").write_text(markdown(results, needs), encoding="utf-8")
    (folder / "report.html").write_text(page(results, needs, takes), encoding="utf-8")


# -- to read -----------------------------------------------------------------------------------------------------------------


def markdown(results: Results, needs: Sequence[Need]) -> str:
    """The report as Markdown."""
    parts = [f"# Five transports compared\n\n{_when(results)}\n"]
    for name, experiment in results.experiments.items():
        parts.append(f"## {experiment.title}\n\n{experiment.about}\n")
        parts.append(_table(results, experiment))
        parts += [f"- {line}" for line in experiment.verdicts]
        for lane, said in experiment.findings.items():
            parts += [f"- On the path of {lane}: {line}." for line in said]
        parts += [f"- Failed: {line}" for line in experiment.failures]
        if name == "throughput":
            parts.append("- Where the client's CPU an event is more than the server's, the client is the limit.")
        parts.append("")
    parts.append("## How to read it\n")
    parts.append(
        "t0 = request sent, e_i = arrival of the i-th chunk, at_i = when it was appended to the log. A round is the unit: what"
        " has many values in a turn is first one number a turn, and the turns of a round give their median; then the median over"
        " rounds, with the 95 % interval of a percentile bootstrap (1,000 resamples, seeded) in brackets. No difference is"
        " claimed where intervals overlap or with fewer than six rounds. vLLM's ITL is ICL here, pooled over requests, and its"
        " TTFT counts an empty first chunk; AIPerf's ITL is TPOT here; GuideLLM's TPOT divides (last − start) by n.\n"
    )
    parts.append("| metric | unit | formula | from → to |\n|---|---|---|---|")
    parts += [f"| {of.title} | {of.unit} | {of.formula} | {of.points} |" for of in METRICS.values()]
    parts.append("\n## Set-up\n\n| | |\n|---|---|")
    parts += [f"| {what} | {value} |" for what, value in results.setup.items()]
    parts.append("\n## Not measured\n")
    parts += [f"- {what}: {why}" for what, why in results.unmeasured.items()]
    parts.append(
        "- TLS, real networks, several machines: not in this run. The networks above are shaped in the relay.\n"
    )
    parts.append(
        "## Which to take\n\nEach reason is a cell of this run, or names its source; every need is judged alone.\n"
    )
    for need in needs:
        parts.append(f"- **If you need {need.title}**, take {_or(need.take)}, because: {need.because}.")
        for reason in need.reasons:
            if reason.struck:
                parts.append(f"  - not {reason.lane}: {reason.why} ({reason.source}: {reason.where})")
            elif reason.source != "measured":
                parts.append(f"  - {reason.lane}: {reason.why} ({reason.source}: {reason.where})")
    return "\n".join(parts) + "\n"


def brief(results: Results, command: str) -> str:
    """A few results for a README, with the command that repeats them and how far they carry."""
    columns = [(name, metric) for name, metric in _BRIEF if name in results.experiments]
    heads = [
        f"{METRICS[metric].title}, {METRICS[metric].unit}<br>{results.experiments[name].title}"
        for name, metric in columns
    ]
    lines = ["| lane | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for lane in results.lanes:
        cells = (cell(metric, results.experiments[name].figures.get(lane, {}).get(metric)) for name, metric in columns)
        lines.append(f"| {lane} | " + " | ".join(cells) + " |")
    said = []
    for name, metric in columns:
        title = METRICS[metric].title
        found = [line for line in results.experiments[name].verdicts if line.startswith(f"{title}:")]
        said += [f"- {results.experiments[name].title}: {line}" for line in found]
    return "\n".join(
        [
            "# A few results",
            "",
            _when(results),
            "",
            *lines,
            "",
            "Medians over rounds, in brackets the 95 % interval of a bootstrap; where intervals overlap, or with fewer than six"
            " rounds, no difference is claimed:",
            "",
            *said,
            "",
            f"Repeat them with `{command}`. The formulas, the set-up and everything else that was measured stand in the"
            " report it writes.",
            "",
            "**How far they carry.** One machine, the server, the client and the relay on it, no TLS, a model that computes"
            " nothing, Python on both ends: bytes, what a cut costs, and who waits for whom hold elsewhere; milliseconds and CPU"
            " are those of this machine, and under a real model's 20 to 200 ms a token the differences in transport delay"
            " between the streaming lanes cannot be felt. Set-up: " + results.setup["versions"] + ".",
            "",
        ]
    )


def _when(results: Results) -> str:
    began = datetime.datetime.fromtimestamp(results.begun_at / 1000, datetime.UTC)
    kind = "quick run" if results.quick else "full run"
    return (
        f"{began:%Y-%m-%d %H:%M} UTC, {kind} of {results.seconds / 60:.1f} minutes, seed {results.seed}, "
        f"{results.setup['machine']}, {results.setup['python']}. One machine, loopback: what differs between two transports "
        "carries over, milliseconds do not."
    )


def _table(results: Results, experiment: Experiment) -> str:
    names = [name for name in experiment.metrics if any(name in found for found in experiment.figures.values())]
    if not names:
        return "Nothing was measured.\n"
    heads = [f"{METRICS[name].title} ({METRICS[name].unit})" for name in names]
    lines = ["| lane | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(names)]
    for lane in results.lanes:
        found = experiment.figures.get(lane)
        if found:
            lines.append(f"| {lane} | " + " | ".join(cell(name, found.get(name)) for name in names) + " |")
    return "\n".join(lines) + "\n"


def cell(name: str, figure: Figure | None) -> str:
    """A median with its interval; a dash where there is none."""
    if figure is None:
        return "–"
    if METRICS[name].unit == "share":
        low, middle, high = (f"{value:.0%}" for value in (figure.low, figure.median, figure.high))
    else:
        low, middle, high = (number(value, figure.median) for value in (figure.low, figure.median, figure.high))
    return middle if low == high else f"{middle} ({low}–{high})"


def _or(lanes: Sequence[str]) -> str:
    if not lanes:
        return "none of them"
    return lanes[0] if len(lanes) == 1 else f"{', '.join(lanes[:-1])} or {lanes[-1]}"


# -- to look at --------------------------------------------------------------------------------------------------------------


def page(results: Results, needs: Sequence[Need], takes: Sequence[Take]) -> str:
    """The report as one HTML file that needs no network."""
    data = {
        "results": msgspec.to_builtins(results),
        "when": _when(results),
        "needs": msgspec.to_builtins(needs),
        "metrics": {
            name: {"title": of.title, "unit": of.unit, "formula": of.formula, "points": of.points, "better": of.better}
            for name, of in METRICS.items()
        },
        "delays": _by_lane(takes, _delay_curve),
        "gaps": _gaps(takes),
        "bytes": _bytes(takes),
        "replay": _replay(takes),
    }
    # "</" would end the script element.
    text = msgspec.json.encode(data).decode().replace("</", "<\\/")
    made = (_TEMPLATE / "report.html").read_text(encoding="utf-8")
    for name, content in (
        ("/*STYLE*/", (_TEMPLATE / "report.css").read_text(encoding="utf-8")),
        ("/*SCRIPT*/", (_TEMPLATE / "report.js").read_text(encoding="utf-8")),
        ("/*DATA*/", text),
    ):
        made = made.replace(name, content)
    return made


def _by_lane(takes: Iterable[Take], make: Any) -> dict[str, dict[str, Any]]:
    grouped: dict[str, dict[str, list[Take]]] = {}
    for taken in takes:
        if taken.error is None:
            grouped.setdefault(taken.experiment, {}).setdefault(taken.lane, []).append(taken)
    return {
        experiment: {lane: made for lane, some in lanes.items() if (made := make(some))}
        for experiment, lanes in grouped.items()
    }


def _delay_curve(takes: Sequence[Take]) -> list[float]:
    """The delay at every hundredth of all chunks, pooled over turns: what the curve shows."""
    pooled = [value for taken in takes for value in delays(taken)]
    if not pooled:
        return []
    return [round(value, 3) for i in range(_QUANTILES + 1) if (value := quantile(pooled, i / _QUANTILES)) is not None]


def _gaps(takes: Sequence[Take]) -> dict[str, dict[str, list[list[float]]]]:
    """Arrival and gap of every chunk of one turn a lane."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for experiment, lanes in _chosen(takes).items():
        for lane, taken in lanes.items():
            times = [arrival.ms for arrival in taken.of("chunk")]
            pairs = [[round(after, 2), round(after - before, 3)] for before, after in itertools.pairwise(times)]
            if pairs:
                found.setdefault(experiment, {})[lane] = pairs
    return found


def _bytes(takes: Sequence[Take]) -> dict[str, dict[str, float]]:
    """Bytes a token, split into text and the rest."""

    def split(some: Sequence[Take]) -> dict[str, float]:
        known = [taken for taken in some if taken.down_bytes and taken.tokens]
        if not known:
            return {}
        text = statistics.median(text_bytes(taken) / taken.tokens for taken in known)
        down = statistics.median((taken.down_bytes or 0) / taken.tokens for taken in known)
        up = statistics.median((taken.up_bytes or 0) / taken.tokens for taken in known)
        return {"text": round(text, 2), "rest": round(down - text, 2), "up": round(up, 2)}

    return _by_lane((taken for taken in takes if taken.experiment == "bytes"), split).get("bytes", {})


def _chosen(takes: Sequence[Take]) -> dict[str, dict[str, Take]]:
    """One turn a lane of every experiment that is replayed: the first round in which all lanes came through."""
    found: dict[str, dict[str, Take]] = {}
    for experiment in _REPLAYED:
        rounds: dict[int, dict[str, Take]] = {}
        for taken in takes:
            if taken.experiment == experiment and taken.error is None:
                rounds.setdefault(taken.round, {}).setdefault(taken.lane, taken)
        if rounds:
            most = max(len(lanes) for lanes in rounds.values())
            found[experiment] = next(lanes for number, lanes in sorted(rounds.items()) if len(lanes) == most)
    return found


def _replay(takes: Sequence[Take]) -> dict[str, dict[str, Any]]:
    return {
        experiment: {
            lane: {"tokens": taken.tokens, "arrivals": [_moment(arrival) for arrival in taken.arrivals]}
            for lane, taken in lanes.items()
        }
        for experiment, lanes in _chosen(takes).items()
    }


def _moment(arrival: Arrival) -> list[Any]:
    late = None if arrival.logged_ms is None else round(arrival.ms - arrival.logged_ms, 2)
    return [round(arrival.ms, 2), arrival.type, arrival.seq, late, arrival.text]
