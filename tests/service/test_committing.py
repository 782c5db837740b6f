"""An event is committed before any reader sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from shared.events import (
    Chunk,
    TurnInterrupted,
    event_type,
)
from shared.llm.model import ContextMessage, Delta
from shared.reply import text_sha256
from shared.store.open import open_store
from tests.conftest import until
from tests.service.scripted import (
    Scripted,
    Serve,
    Stepwise,
    follow,
    last_seq,
    reply,
    saying,
    seq_is,
    text_of,
)


async def test_nothing_is_read_before_it_is_committed(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here:
        turn = await here.service.start_chat("Hi")
        with await here.service.open(turn.turn_id, 0) as reader:
            assert [record.type for record in await anext(reader)] == ["turn_started"]
            here.store.gate.clear()
            play.say("a", "b", "c")
            await until(lambda: play.steps.empty())
            waiting = asyncio.ensure_future(anext(reader))
            done, _ = await asyncio.wait((waiting,), timeout=0.1)
            assert not done
            assert await last_seq(here.service, turn.turn_id) == 1
            here.store.gate.set()
            texts = [record.event.text for record in await waiting if isinstance(record.event, Chunk)]
            assert "".join(texts) == "abc"[: len(texts)]
            stored = await here.store.read(turn.turn_id, 1)
            assert len(stored[1]) >= len(texts)
            play.end()


async def test_what_waits_is_committed_together(serve: Serve) -> None:
    """The events of all turns that arrive during one commit go into the next commit."""
    plays: dict[str, Stepwise] = {f"chat {n}": Stepwise() for n in range(8)}

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        async for delta in plays[history[-1].text](history):
            yield delta

    async with serve(play) as here:
        turns = [await here.service.start_chat(name) for name in plays]
        here.store.gate.clear()
        plays["chat 0"].say("first")
        await until(lambda: plays["chat 0"].steps.empty())
        for one in plays.values():
            one.say(*"twenty deltas of each")
        await until(lambda: all(one.steps.empty() for one in plays.values()))
        here.store.batches.clear()
        here.store.gate.set()
        await until(lambda: len(here.store.batches) > 1)
        for one in plays.values():
            one.end()
        for turn in turns:
            assert text_of(await follow(here.service, turn.turn_id)).endswith("twenty deltas of each")
        first, second, *others = here.store.batches
        assert len(first) == 1
        assert len(second) == len(plays)
        assert {len(entry.records) for entry in second} == {21}
        assert len(others) <= 2 * len(plays)


async def test_a_store_that_is_busy_for_a_moment_costs_nothing(serve: Serve) -> None:
    async with serve(saying("a", "b")) as here:
        here.store.failures = 5
        events = await reply(here.service, "Hi")
        assert (text_of(events), event_type(events[-1])) == ("ab", "turn_completed")


async def test_a_lost_lease_ends_the_turn_here(serve: Serve, tmp_path: Path) -> None:
    """Another process ended the turn: further events are refused, the model is closed, and the readers see the end."""
    play = Stepwise()
    model = Scripted(play)
    async with serve(model) as here:
        turn = await here.service.start_chat("Hi")
        play.say("kept")
        await until(lambda: seq_is(here.service, turn.turn_id, 2))
        reading = asyncio.create_task(follow(here.service, turn.turn_id))
        # The state is that of a process that was stopped for longer than its lease, whose turns another process has
        # ended.
        other = open_store(f"sqlite:///{tmp_path}/chat.db")
        await other.renew(here.service._owner, [], [], [turn.turn_id])
        await other.reap()
        await other.close()
        play.say("refused")
        events = await reading
        assert [event_type(event) for event in events] == ["turn_started", "chunk", "turn_interrupted"]
        assert isinstance(events[-1], TurnInterrupted)
        assert events[-1].sha256 == text_sha256("kept")
        await until(lambda: model.closed == 1)
        play.end()
        assert text_of(await reply(here.service, "Again")) == ""
