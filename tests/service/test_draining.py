"""A service that stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from shared.events import (
    event_type,
)
from shared.llm.model import ContextMessage, Delta
from tests.conftest import until
from tests.service.scripted import (
    Scripted,
    Serve,
    Stepwise,
    follow,
    refused,
    reply,
    saying,
    silent,
    text_of,
)


async def test_drain(serve: Serve) -> None:
    """A drain refuses new turns, lets quick turns finish, interrupts slow turns and delivers their ends, and sends away
    the readers of other servers' turns.
    """
    plays = {"quick": Stepwise(), "slow": Stepwise()}

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        async for delta in plays[history[-1].text](history):
            yield delta

    async with serve(Stepwise()) as there, serve(play) as here:
        quick, slow = [await here.service.start_chat(name) for name in plays]
        remote = await there.service.start_chat("Elsewhere")
        for one in plays.values():
            one.say("said ")
        reading = [asyncio.create_task(follow(here.service, turn.turn_id)) for turn in (quick, slow)]
        with await here.service.open(remote.turn_id, 0) as visitor:
            await anext(visitor)
            assert await here.service.ready()
            draining = asyncio.create_task(here.service.drain(0.5))
            with pytest.raises(StopAsyncIteration):
                await anext(visitor)
            assert not visitor.complete
        assert not await here.service.ready()
        for refusal in (here.service.start_chat("New"), here.service.start_image("New"), here.service.create_session()):
            assert await refused(refusal) == "shutting_down"
        plays["quick"].say("more")
        plays["quick"].end()
        await draining
        finished, interrupted = [await task for task in reading]
        assert (text_of(finished), event_type(finished[-1])) == ("said more", "turn_completed")
        assert (text_of(interrupted), event_type(interrupted[-1])) == ("said ", "turn_interrupted")
        # A log that has ended can still be read, so that no reader misses the end.
        assert await follow(here.service, slow.turn_id) == interrupted
        assert (await there.service.cancel_turn(remote.turn_id)).status == "cancelled"


@pytest.mark.parametrize("first", ["Quick", None])
async def test_a_turn_that_is_being_recorded_is_drained_like_the_rest(serve: Serve, first: str | None) -> None:
    """The signal comes while the store records the turn.

    The turn has the whole grace period, also when it is the last turn.
    """
    plays = {"Quick": Stepwise(), "Just in time": Stepwise()}

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        async for delta in plays[history[-1].text](history):
            yield delta

    async with serve(play) as here:
        before = await here.service.start_chat(first) if first else None
        here.store.starts.clear()
        asking = asyncio.create_task(here.service.start_chat("Just in time"))
        await until(lambda: here.store.starting)
        draining = asyncio.create_task(here.service.drain(5))
        await until(lambda: here.service.draining)
        assert await refused(here.service.start_chat("Too late")) == "shutting_down"
        here.store.starts.set()
        late = await asking
        plays["Quick"].end()
        if before is not None:
            await follow(here.service, before.turn_id)
        # With no turn but this one left, the drain still waits for it.
        assert not (await asyncio.wait({draining}, timeout=0.1))[0]
        assert (await here.service.get_turn(late.turn_id)).status == "running"
        plays["Just in time"].say("all of it")
        plays["Just in time"].end()
        events = await follow(here.service, late.turn_id)
        assert (text_of(events), event_type(events[-1])) == ("all of it", "turn_completed")
        await draining


async def test_a_service_that_closes_interrupts(serve: Serve) -> None:
    model = Scripted(silent)
    async with serve(model) as here:
        turn = await here.service.start_chat("Hi")
        await until(lambda: model.opened)
    assert model.closed == 1
    async with serve(saying("x")) as again:
        assert (await again.service.get_turn(turn.turn_id)).status == "interrupted"
        assert event_type((await follow(again.service, turn.turn_id))[-1]) == "turn_interrupted"
        assert await reply(again.service, "Go on", session_id=turn.session_id)
