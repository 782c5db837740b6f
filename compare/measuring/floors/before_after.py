"""Whether today's servers are slower than those of another checkout, from figures of the same run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from compare.measuring.floors.goals import FIGURE_WORDS, Figure
from compare.measuring.floors.plan import BEFORE, LANES, SideResult
from compare.measuring.statistics import ENOUGH_ROUNDS

Verdict = Literal["slower", "overlap", "quicker", "too few rounds"]
# The figures by which a row is compared: fields of SideResult. A lower figure is better. A row that is not named here is
# compared by its CPU time.
_FIGURES: dict[str, tuple[Figure, ...]] = {
    "paced": ("cpu_us", "delay_p50_ms", "delay_p99_ms", "ttft_p50_ms"),
    "readers": ("cpu_us", "delay_p50_ms"),
    "idle": ("rss_kib",),
    "slow-model": ("took_s",),
    "start": ("took_s", "cpu_us"),
}


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of a row and lane on one store, a value a round, of the other checkout and of today."""

    row: str
    word: str
    store: str
    figure: Figure
    before: list[float]
    today: list[float]

    @property
    def ratio(self) -> float:
        """Today's median over the median before."""
        return statistics.median(self.today) / max(statistics.median(self.before), 1e-9)

    @property
    def verdict(self) -> Verdict:
        """``slower``: every round of today is above every round before. ``quicker``: below. Else the ranges overlap."""
        if min(len(self.before), len(self.today)) < ENOUGH_ROUNDS:
            return "too few rounds"
        if min(self.today) > max(self.before):
            return "slower"
        return "quicker" if max(self.today) < min(self.before) else "overlap"


def compared(results: Iterable[SideResult]) -> list[Compared]:
    """All figures that both checkouts have, in the order of the rows, the lanes and the stores."""
    found = {(result.row, result.word, result.side): result for result in results}
    pairs = []
    rows = list(dict.fromkeys(row for row, _, _ in found))
    for row, word, side in sorted(found, key=lambda key: (rows.index(key[0]), LANES.index(key[1]), key[2])):
        before = found[(row, word, side)]
        today = found.get((row, word, side.removesuffix("-before")))
        if side not in BEFORE or today is None:
            continue
        for figure in _FIGURES.get(row, ("cpu_us",)):
            was, now = getattr(before, figure), getattr(today, figure)
            if was and now:
                pairs.append(Compared(row, word, today.side, figure, was, now))
    return pairs


def conclusion(pairs: list[Compared], left_out: Mapping[tuple[str, str, str], str]) -> list[str]:
    """What the run says in sentences, with the number of differences that chance alone would show."""
    said = [
        f"{row}, {word}, {side}: left out, because the other checkout cannot be measured there: {why}"
        for (row, word, side), why in left_out.items()
    ]
    told = [pair for pair in pairs if pair.verdict != "too few rounds"]
    if not told:
        return [*said, f"Nothing is claimed: a claim needs {ENOUGH_ROUNDS} rounds of both checkouts."]
    named = {
        verdict: ", ".join(
            f"{pair.row} {pair.word} {pair.store} ({FIGURE_WORDS[pair.figure]}, × {pair.ratio:.2f})"
            for pair in told
            if pair.verdict == verdict
        )
        for verdict in ("slower", "quicker")
    }
    overlapping = sum(pair.verdict == "overlap" for pair in told)
    said.append(
        f"Of {len(told)} figures the ranges of {overlapping} overlap. Slower today: {named['slower'] or 'none'}."
        f" Quicker today: {named['quicker'] or 'none'}."
    )
    chance = sum(1 / math.comb(len(pair.before) + len(pair.today), len(pair.today)) for pair in told)
    said.append(f"By chance alone, {chance:.1f} of them would be slower and as many quicker if nothing had changed.")
    return said
