"""Goals in µs, ms and seconds, judged on another host than the one on which they were set.

There are two verdicts. The absolute one compares the value with the goal as it stands. The other one compares shares: today's
value over the one of GOALS_COMMIT, which ``--beside`` measures in the same rounds, with the goal over what GOALS_COMMIT needed on
the host of the goals.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from compare.measuring.floors.before_after import Compared
from compare.measuring.floors.goals import (
    FLOOR_THERE_US,
    GOALS_COMMIT,
    GOALS_DATE,
    HOST_UNITS,
    Goal,
)
from compare.measuring.floors.plan import FloorPlan, SideResult
from compare.measuring.statistics import ENOUGH_ROUNDS

Verdict = Literal["met", "missed", "not decided", "too few rounds", "not known"]


@dataclass(frozen=True, slots=True)
class HostGoal:
    """A goal of one side in a unit of time, with today's result; ``before``: GOALS_COMMIT's values in the same rounds, if any."""

    result: SideResult
    goal: Goal
    before: Compared | None

    @property
    def value(self) -> float:
        """Today's median."""
        values: list[float] = getattr(self.result, self.goal.figure)
        return statistics.median(values)

    @property
    def met(self) -> bool:
        """Whether the value meets the goal as it stands."""
        return self.value <= self.goal.most

    @property
    def verdict(self) -> Verdict:
        """Whether today's share of GOALS_COMMIT meets the goal's share.

        ``not decided``: the goal's share is a range, because GOALS_COMMIT had a range on the host of the goals, and today's share
        lies in it. ``not known``: one of the two shares is.
        """
        if self.before is None or self.goal.share is None:
            return "not known"
        if min(len(self.before.before), len(self.before.today)) < ENOUGH_ROUNDS:
            return "too few rounds"
        lowest, highest = self.goal.share
        if self.before.ratio <= lowest:
            return "met"
        return "missed" if self.before.ratio > highest else "not decided"


def host_goals(results: Iterable[SideResult], pairs: Iterable[Compared], plan: FloorPlan) -> list[HostGoal]:
    """The goals in units of time that the results have; ``pairs`` count where the other checkout is GOALS_COMMIT."""
    found = {(pair.row, pair.word, pair.store, pair.figure): pair for pair in pairs if _is_goals_commit(plan)}
    return [
        HostGoal(result, goal, found.get((result.row, result.word, result.side, goal.figure)))
        for result in results
        for goal in result.goals
        if goal.figure in HOST_UNITS and getattr(result, goal.figure)
    ]


def _is_goals_commit(plan: FloorPlan) -> bool:
    return plan.beside_commit.startswith(GOALS_COMMIT)


def where_from(goals: Iterable[HostGoal], floors: Iterable[SideResult], plan: FloorPlan) -> list[str]:
    """Where the goals come from, and why no share of GOALS_COMMIT stands beside them, if none does."""
    units = sorted({HOST_UNITS[found.goal.figure] for found in goals})
    if not units:
        return []
    here = f"The goals in {' and '.join(units)} were set on another host."
    if _is_goals_commit(plan):
        return [
            f'{here} Before is {GOALS_COMMIT}: there, on {GOALS_DATE}, its values were those in the column "goal\'s share",'
            " and here it was measured in the same rounds."
        ]
    said = []
    for floor in floors:
        there_us = FLOOR_THERE_US.get((floor.row, floor.word))
        if there_us is not None and floor.cpu_us:
            here_us = statistics.median(floor.cpu_us)
            said.append(
                f"{floor.row}: there the floor needs {there_us:g} µs, here {here_us:.0f} µs (× {here_us / there_us:.1f})."
            )
    if plan.beside is not None:
        missing = f"The other checkout is {plan.beside_commit[:7] or 'of no known commit'} and not {GOALS_COMMIT}"
    else:
        missing = f"Without --beside and a checkout of {GOALS_COMMIT}"
    return [f"{here} {missing}, so no share of its values tells whether they are met here.", *said]
