"""Sessions and their messages over each transport: lists, counts, statuses, clearing and deleting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing

import httpx
import msgspec
import pytest

from shared.client.protocol import Ask, ChatClient, collect, collect_picture
from shared.errors import ChatError
from shared.events import AnyEvent, Event, TurnCompleted, TurnStarted
from shared.session import Session, SessionPage
from tests.conftest import WORDS, Connect, MakeServers, Servers, until


@pytest.fixture(scope="module")
def few(make_servers: MakeServers) -> Servers:
    """Servers that only this module uses, whose sessions are soon no longer active."""
    return make_servers(SESSION_ACTIVE_S="2")


async def log(client: ChatClient, turn_id: str) -> list[AnyEvent]:
    events: list[AnyEvent] = []
    async with aclosing(client.read(turn_id, 0)) as items:
        async for item in items:
            assert isinstance(item, Event)
            events.append(item)
    return events


async def pages(client: ChatClient, limit: int) -> list[SessionPage]:
    found: list[SessionPage] = []
    cursor: str | None = None
    while not found or cursor is not None:
        found.append(await client.list_sessions(limit, cursor))
        cursor = found[-1].next_cursor
    return found


async def code_of(work: Awaitable[object]) -> str:
    with pytest.raises(ChatError) as refused:
        await work
    return refused.value.code


async def test_pages(few: Servers, client: Connect) -> None:
    """Newest first, each once, the same over every transport. New sessions do not shift the pages."""
    clients = {word: await client(word, on=few) for word in WORDS}
    made = [(await clients[word].create_session()).session_id for _ in range(2) for word in WORDS]
    (page,) = await pages(clients["rest"], 200)
    everything = page.sessions
    ids = [session.session_id for session in everything]
    assert ids[: len(made)] == made[::-1]
    assert everything == sorted(everything, key=lambda one: (one.created_at, one.session_id), reverse=True)
    for here in clients.values():
        for limit in (1, 3, len(ids), len(ids) + 1):
            found = await pages(here, limit)
            assert [one.session_id for page in found for one in page.sessions] == ids
            assert [len(page.sessions) for page in found[:-1]] == [limit] * (len(found) - 1)
        first = await here.list_sessions(3)
        assert msgspec.structs.replace(first.sessions[0], connections=0) == everything[0]
        newer = (await here.create_session()).session_id
        second = await here.list_sessions(3, first.next_cursor)
        assert [one.session_id for one in second.sessions] == ids[3:6]
        ids.insert(0, newer)
        everything.insert(0, await here.get_session(newer))
        everything[0] = msgspec.structs.replace(everything[0], connections=0)
        assert len((await here.list_sessions()).sessions) == len(ids)


async def test_limits_of_pages(word: str, servers: Servers, client: Connect) -> None:
    here = await client(word)
    for limit in (0, -1, 201, 2**31 - 1):
        assert await code_of(here.list_sessions(limit)) == "invalid_request"
    for cursor in ("x", "nan_x", "1_2", "💬"):
        assert await code_of(here.list_sessions(5, cursor)) == "invalid_request"
    assert len((await here.list_sessions(200)).sessions) <= 200


async def test_active_sessions(few: Servers, client: Connect) -> None:
    """A session that was used within SESSION_ACTIVE_S is active.

    Making it and asking in it is use, looking at it is not.
    """
    clients = [await client(word, on=few) for word in WORDS]
    here = clients[0]

    async def active() -> int:
        return (await here.list_sessions(1)).active_sessions

    old = (await here.create_session()).session_id
    assert await active() > 0
    await until(lambda: no_more(here))
    await here.get_session(old)
    await here.list_messages(old)
    assert await active() == 0
    await collect(here.chat("Hello", session_id=old))
    assert await active() == 1
    assert {(await one.list_sessions(1)).active_sessions for one in clients} <= {0, 1}
    assert (await here.stats()).sessions_active <= 1


async def no_more(client: ChatClient) -> bool:
    return (await client.list_sessions(1)).active_sessions == 0


async def test_a_session_is_the_same_everywhere(word: str, client: Connect) -> None:
    made = await (await client(word)).create_session("offline-1")
    assert (made.model, made.message_count, made.running_turn_id, made.last_turn_id) == ("offline-1", 0, None, None)
    assert made.created_at == made.last_activity_at
    for other in WORDS:
        there = await (await client(other)).get_session(made.session_id)
        assert msgspec.structs.replace(there, connections=0) == msgspec.structs.replace(made, connections=0)


async def test_the_fields_of_a_session(servers: Servers) -> None:
    async with httpx.AsyncClient(base_url=f"http://{servers['rest'].address}", trust_env=False, verify=False) as http:
        made = (await http.post("/sessions")).json()
        assert set(made) >= {
            *("session_id", "model", "message_count", "user_messages", "model_messages", "created_at"),
            *("last_activity_at", "running_turn_id", "last_turn_id", "connections"),
        }
        await http.post("/chat", json={"message": "Hello", "session_id": made["session_id"]})
        messages = (await http.get(f"/sessions/{made['session_id']}/messages")).json()
        assert list(messages) == ["messages", "next_cursor"]
        names = ["message_id", "turn_id", "role", "text", "status", "image_id", "created_at"]
        assert [list(message) for message in messages["messages"]] == [names, names]
        page = (await http.get("/sessions", params={"limit": 1})).json()
        assert list(page) == ["sessions", "next_cursor", "active_sessions"]


async def test_counts(word: str, client: Connect) -> None:
    """A session counts the messages of the user and of the model, and names the running turn and the last turn."""
    here = await client(word)
    session_id = (await here.create_session()).session_id
    counts: list[tuple[int, int, int]] = []

    async def look() -> Session:
        session = await here.get_session(session_id)
        counts.append((session.message_count, session.user_messages, session.model_messages))
        return session

    await look()
    reply = await collect(here.chat("Hello", session_id=session_id))
    assert (await look()).last_turn_id == reply.turn_id
    picture = await collect_picture(here.image("A hill", size="32x32", session_id=session_id))
    assert (await look()).last_turn_id == picture.turn_id
    assert await code_of(collect(here.chat("/fail-first model_timeout x", session_id=session_id))) == "model_timeout"
    await look()
    assert await code_of(collect(here.chat("/fail model_timeout x", session_id=session_id))) == "model_timeout"
    await look()
    running = await here.start(Ask(text="/tokens 8 /stall 600 Count.", session_id=session_id))
    session = await look()
    assert session.running_turn_id == session.last_turn_id == running.turn_id
    await here.cancel(running.turn_id)
    assert (await look()).running_turn_id is None
    assert counts == [(0, 0, 0), (2, 1, 1), (4, 2, 2), (5, 3, 2), (7, 4, 3), (8, 5, 3), (9, 5, 4)]


async def test_messages_and_their_statuses(word: str, client: Connect) -> None:
    """Every turn has its question, and its answer if there is one.

    The status is that of the turn, also while it runs.
    """
    here = await client(word)
    session_id = (await here.create_session()).session_id
    assert await here.list_messages(session_id) == []
    first = await collect(here.chat("Hello", session_id=session_id))
    await code_of(collect(here.chat("/fail content_refused x", session_id=session_id)))
    picture = await collect_picture(here.image("A hill", size="32x32", session_id=session_id))
    running = await here.start(Ask(text="/tokens 8 /stall 600 Count.", session_id=session_id))
    told = [(m.role, m.status, m.image_id) for m in await here.list_messages(session_id)]
    assert told == [
        ("user", "completed", None),
        ("model", "completed", None),
        ("user", "failed", None),
        ("model", "failed", None),
        ("user", "completed", None),
        ("model", "completed", picture.image_id),
        ("user", "running", None),
    ]
    await until(lambda: half_said(here, running.turn_id))
    stopped = await here.cancel(running.turn_id)
    messages = await here.list_messages(session_id)
    assert [(m.role, m.status) for m in messages[6:]] == [("user", "cancelled"), ("model", "cancelled")]
    assert messages[-1].text == stopped.text != ""
    assert [m.text for m in messages[:2]] == ["Hello", first.text]
    assert [m.turn_id for m in messages[:2]] == [first.turn_id] * 2
    assert len({m.message_id for m in messages}) == len(messages)
    assert [m.created_at for m in messages] == sorted(m.created_at for m in messages)
    for other in WORDS:
        assert await (await client(other)).list_messages(session_id) == messages


async def half_said(client: ChatClient, turn_id: str) -> bool:
    return (await client.get_turn(turn_id)).last_seq == 5


async def test_which_model_answers(word: str, client: Connect) -> None:
    """The turn's model, else the session's, else the default.

    An unknown model of a session fails when a turn starts.
    """
    here = await client(word)
    session = await here.create_session("no-such-model")
    assert session.model == "no-such-model"
    assert await code_of(collect(here.chat("Hello", session_id=session.session_id))) == "model_not_found"
    reply = await collect(here.chat("Hello", session_id=session.session_id, model_id="offline-1"))
    assert reply.model == "offline-1"
    (model,) = await here.list_models()
    assert (model.model, model.default) == ("offline-1", True)


async def test_a_chat_without_a_session_makes_one(word: str, client: Connect) -> None:
    """The next chat makes another session, also on a held connection."""
    here = await client(word)
    first, second = await collect(here.chat("Hello")), await collect(here.chat("Hello"))
    assert first.session_id is not None
    assert first.session_id != second.session_id
    assert (await here.get_session(first.session_id)).message_count == 2


async def test_two_at_once_in_a_session_are_one(word: str, client: Connect) -> None:
    """Of many turns that start at once in one session, through all five, one runs and the others are refused."""
    here = await client(word)
    session_id = (await here.create_session()).session_id
    asks = [
        (await client(other)).start(Ask(text="/stall 600 Wait.", session_id=session_id))
        for other in WORDS
        for _ in (1, 2)
    ]
    outcomes = await asyncio.gather(*asks, return_exceptions=True)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(refusals) == len(outcomes) - 1
    assert all(isinstance(one, ChatError) and one.code == "turn_in_progress" for one in refusals), refusals
    running = (await here.get_session(session_id)).running_turn_id
    assert running is not None
    await here.cancel(running)


async def test_clear(word: str, client: Connect) -> None:
    """The messages are dropped, and the model's context with them. The session, its model and its turns' logs stay."""
    here = await client(word)
    session_id = (await here.create_session("offline-1")).session_id
    told = await collect(here.chat("My name is Ada.", session_id=session_id))
    before = await log(here, told.turn_id)
    await here.clear_session(session_id)
    session = await here.get_session(session_id)
    assert (session.message_count, session.last_turn_id, session.model) == (0, None, "offline-1")
    for other in WORDS:
        there = await client(other)
        assert await there.list_messages(session_id) == []
        assert await log(there, told.turn_id) == before
    asked = await collect(here.chat("What is my name?", session_id=session_id))
    assert "You have not told me your name yet." in asked.text
    start, *_, end = await log(here, asked.turn_id)
    assert isinstance(start, TurnStarted)
    assert isinstance(end, TurnCompleted)
    assert (start.context_messages, end.message_count) == (0, 2)
    await here.clear_session(session_id)
    await here.clear_session(session_id)


async def test_delete(word: str, client: Connect) -> None:
    """The session is deleted with its messages, its turns and its pictures, on every transport."""
    here = await client(word)
    reply = await collect(here.chat("Hello"))
    session_id = reply.session_id
    assert session_id is not None
    picture = await collect_picture(here.image("A hill", size="32x32", session_id=session_id))
    await here.delete_session(session_id)
    for other in WORDS:
        there = await client(other)
        works: list[Awaitable[object]] = [
            there.get_session(session_id),
            there.list_messages(session_id),
            there.clear_session(session_id),
            there.delete_session(session_id),
            collect(there.chat("Hello?", session_id=session_id)),
        ]
        for work in works:
            assert await code_of(work) == "session_not_found"
        for turn_id in (reply.turn_id, picture.turn_id):
            works = [there.get_turn(turn_id), there.cancel(turn_id), log(there, turn_id)]
            for work in works:
                assert await code_of(work) == "turn_not_found"
        assert await code_of(there.get_image(picture.image_id)) == "image_not_found"


async def test_neither_while_a_turn_runs(word: str, client: Connect) -> None:
    """While a turn runs, in any process, both requests are refused. After its end both succeed."""
    here = await client(word)
    session_id = (await here.create_session()).session_id
    running = await here.start(Ask(text="/stall 600 Wait.", session_id=session_id))
    for other in WORDS:
        there = await client(other)
        for work in (there.clear_session(session_id), there.delete_session(session_id)):
            assert await code_of(work) == "turn_in_progress"
    await here.cancel(running.turn_id)
    await here.clear_session(session_id)
    await here.delete_session(session_id)
