"""gRPC on the wire: with clients that are not ours, and where the protocol has ways of its own (statuses, flow control)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from compare.relay import Relay
from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.grpc import image_generation_pb2, image_generation_pb2_grpc
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from protocols.grpc.status import from_details, to_status
from protocols.processes import serving
from shared.client.protocol import Ask, ChatClient, Lost, Resumed, ServerAbsent, collect, collect_picture
from shared.errors import ERRORS, ChatError, ConnectionLost, ErrorCode
from shared.events import Chunk, TurnCancelled, TurnInterrupted, TurnStarted
from shared.reply import text_sha256
from shared.session import SessionUpdate
from tests.conftest import FAST, MakeServers, Servers, until

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "protocols" / "grpc"
CHAT = pb.DESCRIPTOR.services_by_name["ChatService"]
KEY = "a key for the tests"
ConnectTo = Callable[..., Awaitable[ChatClient]]

# The client of the article, with nothing changed but where the server is.
ARTICLE = """
import grpc
import image_generation_pb2
import image_generation_pb2_grpc


def run():
    with grpc.insecure_channel("localhost:50051") as channel:
        stub = image_generation_pb2_grpc.ImageGenerationServiceStub(channel)
        request = image_generation_pb2.ImageRequest(
            prompt="A white siamese cat",
            size="1024x1024",
            api_key="your_api_key",
        )
        response = stub.GenerateImage(request)
        print("Image received:", response.image[:100])
        print(response.filename)


if __name__ == "__main__":
    run()
"""


@asynccontextmanager
async def channel_to(address: str, *options: tuple[str, int]) -> AsyncIterator[Any]:
    """A channel of its own, with the library's defaults. (The types of its stubs are stricter than the library.)"""
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


@asynccontextmanager
async def calling(address: str, *options: tuple[str, int]) -> AsyncIterator[Any]:
    """The generated stub of the chat on such a channel."""
    async with channel_to(address, *options) as channel:
        yield ChatServiceStub(channel)


async def status_of(call: Any) -> tuple[str, str | None, str]:
    """How a call ends: the status, the code in its details, and the message."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        rich = rpc_status.from_call(error)  # type: ignore[arg-type]
        info = ErrorInfo()
        found = rich is not None and any(detail.Unpack(info) for detail in rich.details)
        return error.code().name, info.reason.lower() if found else None, error.details() or ""
    return "OK", None, ""


class Talk:
    """A ``Chat`` stream: says messages, and waits for what the server says, in order."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.heard: list[pb.ChatResponse] = []

    async def say(self, **body: Any) -> None:
        await self.call.write(pb.ChatRequest(**body))

    async def until(self, name: str, timeout_s: float = 10.0) -> Any:
        """The next message that is, or whose event is, of this name."""
        async with asyncio.timeout(timeout_s):
            while (response := await self.call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                self.heard.append(response)
                which = response.WhichOneof("body")
                if which == name:
                    return getattr(response, name)
                if which == "event" and response.event.WhichOneof("body") == name:
                    return response.event
        raise AssertionError(f"the stream ended without {name}")

    async def end(self) -> tuple[str, str | None, str]:
        """How the call ends."""

        async def read_on() -> None:
            while (response := await self.call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                self.heard.append(response)

        return await status_of(read_on())

    def events(self, turn_id: str) -> list[pb.Event]:
        return [it.event for it in self.heard if it.WhichOneof("body") == "event" and it.event.turn_id == turn_id]


@asynccontextmanager
async def talking(address: str) -> AsyncIterator[Talk]:
    async with calling(address) as stub:
        call = stub.Chat()
        talk = Talk(call)
        first = await talk.until("connected")
        assert first.connection_id
        assert first.server_info.framework == f"grpcio {grpc.__version__}"
        yield talk
        call.cancel()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[ChatClient]]]:
    """``await connect(address, …)``: our client of any address; closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(address: str, **options: Any) -> ChatClient:
            return await stack.enter_async_context(TRANSPORTS["grpc"].client(address, **options))

        yield connect


@pytest.fixture(scope="module")
def keyed(make_servers: MakeServers) -> Servers:
    return make_servers(API_SECRET_KEY=KEY)


@pytest.fixture(scope="module")
def address(servers: Servers) -> str:
    return servers["grpc"].address


# -- the article's service


async def test_the_article_s_own_client_works_unchanged(address: str, tmp_path: Path) -> None:
    tool = (sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--python_out={tmp_path}")
    await run(*tool, f"--grpc_python_out={tmp_path}", "image_generation.proto")
    port = address.rpartition(":")[2]
    (tmp_path / "client.py").write_text(ARTICLE.replace("localhost:50051", f"localhost:{port}"))
    first, filename = (await run(sys.executable, "client.py", cwd=tmp_path)).splitlines()
    head = first.removeprefix("Image received: ")
    assert len(head) == 100
    assert base64.b64decode(head).startswith(b"\x89PNG\r\n\x1a\n")
    assert re.fullmatch(r"[0-9a-f-]{36}\.png", filename)


async def test_the_article_s_image_is_the_one_that_the_chat_draws(address: str) -> None:
    async with channel_to(address) as channel:
        stub: Any = image_generation_pb2_grpc.ImageGenerationServiceStub(channel)
        answer = await stub.GenerateImage(image_generation_pb2.ImageRequest(prompt="a boat", size="64x48", api_key="x"))
        data = base64.b64decode(answer.image)
        assert Image.open(BytesIO(data)).size == (64, 48)
        image_id = answer.filename.removesuffix(".png")
        pieces = [piece async for piece in ChatServiceStub(channel).GetImage(pb.GetImageRequest(image_id=image_id))]
    assert b"".join(piece.data for piece in pieces) == data
    assert (pieces[0].info.width, pieces[0].info.height, pieces[0].info.size_bytes) == (64, 48, len(data))
    assert not any(piece.HasField("info") for piece in pieces[1:])


@pytest.mark.parametrize(
    ("prompt", "size", "expected"),
    [
        ("", "", ("INVALID_ARGUMENT", "invalid_request", "Prompt is required")),
        ("a", "0x0", ("INVALID_ARGUMENT", "invalid_request", None)),
        ("a", "100000x100000", ("INVALID_ARGUMENT", "invalid_request", None)),
        ("a\0b", "", ("INVALID_ARGUMENT", "invalid_request", None)),
    ],
)
async def test_the_article_s_service_refuses(
    address: str, prompt: str, size: str, expected: tuple[str, str, str | None]
) -> None:
    async with channel_to(address) as channel:
        stub: Any = image_generation_pb2_grpc.ImageGenerationServiceStub(channel)
        found = await status_of(stub.GenerateImage(image_generation_pb2.ImageRequest(prompt=prompt, size=size)))
    assert found[:2] == expected[:2]
    assert expected[2] in (None, found[2])


async def test_a_picture_too_large_for_one_message_names_the_call_that_streams_it(address: str) -> None:
    async with channel_to(address) as channel:
        stub: Any = image_generation_pb2_grpc.ImageGenerationServiceStub(channel)
        request = image_generation_pb2.ImageRequest(prompt="a wall", size="2048x2048")
        status, code, words = await status_of(stub.GenerateImage(request))
        assert (status, code) == ("RESOURCE_EXHAUSTED", "payload_too_large")
        assert "chat.ChatService/GenerateImage" in words
        image_id = re.findall(r"[0-9a-f-]{36}", words)[0]
        pieces = [piece async for piece in ChatServiceStub(channel).GetImage(pb.GetImageRequest(image_id=image_id))]
    data = b"".join(piece.data for piece in pieces)
    assert len(data) * 4 / 3 > 4 * 1024 * 1024
    assert Image.open(BytesIO(data)).size == (2048, 2048)


# -- keys


async def test_every_rpc_of_the_chat_wants_the_key_in_the_metadata(keyed: Servers) -> None:
    address = keyed["grpc"].address
    async with channel_to(address) as channel:
        for method in CHAT.methods:
            path = f"/{CHAT.full_name}/{method.name}"
            for metadata in ((), (("x-api-key", "wrong"),), (("authorization", "Bearer wröng"),)):
                given = tuple((name, value.encode("ascii", "ignore").decode()) for name, value in metadata)
                call: Any
                if method.client_streaming:
                    call = channel.stream_stream(path)(metadata=given)
                else:
                    shape = channel.unary_stream if method.server_streaming else channel.unary_unary
                    call = shape(path)(b"", metadata=given)
                assert (await status_of(call))[:2] == ("UNAUTHENTICATED", "unauthenticated"), (method.name, metadata)
    request = pb.SendMessageRequest(message="/tokens 1 hello")
    async with calling(address) as stub:
        for right in (("authorization", f"Bearer {KEY}"), ("authorization", f"bearer {KEY}"), ("x-api-key", KEY)):
            assert (await status_of(stub.SendMessage(request, metadata=(right,))))[0] == "OK"
    async with keyed["grpc"].client(key=KEY) as client:
        assert (await collect(client.chat("/tokens 2 hello"))).status == "completed"
    async with keyed["grpc"].client() as client:
        with pytest.raises(ChatError, match="unauthenticated"):
            await collect(client.chat("hello"))
        assert (await client.health())["status"] == "ok"


@pytest.mark.parametrize("given", ["", "wrong", "ключ"])
async def test_the_article_s_key_is_checked_before_the_prompt(keyed: Servers, given: str) -> None:
    async with channel_to(keyed["grpc"].address) as channel:
        stub: Any = image_generation_pb2_grpc.ImageGenerationServiceStub(channel)
        for prompt in ("", "a cat"):
            request = image_generation_pb2.ImageRequest(prompt=prompt, api_key=given)
            found = await status_of(stub.GenerateImage(request))
            assert found == ("PERMISSION_DENIED", "permission_denied", "Invalid API key")
        request = image_generation_pb2.ImageRequest(prompt="a cat", size="16x16", api_key=KEY)
        assert (await stub.GenerateImage(request)).image


# -- errors


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
            expected = ("INVALID_ARGUMENT", "invalid_request", f"This is not a {method.input_type.full_name}.")
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
        # The log is over: after its end there is nothing to say, and nothing to fail.
        over = stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=events[0].turn_id, after=events[-1].seq))
        assert await status_of(over) == ("OK", None, "")


# -- many calls, one connection


async def test_twenty_turns_at_once_share_one_connection(servers: Servers, connect: ConnectTo) -> None:
    async with Relay(servers["grpc"].address) as relay:
        client = await connect(relay.address)
        replies = await asyncio.gather(*(collect(client.chat(f"/tokens 30 number {n}")) for n in range(20)))
        assert len(relay.connections) == 1
        assert client.counts.connections == 1
    assert len({reply.turn_id for reply in replies}) == len({reply.session_id for reply in replies}) == 20
    assert all(reply.sha256 == text_sha256(reply.text) for reply in replies)


async def test_thousands_of_calls_at_once_wait_for_their_turn(address: str) -> None:
    """By itself the library refuses by chance what comes when 1,000 calls wait already."""
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
            down = b"".join(piece.data for piece in relay.captured if piece.way == "down")
            sizes[gzip] = (relay.up_bytes, relay.down_bytes)
            assert (b"no play makes Jack" in down) is not gzip
            # RFC 1952: the header of a gzip member.
            assert (b"\x1f\x8b\x08" in down) is gzip
    # turn_started says the message back, so both ways carry it.
    assert min(sizes[False]) > len(message)
    assert max(sizes[True]) < len(message) / 20


async def test_a_cut_of_ours_and_one_of_the_line_are_both_resumed(servers: Servers, connect: ConnectTo) -> None:
    async with Relay(servers["grpc"].address) as relay:
        client = await connect(relay.address)
        items = []
        # Both fall into the silence in the middle: what comes after it cannot have arrived before.
        async for item in client.chat("/tokens 40 /stall 1 hello"):
            items.append(item)
            if isinstance(item, Chunk) and item.seq == 5:
                await client.cut()
            elif isinstance(item, Chunk) and item.seq == 12:
                assert relay.cut() >= 1
    kinds = Counter(type(item).__name__ for item in items)
    assert kinds["Lost"] == kinds["Resumed"] == 2
    assert [item.seq for item in items if not isinstance(item, Lost | Resumed)] == list(range(1, 43))  # type: ignore[union-attr]


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
        # Everything that it had taken counts: it goes on from its cursor.
        cursor = pb.ResumeTurnRequest(turn_id=picture.turn_id, after=taken[-1].seq)
        assert taken + [event async for event in stub.ResumeTurn(cursor)] == again


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
        assert "took nothing for 1 s" in words


async def anything_streams(client: ChatClient, count: int) -> bool:
    return (await client.stats()).streams_active == count


# -- Chat


async def test_chat_two_turns_at_once_on_one_stream(address: str) -> None:
    async with talking(address) as talk:
        await talk.say(create_session=pb.CreateSessionRequest())
        session_id = (await talk.until("session_created")).session_id
        await talk.say(chat=pb.SendMessageRequest(message="/stall 0.3 /tokens 9 one", request_id="chat-two-a"))
        first = await talk.until("turn_started")
        assert first.turn_started.session_id == session_id
        assert first.turn_started.request_id == "chat-two-a"
        # In the joined session one is running; the stream lives on.
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


# -- clients that are not ours


def buf(*arguments: str) -> list[str]:
    tool = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    if tool is None:
        pytest.skip("buf is not installed: pip install -r requirements-dev.txt")
    return [tool, "curl", "--http2-prior-knowledge", "--protocol", "grpc", *arguments]


async def test_reflection_and_health_with_buf(address: str) -> None:
    listed = (await run(*buf("--list-methods", f"http://{address}"))).split()
    assert {name for name in listed if name.startswith("chat.")} == {
        f"chat.ChatService/{it.name}" for it in CHAT.methods
    }
    assert "imagegeneration.ImageGenerationService/GenerateImage" in listed
    assert "grpc.health.v1.Health/Check" in listed
    answer = await run(*buf("-d", '{"service": "chat.ChatService"}', f"http://{address}/grpc.health.v1.Health/Check"))
    assert json.loads(answer) == {"status": "SERVING"}
    # The request's and the events' shapes come from the server alone.
    said = await run(*buf("-d", '{"message": "/tokens 2 hello"}', f"http://{address}/chat.ChatService/SendMessage"))
    kinds = re.findall(r'^  "(turnStarted|chunk|turnCompleted)"', said, re.MULTILINE)
    assert kinds == ["turnStarted", "chunk", "chunk", "turnCompleted"]


async def test_reflection_and_health_are_open_where_the_chat_wants_a_key(keyed: Servers) -> None:
    address = keyed["grpc"].address
    assert "chat.ChatService/Chat" in await run(*buf("--list-methods", f"http://{address}"))
    async with channel_to(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        unknown = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="no"))
        assert (await status_of(unknown))[0] == "NOT_FOUND"


@pytest.mark.timeout(240)
async def test_a_conversation_with_grpc_js(address: str) -> None:
    folder = Path(__file__).parent / "grpc_js"
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: they bring the JavaScript client")
    if not (folder / "node_modules" / "@grpc" / "grpc-js").is_dir():
        await run("npm", "install", "--no-audit", "--no-fund", "--silent", cwd=folder)
    seen = json.loads(await run("node", "client.mjs", address, str(PROTOS / "chat.proto"), cwd=folder))
    first, second = seen["first"], seen["second"]
    for turn in (first, second):
        assert turn["code"] == 0
        assert turn["metadata"] == turn["events"][0]["turn_id"]
        assert [event["seq"] for event in turn["events"]] == list(range(1, len(turn["events"]) + 1))
        text = "".join(event["chunk"]["text"] for event in turn["events"] if event["body"] == "chunk")
        assert turn["events"][-1]["turn_completed"]["sha256"] == text_sha256(text)
    assert "Ada" in "".join(event["chunk"]["text"] for event in second["events"] if event["body"] == "chunk")
    assert second["events"][0]["turn_started"]["context_messages"] == 2
    assert seen["resumed"]["events"] == second["events"][-2:]
    assert seen["failed"]["events"][-1]["turn_failed"]["code"] == "model_timeout"
    assert (seen["failed"]["code"], "MODEL_TIMEOUT" in seen["failed"]["details"]) == (4, True)
    assert (seen["refused"]["code"], seen["refused"]["events"]) == (5, [])
    assert [it["role"] for it in seen["messages"]] == ["user", "model", "user", "model", "user", "model"]
    assert seen["chat"][:4] == ["connected", "pong", "turn_started", "chunk"]
    assert "turn_completed" in seen["chat"]


# -- the end of a server


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
            # At once: the reader of a turn that goes on elsewhere is told to come back, and nothing new is begun.
            far_status = asyncio.create_task(status_of(far))
            async with asyncio.timeout(1):
                assert (await far_status)[:2] == ("UNAVAILABLE", "shutting_down")
            assert (await status_of(stub.SendMessage(pb.SendMessageRequest(message="new"))))[1] == "shutting_down"
            assert (await client.health())["status"] == "unavailable"
            # What can finish does, the rest is interrupted, and both are told before the line closes.
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
            reading = asyncio.create_task(take_all(client, turn.turn_id, items))
            await until(lambda: len(items) > 3)
            servers["grpc"].kill()
            async with serving("grpc", port=port, env=servers.env):
                await reading
    assert isinstance(items[-1].seq, int)
    assert [item.seq for item in items if not isinstance(item, Lost | Resumed)] == list(range(1, 23))
    assert [type(item) for item in items if isinstance(item, Lost | Resumed)] == [Lost, Resumed]


async def take_all(client: ChatClient, turn_id: str, items: list[Any]) -> None:
    async for item in client.read(turn_id):
        items.append(item)


async def run(*command: str, cwd: Path | None = None) -> str:
    """A program's output. Raises AssertionError with its own words when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)}: {err.decode()}"
    return out.decode()


def test_the_contract_names_every_request_once() -> None:
    """Each RPC has messages of its own, so that one can grow without the others."""
    counted = Counter(GetMessageClass(method.input_type).DESCRIPTOR.full_name for method in CHAT.methods)
    assert set(counted.values()) == {1}
