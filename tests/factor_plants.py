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

from compare.factorial.cells import FACTORS, LEVELS, Cell
from compare.factorial.effects import Effect, Measured, effects
from compare.factorial.measure import FactorScale, measure_running, running_cell
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, figure

PLANT_US = 20.0
# What CPU times of a busy machine differ by. Slower events share a write less often, so a plant may cost more than its 20 µs.
WITHIN_US, MORE_US = 6.0, 10.0
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

    def effects(self, kinds: Mapping[str, str]) -> list[Effect]:
        """The effects of all rounds."""
        return effects([one for number in range(ENOUGH_ROUNDS) for one in self.factorial(kinds, number)], self.cells)

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


def expected(level: str) -> dict[str, float]:
    """By level: what a plant in ``level`` adds to its effect. A first level costs more, so the others cost less beside it."""
    factor = LEVELS[level]
    first = level == FACTORS[factor][0]
    return {
        name: 0.0 if of != factor else PLANT_US if name == level else -PLANT_US if first else 0.0
        for name, of in LEVELS.items()
    }


def wrongly_booked(rounds: Rounds, level: str) -> list[str]:
    """The effects that are off when the plant is in ``level``; empty where everything is right."""
    due = expected(level)
    return [
        f"{level} has {PLANT_US:g} µs: {name} {made.median:+.1f} ({made.low:+.1f} to {made.high:+.1f}), due {due[name]:+g}"
        for name, made in rounds.booked(level).items()
        if not -WITHIN_US
        <= (made.median - due[name]) * (-1 if due[name] < 0 else 1)
        <= (MORE_US if due[name] else WITHIN_US)
    ]


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


async def equal_servers(cells: tuple[Cell, ...], scale: FactorScale = SATURATED) -> list[Measured]:
    """Six rounds in which one and the same kind of server stands for every cell, each on a server of its own."""
    async with AsyncExitStack() as stack:
        servers = {
            cell.name: await stack.enter_async_context(running_cell(Cell("JSON", "HTTP/1.1", "lines", "ASGI")))
            for cell in cells
        }
        dice = random.Random(1)
        found = []
        for number in range(ENOUGH_ROUNDS):
            for name in dice.sample(list(servers), len(servers)):
                values = await measure_running(servers[name], scale)
                found.append(Measured(cell=name, round=number, values=values))
    return found
