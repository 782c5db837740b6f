"""The tables of the floors: a table for each row, with a line for each side of each transport."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from compare.measuring.floors.before_after import Compared, compared
from compare.measuring.floors.fronts import FrontCost
from compare.measuring.floors.further import NO_MEANING
from compare.measuring.floors.goals import FIGURE_WORDS, GOALS_COMMIT, HOST_UNITS
from compare.measuring.floors.host_goals import HostGoal, host_goals, where_from
from compare.measuring.floors.plan import (
    FLOORS,
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
    "start": ("s", "A server from its start to its first answer; serve-all: five servers"),
    "POST /chat, a token more": ("tokens", "REST, POST /chat, a token more in the reply, from the two rows above"),
}
# What stands before and after the value of a goal.
_GOAL_WORDS = {
    "ratio": ("", ""),
    "cpu_us": ("", " µs"),
    "rss_kib": ("", " KiB"),
    "took_s": ("", " s"),
    "delay_p50_ms": ("p50 ", " ms"),
    "delay_p99_ms": ("p99 ", " ms"),
    "ttft_p50_ms": ("TTFT ", " ms"),
}
_TO_THE_LEFT = ("lane", "side", "figure", "goal", "so", "goal's share", "verdict")


def show_floors(console: Console, run: FloorRun) -> None:
    """Print a table for each row that has results."""
    for name in dict.fromkeys(result.row for result in run.results.values()):
        unit, title = "requests", f"REST, {name}, {run.plan.streams} connections"
        if name in _TITLES:
            unit, template = _TITLES[name]
            title = template.format(**{key: getattr(run.plan, key) for key in FloorPlan.__slots__})
        title += ", over TLS" if run.plan.tls else ""
        title += ", both checkouts on one core at once" if run.plan.at_once else ""
        table = Table(title=title, title_justify="left")
        for column in ("lane", "side", *_columns(name, unit)):
            table.add_column(column, justify="left" if column in _TO_THE_LEFT else "right")
        found = [result for result in run.results.values() if result.row == name]
        found.sort(key=lambda result: (LANES.index(result.word), result.side))
        for result in found:
            table.add_row(result.word, result.side, *_cells(result, run.floor_of(result)))
        console.print(table)
        _show_host_goals(console, found, run.plan)
        for word, reason in NO_MEANING.get(name if name in _TITLES else "rest", {}).items():
            if word in run.plan.words:
                console.print(f"  {word}: not in this row: {reason}", markup=False)


def _show_host_goals(console: Console, found: Sequence[SideResult], plan: FloorPlan) -> None:
    """Print the goals of a row that are in units of time, as they stand and as shares of GOALS_COMMIT."""
    goals = host_goals(found, compared(found), plan)
    if any(goal.before for goal in goals):
        table = Table(title=f"Goals in units of time, also as shares of {GOALS_COMMIT}", title_justify="left")
        columns = ("lane", "side", "figure", "goal", "today", "so", "before", "share", "goal's share", "verdict")
        for column in columns:
            table.add_column(column, justify="left" if column in _TO_THE_LEFT else "right")
        for goal in goals:
            table.add_row(*_host_goal_cells(goal))
        console.print(table)
    for sentence in where_from(goals, [result for result in found if result.side in FLOORS], plan):
        console.print(f"  {sentence}", markup=False)


def _host_goal_cells(found: HostGoal) -> list[str]:
    goal, before = found.goal, found.before
    name = FIGURE_WORDS[goal.figure]
    so = "met" if found.met else "missed"
    cells = [found.result.word, found.result.side, name, f"≤ {goal.most:g}", f"{found.value:,.2f}", so]
    if before is None:
        return [*cells, "not measured", "", "", found.verdict]
    cells += [f"{statistics.median(before.before):,.2f}", f"{before.ratio:.2f}"]
    if goal.before is None or goal.share is None:
        return [*cells, "no value before is known", found.verdict]
    of, to = (_span(pair, digits) for pair, digits in ((goal.before, 1), (goal.share, 2)))
    return [*cells, f"{goal.most:g} of {of} {HOST_UNITS[goal.figure]} = {to}", found.verdict]


def _span(pair: tuple[float, float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}".removesuffix(".0") for value in pair)
    return low if low == high else f"{low}–{high}"


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
        figure = FIGURE_WORDS[pair.figure]
        table.add_row(pair.row, pair.word, pair.store, figure, *ranges, f"{pair.ratio:.2f}", pair.verdict)
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
    if row == "start":
        return ["seconds", "CPU s", "goal"]
    if row == "POST /chat, a token more":
        return ["CPU µs a token", "goal"]
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
        return [_range(result.took_s, 2), _met(result, None)]
    if result.row == "start":
        cpu_s = _range([us / 1e6 for us in result.cpu_us], 2)
        return [_range(result.took_s, 2), cpu_s, _met(result, None)]
    if result.row == "POST /chat, a token more":
        return [_range(result.cpu_us, 2), _met(result, None)]
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
    """The goals of a result, each with whether the medians meet it as it stands."""
    judged = []
    for goal in result.goals:
        values = ([] if ratio is None else [ratio]) if goal.figure == "ratio" else getattr(result, goal.figure)
        if not values:
            continue
        name, unit = _GOAL_WORDS[goal.figure]
        met = "met" if statistics.median(values) <= goal.most else "missed"
        judged.append(f"{name}≤ {goal.most:g}{unit} {met}")
    return ", ".join(judged)
