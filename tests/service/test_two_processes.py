"""Two services on one store, as two servers are."""

from __future__ import annotations

import asyncio
from typing import Any

from shared.events import (
    TurnStarted,
)
from shared.session import SessionUpdate, TurnBegan
from tests.conftest import until
from tests.service.scripted import (
    Serve,
    Stepwise,
    follow,
    refused,
    reply,
    saying,
    seq_is,
    silent,
)


async def test_another_process_reads_cancels_and_goes_on(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here, serve(saying("Over there.")) as there:
        turn = await here.service.start_chat("Hi")
        assert turn.session_id is not None
        play.say("a", "b")
        reading = [asyncio.create_task(follow(there.service, turn.turn_id, after)) for after in (0, 1, 1)]
        await until(lambda: seq_is(there.service, turn.turn_id, 3))
        assert (await there.service.get_turn(turn.turn_id)).text == "ab"
        assert await refused(there.service.start_chat("Me too", session_id=turn.session_id)) == "turn_in_progress"
        play.say("c")
        await until(lambda: seq_is(there.service, turn.turn_id, 4))
        stopped = await there.service.cancel_turn(turn.turn_id)
        assert (stopped.status, stopped.text) == ("cancelled", "abc")
        whole = await follow(here.service, turn.turn_id)
        for after, task in zip((0, 1, 1), reading, strict=True):
            assert await task == whole[after:]
        events = await reply(there.service, "Go on", session_id=turn.session_id)
        assert isinstance(events[0], TurnStarted)
        assert events[0].context_messages == 2


async def test_what_members_of_a_session_are_told(serve: Serve) -> None:
    """Turns and messages reach the members in every process, typing reaches those in this process.

    No member is told twice.
    """
    async with serve(saying("x")) as here, serve(silent) as there:
        session = await here.service.create_session()
        me, you = [await here.service.join(session.session_id) for _ in range(2)]
        they = await there.service.join(session.session_id)
        assert (await here.service.get_session(session.session_id)).connections == 2
        told: dict[str, list[SessionUpdate | TurnBegan]] = {"me": [], "you": [], "they": []}

        async def listen(name: str, member: Any) -> None:
            async for item in member:
                told[name].append(item)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(listen(*one)) for one in (("me", me), ("you", you), ("they", they))]
            await here.service.typing(me, True)
            turn = await here.service.start_chat("Hi", session_id=session.session_id, origin=me)
            await follow(here.service, turn.turn_id)
            await here.service.clear_session(session.session_id, origin=me)
            await until(lambda: any(getattr(item, "update_type", "") == "session_cleared" for item in told["they"]))
            for task in tasks:
                task.cancel()
        for member in (me, you):
            here.service.leave(member)
        began = TurnBegan(session.session_id, turn.turn_id)
        added = [
            SessionUpdate(session_id=session.session_id, update_type="message_added", message_count=n) for n in (1, 2)
        ]
        cleared = SessionUpdate(session_id=session.session_id, update_type="session_cleared")
        typing = SessionUpdate(session_id=session.session_id, update_type="user_typing", typing=True)
        assert told["me"] == [began]
        assert told["you"] == [typing, began, *added, cleared]
        assert told["they"] == [began, *added, cleared]
        assert (await here.service.get_session(session.session_id)).connections == 0
