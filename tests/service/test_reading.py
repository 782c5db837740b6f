"""Reading a log from any cursor, at any moment."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from shared.chat.turn_log import Reader
from shared.events import (
    AnyEvent,
    Chunk,
)
from tests.conftest import until
from tests.service.scripted import (
    Serve,
    Stepwise,
    ended,
    follow,
    refused,
    saying,
    seq_is,
    silent,
    text_of,
)


async def test_readers_at_any_cursor_beside_the_producer(serve: Serve) -> None:
    """Readers start at any moment with any cursor. Each reader gets the events after its cursor exactly once."""
    play = Stepwise()
    texts = [f"{n} " for n in range(60)]
    async with serve(play) as here:
        turn = await here.service.start_chat("Count")
        reading: list[tuple[int, asyncio.Task[list[AnyEvent]]]] = []
        for n, text in enumerate(texts):
            play.say(text)
            await until(partial(seq_is, here.service, turn.turn_id, n + 2))
            for after in {0, n // 2, n, n + 2}:
                reading.append((after, asyncio.create_task(follow(here.service, turn.turn_id, after))))
        play.end()
        whole = await follow(here.service, turn.turn_id)
        assert [event.seq for event in whole] == list(range(1, len(texts) + 3))
        assert text_of(whole) == "".join(texts)
        for after, task in reading:
            assert await task == whole[after:]
        assert await follow(here.service, turn.turn_id, len(whole)) == []
        assert await refused(here.service.open(turn.turn_id, len(whole) + 1)) == "cursor_out_of_range"
        assert await refused(here.service.open(turn.turn_id, -1)) == "invalid_request"
        assert await refused(here.service.open("no such turn", 0)) == "turn_not_found"


async def test_a_cursor_beyond_a_running_turn(serve: Serve) -> None:
    async with serve(silent) as here:
        turn = await here.service.start_chat("Hi")
        assert await refused(here.service.open(turn.turn_id, 2)) == "cursor_out_of_range"


async def test_a_reader_that_does_not_read_slows_no_other_reader(serve: Serve) -> None:
    """The stalled reader needs no queue: the events stay in the log, and the reader gets all of them later."""
    texts = [f"{n} " for n in range(5000)]
    async with serve(saying(*texts)) as here:
        turn = await here.service.start_chat("Count")
        with await here.service.open(turn.turn_id, 0) as stalled:
            await anext(stalled)
            others = await asyncio.gather(*(follow(here.service, turn.turn_id) for _ in range(5)))
            assert {text_of(events) for events in others} == {"".join(texts)}
            assert here.service.counters.streams_active == 1
            late = [record.event async for records in stalled for record in records]
            assert text_of(late) in "".join(texts)
            assert late[-1] == others[0][-1]
            assert stalled.complete


async def test_heartbeats_in_silence(serve: Serve) -> None:
    """A reader of a silent turn gets empty batches, and the next event at once."""
    play = Stepwise()
    async with serve(play, heartbeat_s=0.05) as here:
        turn = await here.service.start_chat("Hi")
        with await here.service.open(turn.turn_id, 1) as reader:
            assert [await anext(reader) for _ in range(3)] == [[], [], []]
            play.say("a")
            records = await until_some(reader)
            assert [record.event.text for record in records if isinstance(record.event, Chunk)] == ["a"]
            play.end()


async def until_some(reader: Reader) -> list[Any]:
    async for records in reader:
        if records:
            return records
    raise AssertionError("the log ended")


async def test_a_long_poll(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here:
        turn = await here.service.start_chat("Hi")
        with await here.service.open(turn.turn_id, 1) as reader:
            assert await reader.wait(0.01) == []
            waiting = asyncio.create_task(reader.wait(50))
            play.say("a")
            assert len(await waiting) == 1
            play.end()
            await until(lambda: ended(here.service, turn.turn_id))
            assert [record.type for record in await reader.wait(50)] == ["turn_completed"]
            assert await reader.wait(50) == []
