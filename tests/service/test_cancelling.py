"""Cancelling a turn, and turns that nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from shared.events import (
    TurnCancelled,
    TurnCompleted,
    Usage,
    event_type,
)
from shared.llm.model import ContextMessage, Delta
from shared.reply import text_sha256
from tests.conftest import until
from tests.service.scripted import (
    Scripted,
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


@pytest.mark.parametrize("said", [0, 1, 5])
async def test_cancel(serve: Serve, said: int) -> None:
    """A cancel before the first token, or in the middle: the model is closed before the answer to the cancel.

    The text stays.
    """
    play = Stepwise()
    model = Scripted(play)
    texts = [f"{n} " for n in range(said)]
    async with serve(model) as here:
        turn = await here.service.start_chat("Count")
        play.say(*texts)
        await until(lambda: seq_is(here.service, turn.turn_id, 1 + said))
        await until(lambda: model.opened)
        reading = asyncio.create_task(follow(here.service, turn.turn_id))
        stopped = await here.service.cancel_turn(turn.turn_id)
        assert model.closed == 1
        assert (stopped.status, stopped.text, stopped.last_seq) == ("cancelled", "".join(texts), said + 2)
        end = (await reading)[-1]
        assert isinstance(end, TurnCancelled)
        assert (end.chunks, end.sha256, end.usage) == (said, text_sha256("".join(texts)), Usage())
        assert await here.service.cancel_turn(turn.turn_id) == stopped
        assert turn.session_id is not None
        messages = (await here.service.list_messages(turn.session_id)).messages
        assert [message.status for message in messages] == ["cancelled"] * (1 + bool(said))


async def test_cancel_before_the_first_step(serve: Serve) -> None:
    model = Scripted(silent)
    async with serve(model) as here:
        turn = await here.service.start_chat("Hi")
        assert (await here.service.cancel_turn(turn.turn_id)).status == "cancelled"
        assert model.opened == model.closed


async def test_cancel_after_the_end_changes_nothing(serve: Serve) -> None:
    async with serve(saying("x")) as here:
        events = await reply(here.service, "Hi")
        assert (await here.service.cancel_turn(events[0].turn_id)).status == "completed"
        assert await follow(here.service, events[0].turn_id) == events
        assert await refused(here.service.cancel_turn("no such turn")) == "turn_not_found"


async def test_many_cancels_at_once_are_one(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here:
        turn = await here.service.start_chat("Count")
        play.say("a", "b")
        answers = await asyncio.gather(*(here.service.cancel_turn(turn.turn_id) for _ in range(20)))
        assert len(set(map(str, answers))) == 1
        events = await follow(here.service, turn.turn_id)
        assert [event_type(event) for event in events].count("turn_cancelled") == 1


async def test_cancel_races_with_the_end(serve: Serve) -> None:
    """The cancel or the end wins. The log has one terminal event and the text that the model said."""
    plays: list[Stepwise] = []

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        plays.append(Stepwise())
        plays[-1].say("a", "b")
        plays[-1].end()
        async for delta in plays[-1](history):
            await asyncio.sleep(0)
            yield delta

    # In memory, because a store on disk would answer the cancel when all is over.
    async with serve(play, store_url="sqlite://") as here:
        seen = set()
        for n in range(60):
            turn = await here.service.start_chat("Hi")
            for _ in range(n % 30):
                await asyncio.sleep(0)
            stopped = await here.service.cancel_turn(turn.turn_id)
            events = await follow(here.service, turn.turn_id)
            ends = [event for event in events if event_type(event).startswith("turn_c")]
            assert len(ends) == 1
            assert ends[0] is events[-1]
            assert isinstance(ends[0], TurnCompleted | TurnCancelled)
            assert ends[0].sha256 == text_sha256(text_of(events)) == text_sha256(stopped.text)
            seen.add(event_type(ends[0]))
        assert seen == {"turn_completed", "turn_cancelled"}


async def test_a_turn_that_nobody_reads_is_cancelled(serve: Serve) -> None:
    model = Scripted(silent)
    async with serve(model, disconnect_grace_s=0.2) as here:
        unread = await here.service.start_chat("Hi")
        detached = await here.service.start_chat("Hi", attended=False)
        left = await here.service.start_chat("Hi")
        with await here.service.open(left.turn_id, 0) as reader:
            await anext(reader)
        await until(lambda: ended(here.service, unread.turn_id))
        await until(lambda: ended(here.service, left.turn_id))
        assert (await here.service.get_turn(unread.turn_id)).status == "cancelled"
        assert (await here.service.get_turn(detached.turn_id)).status == "running"
        assert model.closed == 2


async def test_a_reader_keeps_its_turn_alive(serve: Serve) -> None:
    """A turn lives while it has a reader, also in another process. The grace period begins when the reader leaves."""
    play = Stepwise()
    async with serve(play, disconnect_grace_s=0.3) as here, serve(silent, disconnect_grace_s=0.3) as there:
        turn = await here.service.start_chat("Hi")
        other = await here.service.start_chat("Hi too")
        reading = asyncio.create_task(follow(here.service, turn.turn_id))
        remote = asyncio.create_task(follow(there.service, other.turn_id))
        unread = await here.service.start_chat("Nobody")
        await until(lambda: ended(here.service, unread.turn_id))
        last = await here.service.start_chat("Nobody either")
        await until(lambda: ended(here.service, last.turn_id))
        for one in (turn, other):
            assert (await here.service.get_turn(one.turn_id)).status == "running"
        reading.cancel()
        await until(lambda: ended(here.service, turn.turn_id))
        assert (await here.service.get_turn(other.turn_id)).status == "running"
        await here.service.cancel_turn(other.turn_id)
        assert event_type((await remote)[-1]) == "turn_cancelled"
