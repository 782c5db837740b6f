"""gRPC on the wire, where the protocol has ways of its own: statuses, flow control, one connection for many calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status

from compare.lines.relay import Relay
from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from protocols.grpc.status import from_details, to_status
from protocols.processes import serving
from shared.client.protocol import Ask, ChatClient, Lost, Reconnected, collect, collect_picture
from shared.errors import ERRORS, ChatError, ConnectionLost, ErrorCode, ServerAbsent
from shared.events import Chunk, TurnCancelled, TurnInterrupted, TurnStarted
from shared.reply import text_sha256
from tests.conftest import FAST, MakeServers, Servers, until
from tests.grpc_calls import anything_streams, calling, channel_to, status_of, talking

CHAT = pb.DESCRIPTOR.services_by_name["ChatService"]
ConnectTo = Callable[..., Awaitable[ChatClient]]


@pytest.fixture(scope="module")
def address(servers: Servers) -> str:
    return servers["grpc"].address


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[ChatClient]]]:
    """``await connect(address, …)``: a client of any address; closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(address: str, **options: Any) -> ChatClient:
            return await stack.enter_async_context(TRANSPORTS["grpc"].client(address, **options))

        yield connect


@pytest.mark.parametrize("code", ERRORS)
def test_every_row_of_the_table_survives_the_trailers(code: ErrorCode) -> None:
    error = ChatError(code, "Our words: ünïcode,\nand a second line.")
    status = to_status(error)
    assert status.code.name == ERRORS[code].grpc
    assert status.details == error.message
    back = from_details(status.trailing_metadata, status.details)
    assert back is not None
    assert (back.code, back.message, back.retry_after_s) == (code, error.message, error.retry_after_s)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe"], ids=["tag", "length", "utf-8"])
async def test_malformed_protobuf_is_invalid_argument_in_our_words(address: str, data: bytes) -> None:
    async with channel_to(address) as channel:
        for method in CHAT.methods:
            path = f"/{CHAT.full_name}/{method.name}"
            fields = method.input_type.fields
            if method.client_streaming or not (fields and fields[0].type == fields[0].TYPE_STRING):
                continue
            shape = channel.unary_stream if method.server_streaming else channel.unary_unary
            found = await status_of(shape(path)(data))
            words = f"This is not a {method.input_type.full_name}; send a message that chat.proto describes."
            expected = ("INVALID_ARGUMENT", "invalid_request", words)
            assert found == expected, method.name


async def test_an_unknown_rpc_keeps_the_library_s_form(address: str) -> None:
    async with channel_to(address) as channel:
        assert (await status_of(channel.unary_unary("/chat.ChatService/Nothing")(b"")))[:2] == ("UNIMPLEMENTED", None)


@pytest.mark.parametrize(
    ("name", "request_", "status", "code"),
    [
        ("SendMessage", pb.SendMessageRequest(), "INVALID_ARGUMENT", "invalid_request"),
        ("SendMessage", pb.SendMessageRequest(message=" \n"), "INVALID_ARGUMENT", "invalid_request"),
        ("SendMessage", pb.SendMessageRequest(message="a\0b"), "INVALID_ARGUMENT", "invalid_request"),
        ("SendMessage", pb.SendMessageRequest(message="a", session_id=""), "NOT_FOUND", "session_not_found"),
        ("SendMessage", pb.SendMessageRequest(message="a", session_id="é" * 99), "NOT_FOUND", "session_not_found"),
        ("SendMessage", pb.SendMessageRequest(message="a", request_id=""), "INVALID_ARGUMENT", "invalid_request"),
        (
            "SendMessage",
            pb.SendMessageRequest(message="a", request_id="x" * 256),
            "INVALID_ARGUMENT",
            "invalid_request",
        ),
        ("SendMessage", pb.SendMessageRequest(message="a" * 1_000_001), "INVALID_ARGUMENT", "invalid_request"),
        ("SendMessage", pb.SendMessageRequest(message="a" * 9_000_000), "RESOURCE_EXHAUSTED", "payload_too_large"),
        ("GenerateImage", pb.GenerateImageRequest(prompt="a", size=""), "INVALID_ARGUMENT", "invalid_request"),
        ("GenerateImage", pb.GenerateImageRequest(prompt="a", size="0x0"), "INVALID_ARGUMENT", "invalid_request"),
        ("GenerateImage", pb.GenerateImageRequest(prompt="a", size="9" * 99), "INVALID_ARGUMENT", "invalid_request"),
        ("ResumeTurn", pb.ResumeTurnRequest(turn_id="no"), "NOT_FOUND", "turn_not_found"),
        ("ResumeTurn", pb.ResumeTurnRequest(turn_id="a\0b", after=-1), "NOT_FOUND", "turn_not_found"),
        ("GetImage", pb.GetImageRequest(image_id="../etc"), "NOT_FOUND", "image_not_found"),
        ("GetTurn", pb.GetTurnRequest(), "NOT_FOUND", "turn_not_found"),
        ("CancelTurn", pb.CancelTurnRequest(turn_id="no"), "NOT_FOUND", "turn_not_found"),
        ("GetSessionInfo", pb.GetSessionInfoRequest(session_id="no"), "NOT_FOUND", "session_not_found"),
        ("DeleteSession", pb.DeleteSessionRequest(session_id="no"), "NOT_FOUND", "session_not_found"),
        ("ListSessions", pb.ListSessionsRequest(limit=0), "INVALID_ARGUMENT", "invalid_request"),
        ("ListSessions", pb.ListSessionsRequest(limit=-(2**31)), "INVALID_ARGUMENT", "invalid_request"),
        ("ListSessions", pb.ListSessionsRequest(cursor="no"), "INVALID_ARGUMENT", "invalid_request"),
        ("CreateSession", pb.CreateSessionRequest(model_id=""), "INVALID_ARGUMENT", "invalid_request"),
        ("StartTurn", pb.StartTurnRequest(), "INVALID_ARGUMENT", "invalid_request"),
    ],
)
async def test_bad_input_is_refused_with_the_table_s_status_and_no_message(
    address: str, name: str, request_: Any, status: str, code: str
) -> None:
    async with channel_to(address, ("grpc.max_send_message_length", -1)) as channel:
        call = getattr(ChatServiceStub(channel), name)(request_)
        assert (await status_of(call))[:2] == (status, code)
        assert "turn_id" not in dict(await call.initial_metadata())


async def test_cursors_out_of_range_and_the_end_of_a_log(address: str) -> None:
    async with calling(address) as stub:
        call = stub.SendMessage(pb.SendMessageRequest(message="/tokens 3 hello"))
        events = [event async for event in call]
        turn_id = events[0].turn_id
        assert dict(await call.initial_metadata())["turn_id"] == turn_id
        assert [event.seq for event in events] == [1, 2, 3, 4, 5]

        def resume(after: int) -> Any:
            return stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=turn_id, after=after))

        assert (await status_of(resume(6)))[:2] == ("OUT_OF_RANGE", "cursor_out_of_range")
        assert (await status_of(resume(2**63 - 1)))[:2] == ("OUT_OF_RANGE", "cursor_out_of_range")
        assert (await status_of(resume(-(2**63))))[:2] == ("INVALID_ARGUMENT", "invalid_request")
        assert [event async for event in resume(3)] == events[3:]
        assert [event async for event in resume(5)] == []


async def test_long_messages_come_in_pages_that_a_default_channel_accepts(address: str) -> None:
    """The channel's limit is 4 MiB a message; four texts of a million characters are 2, 2, 2 and 4 MB."""
    async with calling(address) as stub:
        session_id = (await stub.CreateSession(pb.CreateSessionRequest())).session_id
        for letter in ("ä", "ö", "ü", "🔑"):
            message = "/tokens 1 " + letter * 999_900
            assert (await status_of(stub.SendMessage(pb.SendMessageRequest(message=message, session_id=session_id))))[
                0
            ] == "OK"
        request = pb.ListMessagesRequest(session_id=session_id)
        pages = [await stub.ListMessages(request)]
        while pages[-1].HasField("next_cursor"):
            request.cursor = pages[-1].next_cursor
            pages.append(await stub.ListMessages(request))
        messages = [message for page in pages for message in page.messages]
        assert [message.role for message in messages] == ["user", "model"] * 4
        assert [message.truncated for message in messages] == [False] * 6 + [True, False]
        assert max(page.ByteSize() for page in pages) < 4 * 1024 * 1024 - 1024
        turn = await stub.GetTurn(pb.GetTurnRequest(turn_id=messages[-1].turn_id))
        assert (turn.status, turn.truncated) == ("completed", False)


async def test_a_failed_turn_is_its_event_and_then_its_status(address: str) -> None:
    async with calling(address) as stub:
        call = stub.SendMessage(pb.SendMessageRequest(message="/fail model_rate_limited hello"))
        events: list[pb.Event] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in call:
                events.append(event)
        failed = events[-1].turn_failed
        assert (failed.code, failed.retryable) == ("model_rate_limited", True)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == failed.message
        info, retry = ErrorInfo(), RetryInfo()
        rich = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
        assert rich is not None
        assert rich.details[0].Unpack(info)
        assert (info.reason, info.domain) == ("MODEL_RATE_LIMITED", "genai-protocols")
        assert rich.details[1].Unpack(retry)
        assert retry.retry_delay.seconds == 5
        # The log has ended: after its last event the call gives no event and ends with OK.
        over = stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=events[0].turn_id, after=events[-1].seq))
        assert await status_of(over) == ("OK", None, "")


async def test_twenty_turns_at_once_share_one_connection(servers: Servers, connect: ConnectTo) -> None:
    async with Relay(servers["grpc"].address) as relay:
        client = await connect(relay.address)
        replies = await asyncio.gather(*(collect(client.chat(f"/tokens 30 number {n}")) for n in range(20)))
        assert len(relay.connections) == 1
        assert client.counts.connections == 1
    assert len({reply.turn_id for reply in replies}) == len({reply.session_id for reply in replies}) == 20
    assert all(reply.sha256 == text_sha256(reply.text) for reply in replies)


async def test_thousands_of_calls_at_once_wait_for_their_turn(address: str) -> None:
    """By default the library refuses calls by chance when 1,000 calls wait already."""
    async with calling(address) as stub:
        answers = await asyncio.gather(*(stub.ListModels(pb.ListModelsRequest()) for _ in range(3000)))
    assert all(answer.models for answer in answers)


async def test_gzip_only_where_the_client_asks(servers: Servers, connect: ConnectTo) -> None:
    message = "/tokens 1 " + "all work and no play makes Jack a dull boy " * 5000
    sizes = {}
    for gzip in (False, True):
        async with Relay(servers["grpc"].address, capture=True) as relay:
            client = await connect(relay.address, gzip=gzip)
            assert (await collect(client.chat(message))).status == "completed"
            down = b"".join(piece.data for piece in relay.captured if piece.direction == "down")
            sizes[gzip] = (relay.up_bytes, relay.down_bytes)
            assert (b"no play makes Jack" in down) is not gzip
            # RFC 1952: the header of a gzip member.
            assert (b"\x1f\x8b\x08" in down) is gzip
    # turn_started repeats the message, so both directions carry the message.
    assert min(sizes[False]) > len(message)
    assert max(sizes[True]) < len(message) / 20


async def test_a_cut_of_the_client_and_a_cut_of_the_line_are_both_resumed(servers: Servers, connect: ConnectTo) -> None:
    async with Relay(servers["grpc"].address) as relay:
        client = await connect(relay.address)
        items = []
        # Both cuts fall into the silence in the middle, because later events cannot have arrived before it.
        async for item in client.chat("/tokens 40 /stall 1 hello"):
            items.append(item)
            if isinstance(item, Chunk) and item.seq == 5:
                await client.cut()
            elif isinstance(item, Chunk) and item.seq == 12:
                assert relay.cut() >= 1
    kinds = Counter(type(item).__name__ for item in items)
    assert kinds["Lost"] == kinds["Reconnected"] == 2
    assert [item.seq for item in items if not isinstance(item, Lost | Reconnected)] == list(range(1, 43))  # type: ignore[union-attr]


async def test_a_cut_without_resuming_is_the_connection_lost(servers: Servers) -> None:
    async with servers["grpc"].client(resume=False) as client:
        with pytest.raises(ConnectionLost) as caught:
            async for item in client.chat("/stall 5 hello"):
                if isinstance(item, Chunk):
                    await client.cut()
        assert caught.value.after >= 2
        assert caught.value.turn_id is not None
        await client.cancel(caught.value.turn_id)


async def test_leaving_is_not_cancelling_whichever_way(servers: Servers) -> None:
    async with servers["grpc"].client() as client, calling(servers["grpc"].address) as stub:
        turns = []
        deadline = stub.SendMessage(pb.SendMessageRequest(message="/stall 3 a"), timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
            async for event in deadline:
                turns.append(event.turn_id)
        cancelled = stub.SendMessage(pb.SendMessageRequest(message="/stall 3 b"))
        async for event in cancelled:
            turns.append(event.turn_id)
            cancelled.cancel()
            break
        async for item in client.chat("/stall 3 c"):
            assert isinstance(item, TurnStarted)
            turns.append(item.turn_id)
            break
        assert len(set(turns)) == 3
        states = await asyncio.gather(*(client.get_turn(turn_id) for turn_id in set(turns)))
        assert [state.status for state in states] == ["running"] * 3
        replies = await asyncio.gather(*(collect(client.read(turn_id)) for turn_id in set(turns)))
        assert [reply.status for reply in replies] == ["completed"] * 3


async def test_nothing_answers_there() -> None:
    with pytest.raises(ServerAbsent):
        await TRANSPORTS["grpc"].client("127.0.0.1:1").connect()


async def test_a_reader_that_takes_nothing_is_cut_and_the_others_go_on(make_servers: MakeServers) -> None:
    servers = make_servers(STALL_TIMEOUT_S="1")
    # A window that stays as it is: the library would open it wide on a line as fast as this.
    fixed = ("grpc.http2.bdp_probe", 0)
    async with servers["grpc"].client() as client, calling(servers["grpc"].address, fixed) as stub:
        picture = await collect_picture(client.image("a wall", size="2048x2048"))
        stalled = stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=picture.turn_id, after=0))
        events = aiter(stalled)
        first = await anext(events)
        assert first.HasField("turn_started")
        # The window is full and the server's reader gone, while another call on the same connection is served.
        await until(lambda: anything_streams(client, 1))
        await until(lambda: anything_streams(client, 0))
        again = [event async for event in stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=picture.turn_id, after=0))]
        assert again[-1].HasField("turn_completed")
        taken = [first]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in events:
                taken.append(event)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert taken == again[: len(taken)]
        # The reader goes on from the cursor of the last message that it has read.
        cursor = pb.ResumeTurnRequest(turn_id=picture.turn_id, after=taken[-1].seq)
        assert taken + [event async for event in stub.ResumeTurn(cursor)] == again


async def test_a_second_server_on_the_port_says_so(address: str, tmp_path: Path) -> None:
    port = int(address.rpartition(":")[2])
    with pytest.raises(RuntimeError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*choose another --port"):
        async with serving("grpc", port=port, env={**FAST, "STORE_URL": f"sqlite:///{tmp_path / 'chat.db'}"}):
            pass


async def test_sigterm_drains(make_servers: MakeServers) -> None:
    servers = make_servers(DRAIN_S="1.5")
    servers.start("grpc", "ndjson")
    async with servers["grpc"].client() as client, servers["ndjson"].client() as elsewhere:
        async with calling(servers["grpc"].address) as stub, talking(servers["grpc"].address) as talk:
            remote = await elsewhere.start(Ask(text="/stall 6 from elsewhere"))
            short = asyncio.create_task(collect(client.chat("/stall 0.7 short")))
            long = stub.SendMessage(pb.SendMessageRequest(message="/stall 30 long"))
            reading = aiter(long)
            turn_id = (await anext(reading)).turn_id
            far = stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=remote.turn_id))
            await anext(aiter(far))
            await talk.say(chat=pb.SendMessageRequest(message="/stall 30 on the stream"))
            await talk.until("chunk")
            ending = asyncio.create_task(servers.signal("grpc", signal.SIGTERM))
            # At once the reader of a turn of another server is told to come back, and new turns are refused.
            far_status = asyncio.create_task(status_of(far))
            async with asyncio.timeout(1):
                assert (await far_status)[:2] == ("UNAVAILABLE", "shutting_down")
            assert (await status_of(stub.SendMessage(pb.SendMessageRequest(message="new"))))[1] == "shutting_down"
            assert (await client.health())["status"] == "unavailable"
            # A quick turn completes, a slow turn is interrupted, and both clients get the end before the connection
            # closes.
            assert (await short).status == "completed"
            last = [event async for event in reading][-1]
            assert last.HasField("turn_interrupted")
            assert await long.code() is grpc.StatusCode.OK
            await talk.until("turn_interrupted")
            assert (await talk.end())[:2] == ("UNAVAILABLE", "shutting_down")
            assert await ending == 0
        assert (await elsewhere.get_turn(turn_id)).status == "interrupted"
        assert (await elsewhere.get_turn(remote.turn_id)).status == "running"
        assert isinstance(await last_of(elsewhere, turn_id), TurnInterrupted)
        await elsewhere.cancel(remote.turn_id)
        assert isinstance(await last_of(elsewhere, remote.turn_id), TurnCancelled)


async def last_of(client: ChatClient, turn_id: str) -> Any:
    return [item async for item in client.read(turn_id)][-1]


@pytest.mark.parametrize("twice", [False, True], ids=["sigint", "a second signal"])
async def test_sigint_ends_within_two_seconds_with_open_streams(make_servers: MakeServers, twice: bool) -> None:
    servers = make_servers(DRAIN_S="30")
    address = servers["grpc"].address
    async with calling(address) as stub, talking(address) as talk:
        calls = [stub.SendMessage(pb.SendMessageRequest(message=f"/stall 30 {n}")) for n in range(5)]
        for call in calls:
            await call.initial_metadata()
        await talk.say(chat=pb.SendMessageRequest(message="/stall 30 hello"))
        await talk.until("chunk")
        if twice:
            os.kill(servers["grpc"].process.pid, signal.SIGTERM)
            await until(lambda: any(entry["event"] == "stopping" for entry in servers["grpc"].log))
        begun = time.monotonic()
        assert await servers.signal("grpc", signal.SIGTERM if twice else signal.SIGINT) == 0
        assert time.monotonic() - begun < 2
        for call in calls:
            assert [event async for event in call][-1].HasField("turn_interrupted")


async def test_a_reader_of_a_dead_server_goes_on_with_the_next_one(make_servers: MakeServers) -> None:
    servers = make_servers(LEASE_S="0.6")
    port = int(servers["grpc"].address.rpartition(":")[2])
    async with servers["grpc"].client() as client:
        items: list[Any] = []
        async with serving("ndjson", env=servers.env) as other, other.client() as elsewhere:
            turn = await elsewhere.start(Ask(text="/stall 2 /tokens 20 hello"))
            reading = asyncio.create_task(read_all(client, turn.turn_id, items))
            await until(lambda: len(items) > 3)
            servers["grpc"].kill()
            # The port for pages would be the next one, which may be taken.
            async with serving("grpc", port=port, env={**servers.env, "GRPC_WEB_PORT": "off"}):
                await reading
    assert isinstance(items[-1].seq, int)
    assert [item.seq for item in items if not isinstance(item, Lost | Reconnected)] == list(range(1, 23))
    assert [type(item) for item in items if isinstance(item, Lost | Reconnected)] == [Lost, Reconnected]


async def read_all(client: ChatClient, turn_id: str, items: list[Any]) -> None:
    async for item in client.read(turn_id):
        items.append(item)
