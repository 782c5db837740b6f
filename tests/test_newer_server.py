"""A server that is newer than the client: events of an unknown type count their seq and show nothing, on each wire that streams."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from websockets.asyncio.server import ServerConnection, serve

from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.grpc.convert import to_event_message
from shared.client.protocol import collect
from shared.errors import ConnectionLost
from shared.events import Chunk, Event, TurnCompleted, TurnStarted, Usage, from_json, to_json

TURN = "0b8f8a0e-0000-4000-8000-000000000000"
SHA256 = hashlib.sha256(b"Hello there").hexdigest()
# What the newer server adds: an event in the middle, one before the end, unknown fields, and a message that is no event.
NEWER: tuple[dict[str, Any], ...] = (
    {"type": "turn_started", "session_id": None, "kind": "chat", "input": "hi", "model": "m", "context_messages": 0,
     "request_id": None, "mood": "bright"},
    {"type": "chunk", "text": "Hello "},
    {"type": "citation", "source": {"title": "a page"}},
    {"type": "chunk", "text": "there"},
    {"type": "audio_chunk", "data": "AAAA"},
    {"type": "turn_completed", "finish_reason": "stop", "usage": {"input_tokens": 1, "output_tokens": 2}, "chunks": 2,
     "message_count": None, "elapsed_ms": 1.0, "sha256": SHA256},
)  # fmt: skip
LOG = [json.dumps({**event, "turn_id": TURN, "seq": seq, "at": 1.0}).encode() for seq, event in enumerate(NEWER, 1)]
SEQS = [1, 2, 4, 6]


@asynccontextmanager
async def http(content_type: str, body: bytes) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def websocket() -> AsyncIterator[str]:
    async def answer(connection: ServerConnection) -> None:
        server_info = {"provider": "p", "model": "m", "framework": "f"}
        await connection.send(json.dumps({"type": "connected", "connection_id": "c", "server_info": server_info}))
        asked = json.loads(await connection.recv())
        await connection.send('{"type": "advice", "text": "a message that is no event"}')
        for line in LOG:
            event = json.loads(line)
            if event["type"] == "turn_started":
                event["request_id"] = asked["request_id"]
            await connection.send(json.dumps(event))
        await connection.wait_closed()

    async with serve(answer, "127.0.0.1", 0, subprotocols=["genai.chat.v1"]) as server:  # type: ignore[list-item]
        yield f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def newer_messages() -> list[bytes]:
    """The log in protobuf; the unknown bodies have a field number that this client's schema does not have."""
    messages = [pb.Event(turn_id=TURN).SerializeToString()]
    for line in LOG:
        try:
            messages.append(to_event_message(from_json(line)).SerializeToString())
        except ValueError:
            event = json.loads(line)
            # Field 99, length-delimited, empty.
            messages.append(pb.Event(turn_id=TURN, seq=event["seq"], at=1.0).SerializeToString() + b"\x9a\x06\x00")
    return messages


@asynccontextmanager
async def grpc_server() -> AsyncIterator[str]:
    async def send_message(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for message in newer_messages():
            yield message

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(send_message)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("chat.ChatService", {"SendMessage": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


SERVERS = {
    "ndjson": lambda: http("application/x-ndjson", b"".join(line + b"\n" for line in LOG)),
    "sse": lambda: http("text/event-stream", b": hi\n\n" + b"".join(b"data: " + line + b"\n\n" for line in LOG)),
    "websocket": websocket,
    "grpc": grpc_server,
}


@pytest.mark.parametrize("word", SERVERS)
async def test_unknown_events_count_and_show_nothing(word: str) -> None:
    async with SERVERS[word]() as address, TRANSPORTS[word].client(address, resume=False) as client:
        items = [item async for item in client.chat("hi")]
    events = [item for item in items if isinstance(item, Event)]
    assert [event.seq for event in events] == SEQS
    assert [type(event) for event in events] == [TurnStarted, Chunk, Chunk, TurnCompleted]
    assert client.counts.lost == 0


@pytest.mark.parametrize("word", SERVERS)
async def test_they_are_no_gap_for_whoever_adds_up(word: str) -> None:
    async with SERVERS[word]() as address, TRANSPORTS[word].client(address, resume=False) as client:
        reply = await collect(client.chat("hi"))
    assert (reply.text, reply.usage) == ("Hello there", Usage(1, 2))


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "chunk", "turn_id": "t", "seq": 2, "at": 1.0, "text": 5}',
        b'{"type": "chunk", "turn_id": "t", "at": 1.0, "text": "no seq"}',
        b'{"type": "unheard", "turn_id": "t", "seq": "two"}',
        b"[]",
        b"not JSON",
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("word", ["ndjson", "sse"])
async def test_a_malformed_event_is_a_lost_connection(word: str, line: bytes) -> None:
    """A known type with a wrong field comes from a broken server, so another attempt is made."""
    first = to_json(from_json(LOG[0]))
    frame = b"data: %s\n\n" if word == "sse" else b"%s\n"
    types = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}
    async with http(types[word], frame % first + frame % line) as address:
        client = TRANSPORTS[word].client(address, resume=False)
        with pytest.raises(ConnectionLost, match=r"malformed|not JSON"):
            await collect(client.chat("hi"))
        await client.aclose()
