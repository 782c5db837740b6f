"""Goodput: how many turns a second are good enough for their readers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from compare.measuring.formulas import e2e, gaps, ttft
from compare.measuring.statistics import quantile
from compare.measuring.turns import TurnRecord


class Objectives(msgspec.Struct, frozen=True):
    """The limits that a turn must keep, all of them, to count in the goodput; milliseconds."""

    ttft_ms: float = 300.0
    icl_p99_ms: float = 150.0
    e2e_ms: float = 10_000.0

    def met(self, turn: TurnRecord) -> bool:
        """Whether the turn kept all limits; False for a failed turn. A turn without gaps keeps the limit of the gaps."""
        first, last = ttft(turn), e2e(turn)
        if turn.error is not None or first is None or last is None:
            return False
        limits = ((first, self.ttft_ms), (quantile(gaps(turn), 0.99), self.icl_p99_ms), (last, self.e2e_ms))
        return all(value is None or value <= limit for value, limit in limits)


def goodput(turns: Sequence[TurnRecord], objectives: Objectives, seconds: float) -> float:
    """Turns a second that met all objectives."""
    return sum(objectives.met(turn) for turn in turns) / seconds
