"""What a run on the line writes and prints: tables, the picture of head-of-line blocking, the sentences, the raw arrivals."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compare.measuring.metrics import METRICS
from compare.measuring.packets.results import LATE_MS, MOVE_METRICS, Cell, PacketResults, Round
from compare.measuring.packets.run import PacketRun
from compare.measuring.packets.verdicts import share, verdicts
from compare.measuring.packets.ways import MOVED, WAYS
from compare.measuring.statistics import Figure
from compare.measuring.verdicts import median_with_interval
from compare.showing.head_of_line import head_of_line

FILES = ("packets.md", "packets.json", "head-of-line.svg", "arrivals.jsonl")
_DRAWN_LOSS = 0.02
_HEADS = ("protocol", "connections", "loss", "p50, ms", "p95, ms", "p99, ms", "late", "together", "dropped of packets")


def write(folder: Path, run: PacketRun) -> None:
    """Write the four files."""
    folder.mkdir(parents=True, exist_ok=True)
    report, results, picture, arrivals = (folder / name for name in FILES)
    results.write_bytes(msgspec.json.format(msgspec.json.encode(run.results), indent=1))
    svg = picture_of(run.rounds, run.results.delay_ms)
    if svg:
        picture.write_text(svg, encoding="utf-8")
    report.write_text(markdown(run.results, drawn=bool(svg)), encoding="utf-8")
    with arrivals.open("wb") as file:
        for one in run.rounds:
            for turn in one.turns:
                head = {"way": one.way, "connections": one.connections, "loss": one.loss}
                file.write(msgspec.json.encode(head | msgspec.to_builtins(turn)) + b"\n")
        for turn in run.moved:
            file.write(msgspec.json.encode(turn) + b"\n")


def picture_of(rounds: Sequence[Round], delay_ms: float) -> str:
    """The picture of the first round at 2 % loss, or at the smallest loss there is; empty where no packet was lost."""
    losses = sorted({one.loss for one in rounds if one.loss})
    if not losses:
        return ""
    loss = _DRAWN_LOSS if _DRAWN_LOSS in losses else losses[0]
    shown = {(one.way, one.connections): one for one in reversed(rounds) if one.loss == loss}
    order = [(name, connections) for name, way in WAYS.items() for connections in way.connections]
    return head_of_line([shown[key] for key in order if key in shown], delay_ms)


def markdown(results: PacketResults, *, drawn: bool) -> str:
    """The report as Markdown; ``drawn``: the picture lies beside it."""
    parts = [f"# Packets that are really lost\n\n{_about(results)}\n"]
    if drawn:
        parts.append("![When each token was due and when it came](head-of-line.svg)\n")
    parts += [f"- {sentence}" for sentence in verdicts(results)]
    parts += ["", *_table(_HEADS, [_cells(results, cell) for cell in results.cells]), ""]
    if results.moves:
        heads = ("protocol", "", *(f"{METRICS[name].title}, {METRICS[name].unit}" for name in MOVE_METRICS))
        parts += ["## The client's address changes in mid-answer\n", *_table(heads, _move_rows(results)), ""]
    failures = [failure for cell in results.cells for failure in cell.failures] + results.move_failures
    parts += [f"- Failed: {failure}" for failure in failures]
    parts += [f"- Not measured: {WAYS[name].title} {why}." for name, why in results.unmeasured.items()]
    parts.append(f"\n## How to read it\n\n{_HOW_TO_READ}\n\n| | |\n|---|---|")
    parts += [f"| {what} | {results.setup[what]} |" for what in ("machine", "python", "versions", "model")]
    return "\n".join(parts) + "\n"


_HOW_TO_READ = (
    "p50, p95 and p99 are of e_i − at_i: the arrival of a token at the client minus the time at which it was appended to the"
    f" server's log, one clock. A token is late when this is more than {LATE_MS:g} ms above the line's delay. *together*: the share"
    " of the late tokens that came within 2 ms of a late token of another stream. All tokens of a round give one value; the table"
    " has the median over rounds and the 95 % interval of a bootstrap. The server and the client run in two network"
    " namespaces with the kernel's own TCP, and UDP for QUIC; a process between them delays each packet and drops a seeded share"
    " of those that the server sends. Connections are open and warm before the first packet is dropped. HTTP/3 goes through"
    " Caddy with TLS, the others reach the server directly without TLS."
)


def show(console: Console, results: PacketResults) -> None:
    """Print the tables and the sentences."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=_about(results), title_justify="left", title_style="bold")
    for place, head in enumerate(_HEADS):
        table.add_column(head, justify="left" if place < 2 else "right")
    for cell in results.cells:
        table.add_row(*_cells(results, cell))
    console.print(table)
    if results.moves:
        heads = ("protocol", "", *(METRICS[name].title for name in MOVE_METRICS))
        table = Table(
            box=None, padding=(0, 2, 0, 0), title="The client's address changes in mid-answer", title_justify="left"
        )
        for head in heads:
            table.add_column(head)
        for row in _move_rows(results):
            table.add_row(*row)
        console.print(table)
    for sentence in verdicts(results):
        console.print(Padding(Text(sentence), (0, 0, 0, 2)))
    for name, why in results.unmeasured.items():
        console.print(Padding(Text(f"Not measured: {WAYS[name].title} {why}."), (0, 0, 0, 2)))


def _about(results: PacketResults) -> str:
    begun = datetime.datetime.fromtimestamp(results.begun_at / 1000, datetime.UTC)
    rounds = "1 round" if results.rounds == 1 else f"{results.rounds} rounds"
    return (
        f"{begun:%Y-%m-%d %H:%M} UTC, {results.streams} streams of {results.tokens} tokens at {results.rate:g} a second,"
        f" {results.delay_ms:g} ms each way, {rounds}, seed {results.seed}."
    )


def _cells(results: PacketResults, cell: Cell) -> list[str]:
    return [
        WAYS[cell.way].title,
        "1" if cell.connections == "one" else f"{results.streams}",
        f"{cell.loss:.0%}",
        *(_ms(cell.figures.get(name)) for name in ("p50", "p95", "p99")),
        _share(cell.figures.get("late")),
        _share(cell.figures.get("together")),
        f"{cell.dropped:,} of {cell.packets:,}",
    ]


def _ms(found: Figure | None) -> str:
    return "–" if found is None else median_with_interval("delay_p50", found)


def _share(found: Figure | None) -> str:
    return "–" if found is None else share(found)


def _move_rows(results: PacketResults) -> list[list[str]]:
    return [
        [
            MOVED[name].title,
            experiment.removeprefix("moved, "),
            *(median_with_interval(metric, found[metric]) if metric in found else "–" for metric in MOVE_METRICS),
        ]
        for name in MOVED
        for experiment, ways in results.moves.items()
        if (found := ways.get(name))
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(line)} |" for line in (heads, *rows)]
    return [lines[0], "|---|---|" + "---:|" * (len(heads) - 2), *lines[1:]]
