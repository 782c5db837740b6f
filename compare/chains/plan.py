"""What a run of chains plays, in which order, and how long that takes on a quiet machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from compare.chains.play import CELLS, Chain, ChainSpec, Connection, History, play
from compare.lines.faults import Faults
from compare.measuring.lanes import ALL_LANES, RunningLane, running_lanes, shuffled

# Below this round trip a turn is mostly processor time, so the wires take turns; above it they wait, and run side by side.
_SIDE_BY_SIDE_MS = 20.0
_TURN_S, _START_S = 0.015, 6.0
# Round trips of a turn on a new connection, without TLS; a turn on a kept connection takes one.
_COLD_ROUND_TRIPS = {"rest": 2, "rest-poll": 2, "ndjson": 2, "sse": 2}
_COLD_WITH_A_HANDSHAKE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPlan:
    """``rtts_ms`` are the round-trip times of the lines, ``mbit_per_s`` their bandwidth; ``tls`` has True, False or both."""

    wires: tuple[str, ...]
    turns: int = 20
    rtts_ms: tuple[float, ...] = (1.0, 150.0)
    tls: tuple[bool, ...] = (False,)
    rounds: int = 6
    question_bytes: int = 2000
    reply_tokens: int = 20
    mbit_per_s: float = 20.0
    seed: int = 1

    def expected_s(self) -> float:
        """The expected time on a quiet machine."""
        return self.rounds * sum(
            _START_S + sum(self.round_s(rtt_ms, encrypted) for rtt_ms in self.rtts_ms) for encrypted in self.tls
        )

    def round_s(self, rtt_ms: float, encrypted: bool) -> float:
        """The expected time of one round on one line: all cells of all wires."""
        upload_s = sum(self._upload_bytes(history) for history, _ in CELLS) * 8 / (self.mbit_per_s * 1e6)
        each = []
        for wire in self.wires:
            cold = _COLD_ROUND_TRIPS.get(wire, _COLD_WITH_A_HANDSHAKE) + encrypted
            trips = sum(cold if connection == "new" else 1 for _, connection in CELLS)
            each.append(self.turns * (trips * rtt_ms / 1000 + len(CELLS) * _TURN_S) + upload_s)
        return max(each) if rtt_ms >= _SIDE_BY_SIDE_MS else sum(each)

    def _upload_bytes(self, history: History) -> float:
        size = self.turns * self.question_bytes
        return size * (self.turns + 1) / 2 if history == "sent" else size

    def spec(self, rtt_ms: float, history: History, connection: Connection) -> ChainSpec:
        """One cell on one line."""
        line = Faults(delay_s=rtt_ms / 2000, connect_s=rtt_ms / 1000, bytes_per_s=self.mbit_per_s * 125_000)
        return ChainSpec(
            turns=self.turns,
            question_bytes=self.question_bytes,
            reply_tokens=self.reply_tokens,
            history=history,
            connection=connection,
            faults=line,
        )


async def play_all(plan: ChainPlan) -> AsyncIterator[tuple[list[Chain], float]]:
    """Play the plan. Yields the chains of each step with the expected seconds of the step.

    Each round has servers of its own, because two starts of the same server differ. Raises RuntimeError when a server does not
    start.
    """
    for number in range(plan.rounds):
        for encrypted in plan.tls:
            async with running_lanes(plan.wires, rate=0.0, tls=encrypted) as lanes:
                for lane in lanes.values():
                    await _warm_up(lane, plan, encrypted)
                yield [], _START_S
                for rtt_ms in plan.rtts_ms:
                    async for chains in _round(plan, lanes, number, rtt_ms, encrypted):
                        yield chains, plan.round_s(rtt_ms, encrypted) / len(CELLS)


async def _warm_up(lane: RunningLane, plan: ChainPlan, tls: bool) -> None:
    """Two turns that no figure counts."""
    spec = replace(plan.spec(0.0, "sent", "new"), turns=2)
    chain = await play(lane, spec, 0, rtt_ms=0.0, tls=tls)
    if chain.error is not None:
        raise RuntimeError(f"{lane.lane.name}: {chain.error}")


async def _round(
    plan: ChainPlan, lanes: dict[str, RunningLane], number: int, rtt_ms: float, tls: bool
) -> AsyncIterator[list[Chain]]:
    """The chains of one round on one line, cell by cell in a shuffled order."""
    cells = {f"{history} {connection}": (history, connection) for history, connection in CELLS}
    for name in shuffled(list(cells), plan.seed, number):
        spec = plan.spec(rtt_ms, *cells[name])
        order = shuffled(list(lanes), plan.seed, number)
        if rtt_ms >= _SIDE_BY_SIDE_MS:
            yield list(
                await asyncio.gather(*(play(lanes[wire], spec, number, rtt_ms=rtt_ms, tls=tls) for wire in order))
            )
        else:
            yield [await play(lanes[wire], spec, number, rtt_ms=rtt_ms, tls=tls) for wire in order]


def known_wires(names: Sequence[str]) -> tuple[str, ...]:
    """The names of lanes. Raises ValueError for a name that is none."""
    if unknown := set(names) - set(ALL_LANES):
        raise ValueError(f"no such lane: {', '.join(sorted(unknown))}; there are {', '.join(ALL_LANES)}")
    return tuple(names)
