"""The ladder to the first token: which phases each client library tells, in their order, and what a planted wait is booked on."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from compare.measuring.formulas import first_output, tokens_per_chunk, ttft
from compare.measuring.ladder import PHASES
from compare.measuring.lanes import RunningLane, running_lanes
from compare.measuring.phases import Marks, cold_and_warm
from compare.measuring.recording import TurnSpec, record_turn
from compare.measuring.turns import Arrival, TurnRecord
from compare.showing.ladder import SHADES, ladder

MODEL_MS = 150.0
# A busy machine delays the first event of a turn too, which shortens what is measured as the wait of the model.
TRIES = 3
SPEC = TurnSpec(experiment="phases", tokens=2, rate=100.0)
END = {"first_byte", "first_event", "first_token"}
TOLD = {
    "rest": ({"tcp", "sent", "first_byte", "first_token"}, {"sent", "first_byte", "first_token"}),
    # The other lanes on httpx have the same hooks.
    "sse": ({"tcp", "sent"} | END, {"sent"} | END),
    "websocket": ({"tcp", "opened", "sent"} | END, {"sent"} | END),
    "grpc": ({"opened"} | END, END),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lanes() -> AsyncIterator[dict[str, RunningLane]]:
    async with running_lanes(list(TOLD), rate=100.0, first_ms=MODEL_MS) as running:
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


def in_order(marks: Marks) -> bool:
    """Whether the phases ended in the order of the ladder."""
    times = [marks.at[name] for name in PHASES if name in marks.at]
    return times == sorted(times)


def model_wait_ms(marks: Marks) -> float:
    return marks.at["first_token"] - marks.at["first_event"]


@pytest.mark.parametrize("name", TOLD)
async def test_each_lane_tells_its_phases_in_their_order(lanes: dict[str, RunningLane], name: str) -> None:
    for number in range(TRIES):
        found = await cold_and_warm(lanes[name], SPEC, number, tls=False)
        cold, warm = found["cold"], found["warm"]
        if name == "rest" or min(model_wait_ms(cold), model_wait_ms(warm)) > MODEL_MS / 2:
            break
    assert (set(cold.at), set(warm.at)) == TOLD[name]
    assert in_order(cold)
    assert in_order(warm)
    # The model's wait lies between the first event and the first token, where a lane tells both.
    if name != "rest":
        for marks in (cold, warm):
            assert model_wait_ms(marks) > MODEL_MS / 2
            assert marks.at["first_token"] >= MODEL_MS


@pytest.mark.skipif(importlib.util.find_spec("trustme") is None, reason="no trustme here")
async def test_tls_is_a_phase_of_its_own_where_the_library_tells_it() -> None:
    async with running_lanes(["sse", "websocket"], rate=100.0, tls=True) as running:
        for name, lane in running.items():
            found = await cold_and_warm(lane, SPEC, 0, tls=True)
            assert set(found["cold"].at) == TOLD[name][0] | {"tls"}
            assert in_order(found["cold"])


@pytest.mark.parametrize("name", ["sse", "grpc"])
async def test_two_first_tokens_where_a_model_thinks(lanes: dict[str, RunningLane], name: str) -> None:
    spec = TurnSpec(experiment="thoughts", message="/think 0.3 Hello", tokens=4, rate=100.0)
    async with lanes[name].client() as client:
        turn = await record_turn(lanes[name], client, spec)
        plain = await record_turn(lanes[name], client, SPEC)
    thought, token = first_output(turn), ttft(turn)
    assert thought is not None
    assert token is not None
    assert token - thought > 150
    assert first_output(plain) is None
    assert tokens_per_chunk(turn) == 1


async def test_tokens_a_chunk_come_from_the_usage() -> None:
    chunks = [Arrival(float(i), "chunk", i + 2, 0.0, 1, "x") for i in range(4)]
    turn = TurnRecord(experiment="x", lane="sse", round=0, stream=0, asked_at=0, tokens=4, arrivals=chunks)
    assert tokens_per_chunk(turn) is None
    turn.output_tokens = 10
    assert tokens_per_chunk(turn) == 2.5


async def test_the_ladder_draws_each_rung_with_its_length() -> None:
    svg = ladder("To the first token", {"grpc": {"opened": 3.0, "first_token": 12.5}, "sse": {"tcp": 1.0, "tls": 2.0}})
    assert svg.startswith("<svg")
    assert "<title>first token: 12.5 ms</title>" in svg
    assert svg.count("<rect class=") == 1 + 4 + 4
    assert set(SHADES) == set(PHASES)
