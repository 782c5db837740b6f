"""A delay that a test plants on one hop, or in one column of a chain, is booked there and nowhere else, within 2 ms.

A busy machine only ever adds to a time, so the lowest tenth of many times is compared, planted and not planted in the same rounds,
until both halves of the rounds agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import pytest_asyncio

from compare.chains.columns import SPANS, Saving, saving
from compare.chains.play import CELLS, Chain, ChainSpec, Connection, History, TurnSpans, play
from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.hops import HOPS, Hops, hops
from compare.measuring.lanes import RunningLane, running_lanes
from compare.measuring.recording import TurnSpec, record_turn, warm_up
from compare.measuring.statistics import quantile
from shared.client.protocol import Ask, ChatClient
from shared.client.transport import Received

DELAY_MS = 50.0
WITHIN_MS = 2.0
WORDS = ("ndjson", "grpc")
# A token comes when the one before has passed a planted delay.
RATE = 12.0
TOKENS = 7
LEAST_ROUNDS, MOST_ROUNDS = 8, 30
PLANTED = {"PYTHONPATH": str(Path(__file__).parent / "planted_delays")}

Key = TypeVar("Key")


@dataclass(slots=True)
class Planted:
    """One turn on one line: where its delay is planted, and the hops of its rounds."""

    where: str
    lane: RunningLane
    faults: Faults = field(default_factory=Faults)
    message: str = "Where was this answer?"
    client_s: float = 0.0
    rounds: list[list[Hops]] = field(default_factory=list)

    async def play(self, client: ChatClient, through: RunningLane, number: int) -> None:
        assert through.relay is not None
        through.relay.passed.clear()
        spec = TurnSpec(experiment=self.where, message=self.message, tokens=TOKENS)
        turn = await record_turn(through, client, spec, number=number)
        assert turn.error is None
        self.rounds.append(hops(turn, through.relay.passed))

    def hop_ms(self, name: str, rounds: slice) -> float:
        """The lowest tenth of the times of a hop. The model is delayed before the first token alone: the shortest of these."""
        first = name == "model"
        chosen = [found[:1] if first else found[:-1] for found in self.rounds[rounds]]
        value = quantile([getattr(each, name) for found in chosen for each in found], 0.0 if first else 0.1)
        assert value is not None
        return value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lanes() -> AsyncIterator[dict[str, dict[str, RunningLane]]]:
    async with (
        running_lanes(WORDS, rate=RATE) as plain,
        running_lanes(WORDS, rate=RATE, env=PLANTED | {"PLANTED_DELAY": "commit"}) as slow,
    ):
        yield {"plain": plain, "slow commit": slow}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_delay_of_50_ms_is_booked_on_its_own_hop(lanes: dict[str, dict[str, RunningLane]]) -> None:
    delay_s = DELAY_MS / 1000
    lines = {
        word: [
            Planted("nowhere", lanes["plain"][word]),
            Planted("model", lanes["plain"][word], message=f"/slow {delay_s} Where was this answer?"),
            Planted("server", lanes["slow commit"][word]),
            Planted("line", lanes["plain"][word], faults=Faults(delay_s=delay_s)),
            Planted("client", lanes["plain"][word], client_s=delay_s),
        ]
        for word in WORDS
    }
    every = [planted for some in lines.values() for planted in some]
    async with contextlib.AsyncExitStack() as stack:
        ready = []
        for planted in every:
            relay = await stack.enter_async_context(Relay(planted.lane.address, planted.faults, timed=True))
            scheme, colon, _ = planted.lane.address.rpartition("://")
            through = replace(planted.lane, address=f"{scheme}{colon}{relay.address}", relay=relay)
            client = await stack.enter_async_context(through.client(resume=False))
            await warm_up(through, client)
            _delay_events(client, planted.client_s)
            ready.append((planted, client, through))

        async def play_round(number: int) -> None:
            # The line that begins a round waits for no other line, so another line begins each round.
            first = number % len(ready)
            order = [*ready[first:], *ready[:first]]
            await asyncio.gather(*(planted.play(client, through, number) for planted, client, through in order))

        def booked(rounds: slice) -> dict[tuple[str, str, str], float]:
            """By word, place and hop: what the planted delay adds."""
            return {
                (word, planted.where, name): planted.hop_ms(name, rounds) - some[0].hop_ms(name, rounds)
                for word, some in lines.items()
                for planted in some[1:]
                for name in HOPS
            }

        found = await _until_halves_agree(play_round, booked)
    expected = {key: pytest.approx(DELAY_MS if key[1] == key[2] else 0.0, abs=WITHIN_MS) for key in found}
    assert found == expected


def _delay_events(client: ChatClient, delay_s: float) -> None:
    """Make a client take this long over each event."""
    stream = client.stream_chat

    async def slow(ask: Ask) -> AsyncGenerator[Received, None]:
        async with aclosing(stream(ask)) as events:
            async for event in events:
                await asyncio.sleep(delay_s)
                yield event

    if delay_s:
        client.stream_chat = slow  # type: ignore[method-assign]


async def _until_halves_agree(
    play_round: Callable[[int], Awaitable[None]], booked: Callable[[slice], dict[Key, float]]
) -> dict[Key, float]:
    """Play rounds until the even and the odd ones book nearly the same, at most 30. Returns what all rounds book."""
    for number in range(MOST_ROUNDS):
        await play_round(number)
        if number + 1 >= LEAST_ROUNDS:
            even, odd = booked(slice(0, None, 2)), booked(slice(1, None, 2))
            if all(abs(even[key] - odd[key]) < WITHIN_MS * 3 / 4 for key in even):
                break
    return booked(slice(None))


# A question alone is shorter than the planted store's limit of 10,000 characters, a question with its history is longer.
CHAIN_TURNS, QUESTION_BYTES, BYTES_PER_S = 3, 8_000, 1e6
HISTORIES: tuple[History, ...] = ("sent", "kept")
HANDSHAKE_S, LINE_S = 0.03, 0.02
# The first turn of a chain has no history, and opens the connection that is kept.
FIRST = 1


def exact_timers() -> asyncio.AbstractEventLoop:
    """A loop on select(), whose time-out has microseconds. That of epoll has milliseconds, so each delay of a line is longer."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def test_what_is_planted_in_a_chain_returns_in_its_own_column() -> None:
    """All at once, each with an amount of its own: a handshake, a bandwidth, a slow store of long messages, a longer line."""
    with asyncio.Runner(loop_factory=exact_timers) as runner:
        runner.run(_check_columns())


async def _check_columns() -> None:
    usual = ChainSpec(
        turns=CHAIN_TURNS,
        question_bytes=QUESTION_BYTES,
        reply_tokens=3,
        history="kept",
        connection="kept",
        faults=Faults(),
    )
    line = Faults(connect_s=HANDSHAKE_S, bytes_per_s=BYTES_PER_S, delay_s=LINE_S)
    async with (
        running_lanes(["ndjson"], rate=0.0) as plain,
        running_lanes(["ndjson"], rate=0.0, env=PLANTED | {"PLANTED_DELAY": "state"}) as slow,
    ):
        chains: dict[bool, list[Chain]] = {False: [], True: []}

        async def play_round(number: int) -> None:
            for history, connection in CELLS:
                spec = replace(usual, history=history, connection=connection)
                both = await asyncio.gather(
                    play(plain["ndjson"], spec, number, rtt_ms=0.0, tls=False),
                    play(slow["ndjson"], replace(spec, faults=line), number, rtt_ms=0.0, tls=False),
                )
                for planted, chain in zip((False, True), both, strict=True):
                    assert chain.error is None
                    assert chain.connections == (CHAIN_TURNS if connection == "new" else 1)
                    chains[planted].append(chain)

        def booked(rounds: slice) -> dict[str, float]:
            with_it, without = (_best(chains[planted], rounds) for planted in (True, False))
            names = ("handshake", "upload", "server_state", "rest", "after")
            return {name: getattr(with_it, name) - getattr(without, name) for name in names}

        found = await _until_halves_agree(play_round, booked)
    best = _best_cells(chains[True], slice(None))

    def mean(sizes: Iterable[int]) -> float:
        return sum(sizes) / (CHAIN_TURNS - FIRST)

    def ms(size: float) -> float:
        return size / BYTES_PER_S * 1000

    up = {history: mean(turn.up_bytes for turn in best[history, "kept"]) for history in HISTORIES}
    down = {history: mean(turn.down_bytes for turn in best[history, "kept"]) for history in HISTORIES}
    assert found == {
        "handshake": pytest.approx(HANDSHAKE_S * 1000, abs=WITHIN_MS),
        "upload": pytest.approx(ms(up["sent"] - up["kept"]), abs=WITHIN_MS),
        "server_state": pytest.approx(DELAY_MS, abs=WITHIN_MS),
        # The first event of a turn repeats its message on the way back.
        "rest": pytest.approx(ms(down["sent"] - down["kept"]), abs=WITHIN_MS),
        # What stays when all is kept is the transport's: the line both ways, and the bytes at the line's bandwidth.
        "after": pytest.approx(2 * LINE_S * 1000 + ms(up["kept"] + down["kept"]), abs=WITHIN_MS),
    }


def _best(chains: Sequence[Chain], rounds: slice) -> Saving:
    return saving(_best_cells(chains, rounds))


def _best_cells(chains: Sequence[Chain], rounds: slice) -> dict[tuple[History, Connection], list[TurnSpans]]:
    """Each turn of each cell with the lowest of its spans in these rounds, because a busy machine only adds to a time."""
    found = {}
    for cell in CELLS:
        some = [chain.turns for chain in chains if (chain.history, chain.connection) == cell][rounds]
        found[cell] = [
            msgspec.structs.replace(turns[0], **{span: min(getattr(turn, span) for turn in turns) for span in SPANS})
            for turns in list(zip(*some, strict=True))[FIRST:]
        ]
    return found
