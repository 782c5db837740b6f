"""A reader's line gets new events in one pass. What the line has no room for, the reader's task gets, in order and once."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from tests.conftest import until
from tests.service.scripted import Room, Serve, Stepwise, seq_is, silent


async def test_what_a_line_has_no_room_for_is_read_in_order_and_once(serve: Serve) -> None:
    play, rooms = Stepwise(), (0, 1, 7, 1000)
    async with serve(play) as here:
        turn = await here.service.start_chat("Hi")
        lines = [Room(room) for room in rooms]
        batches: list[list[int]] = [[] for _ in rooms]

        async def read(nth: int) -> None:
            with await here.service.open(turn.turn_id, 0) as reader:
                reader.line = lines[nth]
                async for records in reader:
                    seqs = [record.seq for record in records]
                    # Whatever the line has sent stands before these events.
                    batches[nth].append(len(lines[nth].sent))
                    lines[nth].sent += seqs

        reading = [asyncio.create_task(read(nth)) for nth in range(len(rooms))]
        for seq in range(2, 12):
            play.say(f"{seq} ")
            await until(partial(seq_is, here.service, turn.turn_id, seq))
        lines[0].room = 5
        play.say("more ")
        await until(partial(seq_is, here.service, turn.turn_id, 12))
        play.end()
        await asyncio.gather(*reading)
    assert [line.sent for line in lines] == [list(range(1, 14))] * len(rooms)
    # With room for all, the task gets the first event and the terminal one.
    assert batches[-1] == [0, 12]
    assert len(batches[1]) > 2


async def test_an_event_on_the_line_puts_off_the_heartbeat(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play, heartbeat_s=3600) as here:
        turn = await here.service.start_chat("Hi")
        with await here.service.open(turn.turn_id, 1) as reader:
            reader.line = Room(1)
            beat = asyncio.create_task(anext(reader))
            await asyncio.sleep(0)
            waiting_since = time.monotonic()
            play.say("one ")
            await until(partial(seq_is, here.service, turn.turn_id, 2))
            turn_log = here.service._turn_logs.get(turn.turn_id)
            assert turn_log is not None
            turn_log.tick(waiting_since + 3600)
            await asyncio.sleep(0)
            assert not beat.done()
            turn_log.tick(time.monotonic() + 3600)
            assert await beat == []


async def test_a_cut_ends_a_reader_whose_line_has_room(serve: Serve) -> None:
    async with serve(silent) as here:
        turn = await here.service.start_chat("Hi")
        with await here.service.open(turn.turn_id, 1) as reader:
            reader.line = Room(1)
            rest = asyncio.create_task(_all(reader))
            await asyncio.sleep(0)
            here.service.cut_turn(turn.turn_id)
            assert await rest == []
            assert reader.was_cut


async def _all(reader: object) -> list[object]:
    return [records async for records in reader]  # type: ignore[attr-defined]
