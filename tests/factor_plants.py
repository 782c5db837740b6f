"""Real servers of the factorial, with and without 20 µs of CPU time that are planted in each event.

Each cell has three servers: two are equal, the third has the plant. They are measured in six rounds, in an order that is shuffled,
one cell after the other. A factorial is then put together for each level: the planted servers of the cells that have the level, and
one of the equal servers of the others. What its effects have more than those of the equal servers is what was booked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from compare.factorial.cells import Cell
from compare.factorial.effects import Measured, effects
from compare.factorial.measure import FactorScale, measure_running, running_cell
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, figure

PLANT_US = 20.0
# CPU at full speed is what is planted.
SATURATED = FactorScale(streams=8, tokens=500, paced_streams=0, idle_streams=0)
_KINDS = {"first": 0.0, "second": 0.0, "planted": PLANT_US}


@dataclass(frozen=True, slots=True)
class Rounds:
    """The server CPU in µs an event of each kind of server, by cell, a value a round."""

    cells: tuple[Cell, ...]
    values: Mapping[tuple[str, str], Sequence[float]]

    def factorial(self, kinds: Mapping[str, str], number: int) -> list[Measured]:
        """One round of the factorial whose cells have these kinds of server, by the cell's name."""
        return [
            Measured(
                cell=cell.name,
                round=number,
                values={"server_us": self.values[cell.name, kinds[cell.name]][number]},
            )
            for cell in self.cells
        ]

    def booked(self, level: str) -> dict[str, Figure]:
        """By level: how much more its effect is where ``level`` has the plant."""
        plain = {cell.name: "first" for cell in self.cells}
        planted = {cell.name: "planted" if level in levels_of(cell) else "second" for cell in self.cells}
        found: dict[str, list[float]] = {}
        for number in range(ENOUGH_ROUNDS):
            before, after = (
                {one.level: one.difference.median for one in effects(self.factorial(kinds, number), self.cells)}
                for kinds in (plain, planted)
            )
            for name in before:
                found.setdefault(name, []).append(after[name] - before[name])
        return {name: made for name, values in found.items() if (made := figure(values)) is not None}


def levels_of(cell: Cell) -> tuple[str, ...]:
    """The levels of a cell, one of each factor."""
    return cell.encoding, cell.http, cell.framing, cell.library


async def measured_rounds(cells: tuple[Cell, ...], scale: FactorScale = SATURATED) -> Rounds:
    """Start the servers of each cell and measure six rounds of them."""
    values: dict[tuple[str, str], list[float]] = {(cell.name, kind): [] for cell in cells for kind in _KINDS}
    dice = random.Random(1)
    for cell in cells:
        async with AsyncExitStack() as stack:
            started = await asyncio.gather(
                *(stack.enter_async_context(running_cell(cell, plant_us)) for plant_us in _KINDS.values())
            )
            servers = list(zip(_KINDS, started, strict=True))
            for _ in range(ENOUGH_ROUNDS):
                for kind, running in dice.sample(servers, len(servers)):
                    values[cell.name, kind].append((await measure_running(running, scale))["server_us"])
    return Rounds(cells, values)
