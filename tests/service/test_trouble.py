"""Trouble that must not reach a turn's readers: joining late, a cursor from elsewhere, a cancel while the server drains."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import ChatError
from shared.session import SessionUpdate, TurnBegan
from tests.conftest import until
from tests.service.scripted import Serve, Stepwise, follow, refused, reply, saying, seq_is, silent


async def test_joining_replays_nothing(serve: Serve) -> None:
    """A connection is not told of turns and of a clear that another process made before the connection joined."""
    async with serve(saying("x")) as there, serve(saying("y")) as here:
        session = await there.service.create_session()
        for number in range(3):
            await reply(there.service, f"old {number}", session_id=session.session_id)
        await there.service.clear_session(session.session_id)
        member = await here.service.join(session.session_id)
        told: list[SessionUpdate | TurnBegan] = []

        async def listen() -> None:
            async for item in member:
                told.append(item)

        listening = asyncio.create_task(listen())
        turn = await there.service.start_chat("new", session_id=session.session_id)
        await follow(there.service, turn.turn_id)
        await until(lambda: len(told) == 3)
        listening.cancel()
        here.service.leave(member)
        assert told[0] == TurnBegan(session.session_id, turn.turn_id)
        assert [item.message_count for item in told[1:] if isinstance(item, SessionUpdate)] == [1, 2]


async def test_a_cursor_beyond_a_running_turn_waits_for_the_log(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play, lease_s=5) as here:
        turn = await here.service.start_chat("Hi")
        opening = asyncio.create_task(here.service.open(turn.turn_id, 3))
        play.say("a", "b")
        assert (await opening).after == 3
        beyond = asyncio.create_task(refused(here.service.open(turn.turn_id, 9)))
        await until(lambda: seq_is(here.service, turn.turn_id, 3))
        play.end()
        assert await beyond == "cursor_lost"
        assert await refused(here.service.open(turn.turn_id, 9)) == "cursor_out_of_range"


async def test_a_cancel_that_a_draining_server_has_not_seen_done(serve: Serve) -> None:
    """The cancel counts, and its answer is ``shutting_down``.

    Sent again to another server, the cancel gets the usual answer.
    """
    async with serve(silent) as there, serve(silent) as here:
        turn = await there.service.start_chat("Hi")
        await follow_a_little(here, turn.turn_id)
        cancelling = asyncio.create_task(here.service.cancel_turn(turn.turn_id))
        await asyncio.sleep(0)
        draining = asyncio.create_task(here.service.drain(0))
        try:
            assert (await cancelling).status == "cancelled"
        except ChatError as error:
            assert error.code == "shutting_down"
        await draining
        assert (await there.service.cancel_turn(turn.turn_id)).status == "cancelled"


async def follow_a_little(here: object, turn_id: str) -> None:
    with await here.service.open(turn_id, 0) as reader:  # type: ignore[attr-defined]
        await anext(reader)


@pytest.mark.parametrize("refusing", [True, False])
async def test_health_tells_whether_a_new_turn_would_be_taken(
    serve: Serve, refusing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(saying("x")) as here:

        async def check_write() -> None:
            if refusing:
                raise ChatError("storage_unavailable")

        monkeypatch.setattr(here.store._store, "check_write", check_write)
        here.service._readiness._wrote_at = 0.0
        assert await here.service.ready() is not refusing


async def test_a_store_that_refuses_new_turns_alone_is_not_ready(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full store may have room for the small events of running turns."""

    async def refuse(*_: object) -> None:
        raise ChatError("storage_unavailable")

    play = Stepwise()
    async with serve(play) as here:
        turn = await here.service.start_chat("Hi")
        with monkeypatch.context() as full:
            full.setattr(here.store, "start_turn", refuse)
            full.setattr(here.store, "check_write", refuse, raising=False)
            assert await refused(here.service.start_chat("Hello")) == "storage_unavailable"
            play.say("a")
            await until(lambda: seq_is(here.service, turn.turn_id, 2))
            assert not await here.service.ready()
        assert await here.service.ready()
        play.end()
