"""The five clients on a broken line: what they report, when they give up, and which silences they wait out."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.lanes import LANES, Lane
from shared.client.http import problem_of
from shared.client.protocol import Ask, Lost, Reconnected
from shared.errors import ChatError, ConnectionLost, ServerAbsent
from shared.session import short_turn
from tests.faults.harness import Shown, World, expected, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOWING = [lane for lane in LANES.values() if lane.tokens]
SLOW = {"OFFLINE_TOKENS_PER_S": "100", "HEARTBEAT_S": "0.2", "DRAIN_S": "3"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with World(tmp_path_factory.mktemp("clients"), SLOW) as five:
        await five.start()
        yield five


def by_name(lane: Lane) -> str:
    return lane.name


@pytest.mark.parametrize("lane", SHOWING, ids=by_name)
async def test_it_tells_where_it_lost_the_line_and_where_it_goes_on(world: World, lane: Lane) -> None:
    address = world.servers[lane.word].address
    asked = f"/tokens 60 told on {lane.name}"
    async with (
        Relay(address, Faults(cut_after_event=10)) as relay,
        aclosing(world.client(lane, relay.address)) as client,
    ):
        items = [item async for item in client.chat(asked)]
        counts = client.counts
    (lost,) = [item for item in items if isinstance(item, Lost)]
    (resumed,) = [item for item in items if isinstance(item, Reconnected)]
    # An answer to a poll has several events, and a cut answer gives none of them to the client.
    assert lost.after == 10 if lane.name != "rest-poll" else lost.after <= 10
    assert resumed.after == lost.after
    assert resumed.attempts >= 1
    assert resumed.elapsed_ms > 0
    assert items.index(resumed) == items.index(lost) + 1 == lost.after + 1
    assert (counts.lost, counts.resumed) == (1, 1)


@pytest.mark.parametrize("lane", LANES.values(), ids=by_name)
async def test_turn_after_turn_takes_one_connection(world: World, lane: Lane) -> None:
    """A turn that was read to its end leaves its connection for the next turn, also when the turn failed."""
    async with aclosing(world.client(lane)) as client:
        for asked in ("/tokens 5 once", "/tokens 5 more", "/fail model_timeout and again", "/tokens 5 and again"):
            await Shown(asked).follow(client.chat(asked))
        assert client.counts.connections == 1


async def test_a_busy_event_loop_makes_a_reader_slow_and_no_end_late(world: World) -> None:
    """The clients read a stored turn beside a task that takes 5 ms of each turn of the event loop.

    What has arrived is read in a few turns; grpcio hands over one message in two turns or three.
    """
    asked, turns = "/tokens 200 read slowly", 0

    async def keep_busy() -> None:
        nonlocal turns
        while True:
            time.sleep(0.005)  # noqa: ASYNC251 - the time of a turn is what this test is about
            turns += 1
            await asyncio.sleep(0)

    async with aclosing(world.client(LANES["ndjson"])) as client:
        stored = await Shown(asked).follow(client.chat(asked))
    for lane in SHOWING:
        async with aclosing(world.client(lane)) as client:
            await client.get_turn(stored.turn_id)
            beside, turns, begun = asyncio.create_task(keep_busy()), 0, time.monotonic()
            one = await Shown(asked).follow(client.read(stored.turn_id))
            elapsed_s = time.monotonic() - begun
            beside.cancel()
        assert one.events == stored.events
        assert turns < (4 if lane.name == "grpc" else 1) * len(one.events), lane.name
        assert lane.name != "grpc" or one.late_s < elapsed_s / 2


@pytest.mark.parametrize("lane", LANES.values(), ids=by_name)
async def test_the_naked_protocol_loses(world: World, lane: Lane) -> None:
    faults = Faults(cut_after_bytes=0, times=None) if not lane.tokens else Faults(cut_after_event=7)
    async with (
        Relay(world.servers[lane.word].address, faults) as relay,
        aclosing(world.client(lane, relay.address, resume=False)) as client,
    ):
        shown = await Shown("").follow(client.chat(f"/tokens 50 naked on {lane.name}"))
    assert isinstance(shown.error, ConnectionLost)
    assert shown.error.after == shown.after <= 7
    assert (shown.error.turn_id or "") == shown.turn_id
    assert shown.lost == 0


@pytest.mark.parametrize("lane", LANES.values(), ids=by_name)
async def test_it_gives_up_after_the_stated_time(world: World, lane: Lane) -> None:
    async with (
        Relay(world.servers[lane.word].address) as relay,
        aclosing(world.client(lane, relay.address, give_up_s=1.0)) as client,
    ):
        one = Shown("")
        reading = asyncio.create_task(one.follow(client.chat(f"/tokens 5000 given up on {lane.name}")))
        await until(lambda: relay.up_bytes and (not lane.tokens or one.events), 10, "it asks")
        relay.refuse(60)
        relay.cut()
        begun = time.monotonic()
        await reading
    assert isinstance(one.error, ConnectionLost)
    assert "gave up after 1 s" in one.error.message
    assert 1 <= time.monotonic() - begun < 8


@pytest.mark.parametrize("lane", LANES.values(), ids=by_name)
async def test_a_server_that_is_not_there_is_said_at_once(world: World, lane: Lane) -> None:
    async with Relay("127.0.0.1:9") as relay:
        address = relay.address
    begun = time.monotonic()
    async with aclosing(world.client(lane, address)) as client:
        with pytest.raises(ServerAbsent):
            await anext(client.chat("hello"))
    assert time.monotonic() - begun < 8


async def test_a_long_reply_is_no_broken_line(world: World) -> None:
    asked = "/slow 2 /tokens 20 long"
    async with aclosing(world.client(LANES["rest"], silence_s=0.5, give_up_s=1.0)) as client:
        one = await Shown(asked).follow(client.chat(asked))
    assert one.done
    assert (one.text, one.status, one.lost) == (expected(asked), "completed", 0)
    assert world.begun[short_turn(one.turn_id)] == 1


@pytest.mark.parametrize("lane", SHOWING, ids=by_name)
async def test_a_silent_model_is_no_broken_line(world: World, lane: Lane) -> None:
    asked = f"/stall 2 /tokens 20 silent on {lane.name}"
    async with aclosing(world.client(lane, silence_s=1.0)) as client:
        one = await Shown(asked).follow(client.chat(asked))
    assert one.done
    assert (one.text, one.status, one.lost) == (expected(asked), "completed", 0)


async def test_a_poll_that_is_sent_away_does_not_spin(world: World) -> None:
    """A draining server ends the polls of other servers' turns at once, so the client must wait between polls."""
    lane = LANES["rest-poll"]
    async with (
        Relay(world.servers["rest"].address, capture=True) as relay,
        aclosing(world.client(LANES["sse"])) as sse,
        aclosing(world.client(LANES["rest"])) as rest,
        aclosing(world.client(lane, relay.address)) as poller,
    ):
        turn = await sse.start(Ask(text="/tokens 800 read through a server that goes"))
        await rest.start(Ask(text="/tokens 800 what it waits for"))
        one = Shown("/tokens 800 read through a server that goes")
        reading = asyncio.create_task(one.follow(poller.read(turn.turn_id)))
        await until(lambda: one.events, 10, "it reads")
        stopping = asyncio.create_task(world.stop("rest", signal.SIGTERM))
        await until(lambda: one.lost, 15, "it is sent away")
        before, shown = sum(piece.data.startswith(b"GET ") for piece in relay.captured), len(one.events)
        await stopping
        # A poll that gives events is followed by the next one at once.
        asked = sum(piece.data.startswith(b"GET ") for piece in relay.captured) - before - (len(one.events) - shown)
        await world.start("rest")
        await reading
    assert one.done
    assert (one.text, one.status) == (expected(one.asked), "completed")
    assert asked < 60, f"{asked} polls without an event while the server drained"


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_gateway_without_a_server_is_a_lost_line(status: int) -> None:
    assert isinstance(problem_of(b"<html>Bad Gateway</html>", status), ConnectionLost)
    ours = problem_of(b'{"code":"shutting_down","detail":"going"}', status)
    assert isinstance(ours, ChatError)
    assert ours.code == "shutting_down"
