"""Many turns and readers at once, and the limits of both."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Sequence

import pytest

from shared.errors import ChatError
from shared.events import (
    event_type,
)
from shared.llm.model import ContextMessage, Delta
from tests.conftest import until
from tests.service.scripted import (
    Serve,
    Stepwise,
    ended,
    follow,
    refused,
    reply,
    saying,
    seq_is,
    silent,
    text_of,
)


async def test_sixteen_chats_take_as_long_as_one(serve: Serve) -> None:
    async def second_long(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        for n in range(10):
            await asyncio.sleep(0.1)
            yield Delta(f"{n} ")
        yield Delta("", "stop")

    async with serve(second_long) as here:
        begun = time.perf_counter()
        await reply(here.service, "One")
        one = time.perf_counter() - begun
        begun = time.perf_counter()
        many = await asyncio.gather(*(reply(here.service, f"Chat {n}") for n in range(16)))
        sixteen = time.perf_counter() - begun
        assert all(text_of(events) == "0 1 2 3 4 5 6 7 8 9 " for events in many)
        assert sixteen < 2 * one, f"16 chats took {sixteen:.2f} s, one took {one:.2f} s"


async def test_a_model_that_never_waits_keeps_nobody_waiting(serve: Serve) -> None:
    """The model gives 100,000 deltas without one await. Other chats begin and end meanwhile."""

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        for n in range(100_000 if history[-1].text == "Talk" else 3):
            yield Delta(f"{n} ")
        yield Delta("", "stop")

    async with serve(play) as here:
        talking = await here.service.start_chat("Talk")
        for _ in range(5):
            assert text_of(await reply(here.service, "Short")) == "0 1 2 "
        assert not await ended(here.service, talking.turn_id)
        stopped = await here.service.cancel_turn(talking.turn_id)
        assert stopped.status == "cancelled"
        assert 1 < stopped.last_seq < 100_000


async def test_a_model_that_hangs_keeps_nobody_waiting(serve: Serve) -> None:
    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        if history[-1].text == "Hang":
            await asyncio.Event().wait()
        yield Delta("Hello", "stop")

    async with serve(play) as here:
        hanging = [await here.service.start_chat("Hang") for _ in range(20)]
        assert text_of(await reply(here.service, "Hi")) == "Hello"
        for turn in hanging:
            assert (await here.service.cancel_turn(turn.turn_id)).status == "cancelled"


async def test_limits_of_turns_and_streams(serve: Serve) -> None:
    async with serve(silent, max_running_turns=2, max_streams=1) as here:
        first = await here.service.start_chat("One")
        await here.service.start_chat("Two")
        assert await refused(here.service.start_chat("Three")) == "too_many_streams"
        assert len((await here.service.list_sessions()).sessions) == 2
        with await here.service.open(first.turn_id, 0):
            assert await refused(here.service.open(first.turn_id, 0)) == "too_many_streams"
        assert (await here.service.open(first.turn_id, 0)).after == 0


async def test_no_reader_no_turn(serve: Serve) -> None:
    """A turn whose events could not be read is not recorded, unless the request is unattended."""
    async with serve(silent, max_streams=1) as here:
        turn = await here.service.start_chat("One")
        with await here.service.open(turn.turn_id, 0):
            assert await refused(here.service.start_chat("Two")) == "too_many_streams"
            # A cancel waits for the end of its turn as a reader does, and is never refused for load.
            assert (await here.service.cancel_turn(turn.turn_id)).status == "cancelled"
            assert await refused(here.service.start_image("Two")) == "too_many_streams"
            assert len((await here.service.list_sessions()).sessions) == 1
            await here.service.start_chat("Two", attended=False)


async def test_a_deleted_turn_is_not_found_though_somebody_reads_it(serve: Serve) -> None:
    """A reader that has the turn open reads it to the end. A later reader does not find the turn."""
    async with serve(saying("a", "b")) as here:
        turn = await here.service.start_chat("Hi")
        assert turn.session_id is not None
        with await here.service.open(turn.turn_id, 0) as reader:
            await until(lambda: ended(here.service, turn.turn_id))
            await here.service.delete_session(turn.session_id)
            assert await refused(here.service.open(turn.turn_id, 0)) == "turn_not_found"
            assert await refused(here.service.cancel_turn(turn.turn_id)) == "turn_not_found"
            read = [record.event async for records in reader for record in records]
            assert event_type(read[-1]) == "turn_completed"


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
async def test_what_has_ended_is_in_the_store_and_nowhere_else(serve: Serve, ending: str) -> None:
    """No log of an ended turn stays in memory, also before a garbage collection."""
    play = Stepwise()
    async with serve(play) as here:
        gc.disable()
        try:
            # Only the id is kept, because a reader would keep the log in memory.
            turn_id = (await here.service.start_chat("Hi")).turn_id
            play.say("a")
            await until(lambda: seq_is(here.service, turn_id, 2))
            if ending == "cancelled":
                await here.service.cancel_turn(turn_id)
            elif ending == "failed":
                play.steps.put_nowait(ChatError("model_timeout"))
            else:
                play.end()
            assert event_type((await follow(here.service, turn_id))[-1]) == f"turn_{ending}"
            await until(lambda: not here.service._turn_logs.held())
        finally:
            gc.enable()
