"""``Chat``, the conversation on one gRPC stream, and ``watch`` of this project's client."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from protocols.grpc import chat_pb2 as pb
from shared.client.protocol import ChatClient, collect, collect_picture
from shared.errors import ChatError, ConnectionLost
from shared.session import SessionUpdate
from tests.conftest import MakeServers, Servers, until
from tests.grpc_calls import Talk, anything_streams, calling, channel_to, talking


@pytest.fixture(scope="module")
def address(servers: Servers) -> str:
    return servers["grpc"].address


async def test_chat_two_turns_at_once_on_one_stream(address: str) -> None:
    async with talking(address) as talk:
        await talk.say(create_session=pb.CreateSessionRequest())
        session_id = (await talk.until("session_created")).session_id
        await talk.say(chat=pb.SendMessageRequest(message="/stall 0.3 /tokens 9 one", request_id="chat-two-a"))
        first = await talk.until("turn_started")
        assert first.turn_started.session_id == session_id
        assert first.turn_started.request_id == "chat-two-a"
        # A turn is running in the joined session, so the request is refused; the stream goes on.
        await talk.say(chat=pb.SendMessageRequest(message="two", request_id="chat-two-b"))
        refusal = await talk.until("error")
        assert (refusal.code, refusal.retryable, refusal.request_id) == ("turn_in_progress", True, "chat-two-b")
        await talk.say(image=pb.GenerateImageRequest(prompt="a hat", size="32x32"))
        completed = {(await talk.until("turn_completed")).turn_id for _ in range(2)}
        assert first.turn_id in completed
        for turn_id in completed:
            events = talk.events(turn_id)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert completed == {talk.heard[-1].event.turn_id, *completed}


async def test_chat_joined_streams_hear_of_each_other(address: str) -> None:
    async with talking(address) as ada, talking(address) as bob:
        await ada.say(create_session=pb.CreateSessionRequest())
        session_id = (await ada.until("session_created")).session_id
        await bob.say(join_session=pb.JoinSession(session_id=session_id))
        joined = await bob.until("session_joined")
        assert (joined.session_id, joined.message_count) == (session_id, 0)
        assert not joined.HasField("running_turn_id")
        await ada.say(typing_start=pb.TypingStart())
        update = await bob.until("session_update")
        assert (update.update_type, update.typing) == ("user_typing", True)
        await ada.say(typing_stop=pb.TypingStop())
        update = await bob.until("session_update")
        assert (update.update_type, update.typing) == ("user_typing", False)
        await ada.say(chat=pb.SendMessageRequest(message="/tokens 5 hello"))
        turn_id = (await ada.until("turn_completed")).turn_id
        assert (await bob.until("turn_completed")).turn_id == turn_id
        assert ada.events(turn_id) == bob.events(turn_id)
        assert not any(it.HasField("session_update") and it.session_update.typing for it in ada.heard)


async def test_chat_resume_and_cancel(address: str) -> None:
    async with talking(address) as talk:
        await talk.say(chat=pb.SendMessageRequest(message="/stall 30 /tokens 20 hello"))
        turn_id = (await talk.until("turn_started")).turn_id
        await until_chunks(talk, turn_id, 10)
        await talk.say(resume=pb.ResumeTurnRequest(turn_id=turn_id, after=4))
        resumed = await talk.until("resumed")
        assert (resumed.turn_id, resumed.after, resumed.status) == (turn_id, 4, "running")
        again = (await talk.until("chunk")).seq
        assert again == 5
        await talk.say(cancel=pb.CancelTurnRequest(turn_id=turn_id))
        cancelled = await talk.until("turn_cancelled")
        assert cancelled.turn_id == turn_id
        state = await talk.until("resumed")
        assert (state.status, state.after) == ("cancelled", state.last_seq)
        await talk.say(resume=pb.ResumeTurnRequest(turn_id=turn_id, after=state.last_seq))
        assert (await talk.until("resumed")).last_seq == state.last_seq
        await talk.say(ping=pb.Ping())
        await talk.until("pong")
        assert talk.heard[-2].HasField("resumed"), "after the end of a log only resumed is said"


async def until_chunks(talk: Talk, turn_id: str, count: int) -> None:
    while len(talk.events(turn_id)) < count + 1:
        await talk.until("chunk")


async def test_chat_errors_keep_the_stream_alive(address: str) -> None:
    async with channel_to(address) as channel:
        call: Any = channel.stream_stream(
            "/chat.ChatService/Chat",
            request_serializer=lambda it: it if isinstance(it, bytes) else it.SerializeToString(),
            response_deserializer=pb.ChatResponse.FromString,
        )()
        talk = Talk(call)
        await talk.until("connected")
        for said, code in (
            (b"\xff\xff\xff", "invalid_request"),
            (pb.ChatRequest(), "invalid_request"),
            # A field that this server does not know: from a newer client.
            (b"\xfa\x3f\x02hi", "invalid_request"),
            (pb.ChatRequest(chat=pb.SendMessageRequest()), "invalid_request"),
            (pb.ChatRequest(chat=pb.SendMessageRequest(message="x", session_id="no")), "session_not_found"),
            (pb.ChatRequest(join_session=pb.JoinSession(session_id="no")), "session_not_found"),
            (pb.ChatRequest(resume=pb.ResumeTurnRequest(turn_id="no")), "turn_not_found"),
            (pb.ChatRequest(cancel=pb.CancelTurnRequest(turn_id="no")), "turn_not_found"),
            (pb.ChatRequest(typing_start=pb.TypingStart()), "invalid_request"),
            (pb.ChatRequest(image=pb.GenerateImageRequest(prompt="x", size="huge")), "invalid_request"),
        ):
            await call.write(said)
            assert (await talk.until("error")).code == code, said
        await talk.say(chat=pb.SendMessageRequest(message="/fail content_refused hello"))
        assert (await talk.until("turn_failed")).turn_failed.code == "content_refused"
        await talk.say(ping=pb.Ping())
        await talk.until("pong")
        await call.write(b"\x0a" + b"\x80\x80\x80\x05" + b"a" * 9_000_000)
        assert (await talk.end())[:2] == ("RESOURCE_EXHAUSTED", "payload_too_large")


async def test_chat_after_the_client_s_last_word_answers_to_the_end(address: str) -> None:
    async with calling(address) as stub:
        said = (
            pb.ChatRequest(chat=pb.SendMessageRequest(message="/stall 0.2 /tokens 8 hello")),
            pb.ChatRequest(image=pb.GenerateImageRequest(prompt="a hat", size="32x32")),
        )
        call = stub.Chat(iter(said))
        bodies = Counter([it.event.WhichOneof("body") or it.WhichOneof("body") async for it in call])
        assert (bodies["turn_started"], bodies["turn_completed"], bodies["chunk"]) == (2, 2, 8)
        assert await call.code() is grpc.StatusCode.OK


async def test_watch_shows_what_others_do_and_not_what_we_do(servers: Servers) -> None:
    async with servers["grpc"].client() as ours, servers["grpc"].client() as theirs:
        session_id = (await ours.create_session()).session_id
        seen: list[Any] = []

        async def watching() -> None:
            async for item in ours.watch(session_id):
                seen.append(item)

        watch = asyncio.create_task(watching())
        await until(lambda: joined(ours, session_id))
        await ours.typing(session_id, True)
        await theirs.typing(session_id, True)
        await theirs.typing(session_id, False)
        mine = await collect(ours.chat("/tokens 4 mine", session_id=session_id))
        other = await collect(theirs.chat("/tokens 4 theirs", session_id=session_id))
        await until(lambda: any(getattr(it, "seq", 0) == 6 for it in seen))
        events = [it for it in seen if not isinstance(it, SessionUpdate)]
        assert {event.turn_id for event in events} == {other.turn_id} != {mine.turn_id}
        assert [event.seq for event in events] == list(range(1, 7))
        hints = [it.typing for it in seen if isinstance(it, SessionUpdate) and it.update_type == "user_typing"]
        assert hints == [True, False]
        await ours.cut()
        with pytest.raises(ConnectionLost):
            await watch
        with pytest.raises(ChatError, match="session_not_found"):
            await theirs.typing("no", True)


async def joined(client: ChatClient, session_id: str) -> bool:
    return (await client.get_session(session_id)).connections == 1


async def test_a_chat_stream_that_takes_nothing_is_cut(make_servers: MakeServers) -> None:
    servers = make_servers(STALL_TIMEOUT_S="1")
    fixed = ("grpc.http2.bdp_probe", 0)
    async with servers["grpc"].client() as client, calling(servers["grpc"].address, fixed) as stub:
        picture = await collect_picture(client.image("a wall", size="1600x1600"))
        talk = Talk(stub.Chat())
        await talk.until("connected")
        await talk.say(resume=pb.ResumeTurnRequest(turn_id=picture.turn_id))
        await until(lambda: anything_streams(client, 1))
        await until(lambda: anything_streams(client, 0))
        assert (await client.stats()).connections_active == 0
        status, code, words = await talk.end()
        assert (status, code) == ("UNAVAILABLE", None)
        assert "read nothing for 1 s" in words
