"""What the race prints at its end: tables, verdicts, how to read them, and the set-up."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compare.lines.faults import Faults, describe
from compare.measuring.findings import findings
from compare.measuring.hops import HOPS, Hops
from compare.measuring.lanes import lane_label, lane_title
from compare.measuring.metrics import METRICS
from compare.measuring.setup import setup
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure
from compare.measuring.turns import TurnRecord
from compare.measuring.verdicts import bunched, number, summarise, titles, verdict
from compare.showing.figures_table import figures_table
from shared.client import text
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens

_WIDE = 120


@dataclass(frozen=True, slots=True)
class _Selection:
    """The metrics of a table, and those of them that get a verdict."""

    shown: tuple[str, ...]
    judged: tuple[str, ...]


_REPLY = _Selection(
    ("ttft", "icl_p50", "icl_p99", "delay_p50", "delay_p99", "e2e", "down_per_token", "coalescing"),
    ("ttft", "delay_p50", "delay_p99", "e2e", "down_per_token"),
)
_CUT = _Selection(("lost", "twice", "again", "detect", "back", "e2e"), ("lost", "twice", "again", "detect", "back"))
_IMAGE = _Selection(("ttfe", "e2e", "up_bytes"), ("e2e",))


@dataclass(frozen=True, slots=True)
class RaceSettings:
    """The settings of a race: its lanes, its prompt, and its number of rounds."""

    names: Sequence[str]
    prompt: str
    tokens: int
    rate: float
    rounds: int
    concurrency: int
    cut_after: int | None
    image: str | None
    tls: bool

    @property
    def selection(self) -> _Selection:
        return _IMAGE if self.image else _CUT if self.cut_after is not None else _REPLY


def show_race(
    console: Console,
    race: RaceSettings,
    turns: Sequence[TurnRecord],
    faults: Faults,
    *,
    explain: bool,
    hops_of: Mapping[str, Sequence[Hops]] = MappingProxyType({}),
) -> None:
    """Print everything that follows from the turns of a race, the verdicts last.

    ``explain``: also formulas and set-up, and where the tokens were on their way, as far as ``hops_of`` has it.
    """
    if explain:
        _explain(console, race, faults)
    if any(hops_of.values()):
        _show_hops(console, hops_of)
    for experiment in dict.fromkeys(turn.experiment for turn in turns):
        _show_experiment(console, race, experiment, [turn for turn in turns if turn.experiment == experiment])
    if "rest" in race.names and not race.image:
        _say(
            console,
            "REST sends one whole reply: its first token is its last. Long-polling asks the same server again and again.",
        )
    more = "" if explain else " --explain prints the formulas and the set-up."
    rounds, streams = text.plural(race.rounds, "round"), text.plural(race.concurrency, "stream")
    _say(
        console,
        f"Medians over {rounds} of {streams} a lane, {describe(faults)}.{more} In a browser: python -m compare page",
    )


def _show_hops(console: Console, hops_of: Mapping[str, Sequence[Hops]]) -> None:
    table = Table(title="A token on its way, medians in ms", title_justify="left")
    table.add_column("lane")
    for head in ("appended → relay\nserver, commit", "through the relay\nline", "relay → parsed\nclient"):
        table.add_column(head, justify="right")
    for lane, found in hops_of.items():
        if found:
            table.add_row(
                lane_label(lane),
                *(number(statistics.median(getattr(hop, name) for hop in found)) for name in HOPS if name != "model"),
            )
    console.print()
    console.print(table)


def _explain(console: Console, race: RaceSettings, faults: Faults) -> None:
    _say(
        console,
        "How to read it (t0 = request sent, e_i = arrival of the i-th chunk, at_i = when it was appended to the log):",
    )
    for name in race.selection.shown:
        metric = METRICS[name]
        _say(console, f"{metric.title:<13} {metric.formula}  [{metric.points}]")
    _say(
        console,
        "Each number is a median over rounds after a warm-up; in brackets the 95 % interval of a bootstrap over rounds. Where"
        " two intervals overlap, where two values differ by less than a tenth, and where two times differ by less than 5 ms, no"
        " difference is claimed.",
    )
    own = "its own time to draw" if race.image else "150 ms to its first token"
    streams = text.plural(race.concurrency, "stream")
    lanes = f"{streams} a lane, {race.rate:g} tokens a second; in every first token is the model's {own}"
    console.print("\n  Set-up:")
    for what, value in ({"lanes": lanes} | setup(faults, tls=race.tls)).items():
        _say(console, f"{what:<10} {value}")


def _show_experiment(console: Console, race: RaceSettings, experiment: str, turns: Sequence[TurnRecord]) -> None:
    by_lane = {name: [turn for turn in turns if turn.lane == name] for name in race.names}
    figures = {name: summarise(found, race.selection.shown) for name, found in by_lane.items()}
    console.print()
    console.print(
        figures_table(experiment, figures, race.selection.shown, intervals=console.width >= _WIDE, width=console.width)
    )
    for sentence in _verdicts(race, figures):
        _say(console, sentence)
    for lane, found in by_lane.items():
        for turn in found:
            if turn.error is not None:
                _say(console, f"{lane_title(lane)}, round {turn.round + 1}: {turn.error}")
        for sentence in findings(found):
            _say(console, f"{lane_title(lane)}: {sentence}.")
    if not race.image and race.cut_after is None:
        expected = "".join(reply_tokens([ContextMessage("user", f"/tokens {race.tokens} {race.prompt}")]))
        equal = [lane for lane, found in by_lane.items() if all(_text(turn) == expected for turn in found)]
        where = "in every lane" if len(equal) == len(by_lane) else f"in {titles(equal) if equal else 'no lane'} only"
        _say(console, f"The text is the model's, character by character, {where}.")


def _verdicts(race: RaceSettings, figures: Mapping[str, Mapping[str, Figure]]) -> list[str]:
    if race.rounds < ENOUGH_ROUNDS:
        rounds = text.plural(race.rounds, "round")
        return [f"{rounds} cannot tell a difference from chance: --rounds {ENOUGH_ROUNDS} or more gives a verdict."]
    together = bunched(figures)
    sentences = [
        verdict(METRICS[name], {lane: found[name] for lane, found in figures.items() if name in found}, together)
        for name in race.selection.judged
    ]
    return [sentence for sentence in sentences if sentence]


def _text(turn: TurnRecord) -> str:
    return "".join(arrival.text for arrival in turn.of("chunk", "reply"))


def _say(console: Console, words: str) -> None:
    """A line that is broken between words, and set in by two cells."""
    console.print(Padding(Text(words), (0, 0, 0, 2)))
