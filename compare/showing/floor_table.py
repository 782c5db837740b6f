"""The tables of the floors: a table for each row, with a line for each side of each transport."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from compare.measuring.floors.before_after import Compared
from compare.measuring.floors.fronts import FrontCost
from compare.measuring.floors.further import NO_MEANING
from compare.measuring.floors.plan import (
    LANES,
    PACED_PER_S,
    PACED_STREAMS,
    FloorPlan,
    FloorRun,
    SideResult,
    ratio_to,
)
from compare.measuring.statistics import median_with_range

# The unit of a row, and its title with the plan's values in it.
_TITLES = {
    "saturated": ("events", "{streams} saturated streams, {events} chunks a turn"),
    "paced": ("events", f"{PACED_STREAMS} streams at {PACED_PER_S:g} tokens a second"),
    "readers": ("events", f"{{readers}} readers of one turn at {PACED_PER_S:g} tokens a second"),
    "idle": ("streams", "{idle_streams} idle streams, a connection each"),
    "image": ("MB", "a picture, read from the log (REST: GET /images)"),
    "slow-model": ("s", "16 chats at once, the model waits 1 s: seconds until all are done"),
}
_TO_THE_LEFT = ("lane", "side", "goal")


def show_floors(console: Console, run: FloorRun) -> None:
    """Print a table for each row that has results."""
    for name in dict.fromkeys(result.row for result in run.results.values()):
        unit, title = "requests", f"REST, {name}, {run.plan.streams} connections"
        if name in _TITLES:
            unit, template = _TITLES[name]
            title = template.format(**{key: getattr(run.plan, key) for key in FloorPlan.__slots__})
        title += ", over TLS" if run.plan.tls else ""
        table = Table(title=title, title_justify="left")
        for column in ("lane", "side", *_columns(name, unit)):
            table.add_column(column, justify="left" if column in _TO_THE_LEFT else "right")
        found = [result for result in run.results.values() if result.row == name]
        for result in sorted(found, key=lambda result: (LANES.index(result.word), result.side)):
            table.add_row(result.word, result.side, *_cells(result, run.floor_of(result)))
        console.print(table)
        for word, reason in NO_MEANING.get(name if name in _TITLES else "rest", {}).items():
            if word in run.plan.words:
                console.print(f"  {word}: not in this row: {reason}", markup=False)


def show_before_after(console: Console, pairs: Sequence[Compared]) -> None:
    """Print today's figures beside those of the other checkout, with each verdict."""
    table = Table(title="Today beside the other checkout: median (lowest–highest)", title_justify="left")
    for column in ("row", "lane", "store", "figure"):
        table.add_column(column)
    for column in ("before", "today", "today / before"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for pair in pairs:
        ranges = [median_with_range(values, 2) for values in (pair.before, pair.today)]
        table.add_row(pair.row, pair.word, pair.store, pair.figure, *ranges, f"{pair.ratio:.2f}", pair.verdict)
    console.print(table)


def show_fronts(console: Console, costs: Sequence[FrontCost]) -> None:
    """Print what each proxy costs beside the server behind it."""
    title = (
        f"{PACED_STREAMS} streams at {PACED_PER_S:g} tokens a second, a connection each; a proxy speaks TLS and HTTP/2"
    )
    table = Table(title=f"{title} in front, HTTP/1.1 behind", title_justify="left")
    for column in ("lane", "proxy"):
        table.add_column(column)
    for column in ("server, CPU µs an event", "proxy, CPU µs an event", "together", "delay p50 ms"):
        table.add_column(column, justify="right")
    for cost in costs:
        together = sum(statistics.median(values) for values in (cost.server_us, cost.proxy_us) if values)
        ranges = [_range(cost.server_us, 1), _range(cost.proxy_us, 1) if cost.proxy_us else ""]
        table.add_row(cost.lane, cost.front, *ranges, f"{together:.1f}", _range(cost.delay_p50_ms, 2))
    console.print(table)


def _columns(row: str, unit: str) -> list[str]:
    if row == "idle":
        return ["KiB a stream", "goal"]
    if row == "slow-model":
        return ["seconds", "goal"]
    one = "an event" if unit == "events" else f"a {unit.removesuffix('s')}"
    cost = [f"CPU µs {one}", f"{unit}/s", "to the floor", "goal"]
    if row == "saturated":
        return [*cost, "first event ms", "load gen. CPU"]
    if row in ("paced", "readers"):
        return [*cost, "delay p50 ms", "p99 ms", *(["TTFT p50 ms"] if row == "paced" else []), "load gen. CPU"]
    if row == "image":
        return [*cost, ""]
    return [*cost, "load gen. CPU"]


def _cells(result: SideResult, floor: SideResult | None) -> list[str]:
    if result.row == "idle":
        return [_range(result.rss_kib, 1), _met(result, None)]
    if result.row == "slow-model":
        return [_range(result.per_s, 2), _met(result, None)]
    ratio = ratio_to(result, floor)
    cells = [
        _range(result.cpu_us, 1),
        f"{statistics.median(result.per_s):,.0f}",
        "" if ratio is None else f"{ratio:.2f}",
        _met(result, ratio),
    ]
    share = f"{statistics.median(result.load_share):.0%}"
    if result.row == "saturated":
        return [*cells, _range(result.first_ms, 2), share]
    if result.row in ("paced", "readers"):
        cells += [_range(result.delay_p50_ms, 2), _range(result.delay_p99_ms, 2)]
        # The first token of the readers waits until all readers are connected, so it has no column.
        cells += [_range(result.ttft_p50_ms, 2)] if result.row == "paced" else []
        return [*cells, share]
    return [*cells, result.note if result.row == "image" else share]


def _range(values: Sequence[float], digits: int) -> str:
    return median_with_range(values, digits) if values else "not measured here"


def _met(result: SideResult, ratio: float | None) -> str:
    """The goals of a result, each with whether the medians meet it."""
    goal = result.goal
    if goal is None:
        return ""
    values = {
        "ratio": [] if ratio is None else [ratio],
        "µs": result.cpu_us,
        "KiB": result.rss_kib,
        "s": result.per_s,
    }
    judged = [
        ("", goal.most, "" if goal.unit == "ratio" else f" {goal.unit}", values[goal.unit]),
        ("p50 ", goal.p50_ms, " ms", result.delay_p50_ms),
        ("p99 ", goal.p99_ms, " ms", result.delay_p99_ms),
    ]
    return ", ".join(
        f"{name}≤ {most:g}{unit} {'met' if statistics.median(found) <= most else 'missed'}"
        for name, most, unit, found in judged
        if most is not None and found
    )
