"""The WebSocket on the wire (RFC 6455): frames, close codes, several turns and several people on it, read with wsproto.

wsproto is not what the server or our client is built on, so what it reads is what anybody would.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from protocols.processes import Server
from shared.client.protocol import Ask, ChatClient, Lost, Resumed, collect, collect_picture
from shared.errors import ChatError, ConnectionLost, ServerAbsent
from shared.events import Chunk, TurnCancelled, TurnStarted
from shared.session import SessionUpdate
from tests.conftest import Connect, MakeServers, Servers, until

PROTOCOL = "genai.chat.v1"
LIMIT_BYTES = 50_000
PATIENCE_S = 10.0

ContextMessage = dict[str, Any]


class Raw:
    """A connection as a stranger's client has it; ``received`` are all bytes since the handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = b""
        self.subprotocol: str | None = None
        self.status: int | None = None
        self.body = b""
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self._reader = reader
        self._writer = writer
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._partial: str | bytes = b""
        self._messages: list[str | bytes] = []

    async def shake(self, host: str, offered: tuple[str, ...], headers: dict[str, str]) -> None:
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.write(self._ws.send(Request(host=host, target="/ws", subprotocols=list(offered), extra_headers=extra)))
        while self.status is None:
            await self._read()

    def write(self, data: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(data)

    def say(self, **message: Any) -> None:
        """One message of ours."""
        self.text(json.dumps(message))

    def text(self, text: str) -> None:
        """Any text frame."""
        self.write(self._ws.send(TextMessage(text)))

    def binary(self, data: bytes) -> None:
        """Any binary frame."""
        self.write(self._ws.send(BytesMessage(data)))

    async def frame(self) -> str | bytes:
        """The next data message, whole. Raises ConnectionLost with the close code when there is none."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._messages:
                await self._read()
        return self._messages.pop(0)

    async def hear(self, *types: str) -> ContextMessage:
        """The next message of one of these types (or the next at all); an ``image_chunk`` has its ``data``."""
        while True:
            frame = await self.frame()
            assert isinstance(frame, str), "a binary frame that no text frame announced"
            said: ContextMessage = json.loads(frame)
            if said["type"] == "image_chunk":
                said["data"] = await self.frame()
                assert isinstance(said["data"], bytes)
                assert len(said["data"]) == said["bytes"]
            if not types or said["type"] in types:
                return said

    async def turn(self, turn_id: str | None = None) -> list[ContextMessage]:
        """The events of one turn to its end; what belongs to others is passed over."""
        events: list[ContextMessage] = []
        while not events or not events[-1]["type"].startswith("turn_") or len(events) == 1:
            said = await self.hear()
            if "seq" in said and said["turn_id"] == (turn_id or said["turn_id"]):
                turn_id = said["turn_id"]
                events.append(said)
        return events

    async def closed(self) -> int | None:
        """The code of the server's close frame; None when there was none."""
        with contextlib.suppress(ConnectionLost):
            while True:
                await self.frame()
        return self.close_code

    async def _read(self) -> None:
        data = b"" if self.close_code is not None else await self._reader.read(65536)
        if not data:
            raise ConnectionLost(f"closed: {self.close_code}")
        if self.status is not None:
            self.received += data
        self._ws.receive_data(data)
        for event in self._ws.events():
            match event:
                case AcceptConnection():
                    self.status, self.subprotocol = 101, event.subprotocol
                    assert not event.extensions
                case RejectConnection():
                    self.status = event.status_code
                case RejectData():
                    self.body += event.data
                case Ping():
                    self.write(self._ws.send(event.response()))
                case CloseConnection():
                    self.close_code, self.close_reason = event.code, event.reason
                    with contextlib.suppress(LocalProtocolError):
                        self.write(self._ws.send(event.response()))
                case Message():
                    self._partial = event.data if not self._partial else self._partial + event.data
                    if event.message_finished:
                        self._messages.append(self._partial)
                        self._partial = b""

    def abort(self) -> None:
        """Gone without a word."""
        self._writer.transport.abort()


@asynccontextmanager
async def raw(
    server: Server,
    *,
    offered: tuple[str, ...] = (PROTOCOL,),
    headers: dict[str, str] | None = None,
    connected: bool = True,
) -> AsyncIterator[Raw]:
    """A raw connection, past its ``connected`` unless told otherwise."""
    host, _, port = server.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        connection = Raw(reader, writer)
        await connection.shake(server.address, offered, headers or {})
        if connected:
            assert (await connection.hear())["type"] == "connected"
        yield connection
    finally:
        writer.close()


@pytest.fixture
def server(servers: Servers) -> Server:
    """The shared server."""
    return servers["websocket"]


@pytest.fixture(scope="module")
def strict(make_servers: MakeServers) -> Servers:
    """A server with a key, a small frame limit, short patience and a short grace."""
    return make_servers(
        API_SECRET_KEY="open sesame",
        MAX_BODY_BYTES=str(LIMIT_BYTES),
        HEARTBEAT_S="0.5",
        STALL_TIMEOUT_S="1",
        DISCONNECT_GRACE_S="0.3",
    )


KEY = {"X-API-Key": "open sesame"}


async def stats(server: Server, **headers: str) -> ContextMessage:
    async with httpx.AsyncClient(headers=headers) as http:
        answer: ContextMessage = (await http.get(f"http://{server.address}/stats")).json()
        return answer


def ours(events: list[ContextMessage]) -> str:
    """The text that the chunks of a turn add up to, checked against the rules of every log."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    text = "".join(event["text"] for event in events if event["type"] == "chunk")
    if events[0]["kind"] == "chat":
        assert events[-1]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    return text


# -- handshake and frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [((PROTOCOL,), PROTOCOL), (("other", PROTOCOL), PROTOCOL), ((), None), (("other", "more"), None)],
)
async def test_subprotocol(server: Server, offered: tuple[str, ...], accepted: str | None) -> None:
    async with raw(server, offered=offered) as one:
        assert one.subprotocol == accepted
        one.say(type="ping")
        assert await one.hear() == {"type": "pong"}


async def test_connected_says_who_is_there(server: Server) -> None:
    async with raw(server, connected=False) as one:
        said = await one.hear()
        assert set(said) == {"type", "connection_id", "server_info"}
        assert said["server_info"]["model"] == "offline-1"


async def test_no_compression_though_offered(server: Server) -> None:
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    async with raw(server, headers=offer) as one:
        assert one.status == 101


async def test_frames_as_bytes(server: Server) -> None:
    """An unmasked, unfragmented text frame: FIN and opcode, the length in 7 or 7+16 bits, the JSON."""
    async with raw(server) as one:
        before = len(one.received)
        one.say(type="ping")
        await one.hear()
        assert one.received[before:] == b'\x81\x0f{"type":"pong"}'
        one.say(type="chat", message="a" * 200)
        await one.turn()
        started = one.received[before + 17 :]
        assert started[:2] == b"\x81\x7e"
        size = int.from_bytes(started[2:4], "big")
        assert json.loads(started[4 : 4 + size])["input"] == "a" * 200
        assert started[4 + size] == 0x81


async def test_image_pair(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="image", prompt="a lighthouse", size="512x512", request_id="look")
        events = await one.turn()
    started = [event for event in events if event["type"] == "image_started"]
    assert [event["preview"] for event in started][-1] is False
    for picture in started:
        pieces = [event for event in events if event.get("image_id") == picture["image_id"] and "bytes" in event]
        data = b"".join(piece["data"] for piece in pieces)
        assert len(data) == picture["size_bytes"]
        assert [piece["offset"] for piece in pieces] == list(range(0, len(data), 65536))
    assert hashlib.sha256(data).hexdigest() == events[-1]["sha256"] == events[-2]["sha256"]
    # A full piece of 64 KiB has the 64-bit length.
    assert b"\x82\x7f" + (65536).to_bytes(8, "big") in one.received
    assert "session_id" in events[0]
    assert events[0]["session_id"] is None


async def test_line_separators_are_escaped(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="chat", message="a\u2028b\u2029c\u0085d")
        events = await one.turn()
    assert events[0]["input"] == "a\u2028b\u2029c\u0085d"
    assert b"a\\u2028b\\u2029c\\u0085d" in one.received


# -- several turns, several people -----------------------------------------------------------------------------------------


async def test_several_turns_on_one_connection(server: Server) -> None:
    """Also with a picture between: its pairs are never torn apart."""
    async with raw(server) as one:
        for number in range(6):
            one.say(
                type="chat",
                message=f"/tokens 300 turn {number}",
                request_id=f"many-{id(one)}-{number}",
                new_session=True,
            )
        one.say(type="image", prompt="between them", size="256x256")
        turns: dict[str, list[ContextMessage]] = {}
        done = 0
        while done < 7:
            said = await one.hear()
            turns.setdefault(said["turn_id"], []).append(said)
            done += said["type"] == "turn_completed"
    assert len(turns) == 7
    for events in turns.values():
        ours(events)
    chats = [events[0] for events in turns.values() if events[0]["kind"] == "chat"]
    assert len({started["session_id"] for started in chats}) == 6


async def test_chat_goes_on_in_the_session_it_made(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="chat", message="My name is Ada.")
        first = await one.turn()
        one.say(type="chat", message="What is my name?")
        second = await one.turn()
        assert second[0]["session_id"] == first[0]["session_id"]
        assert second[0]["context_messages"] == 2
        one.say(type="chat", message="And mine?", new_session=True)
        assert (await one.turn())[0]["context_messages"] == 0


async def test_two_in_one_session(server: Server) -> None:
    async with raw(server) as one, raw(server) as two:
        one.say(type="create_session")
        made = await one.hear()
        assert made["type"] == "session_created"
        session_id = made["session_id"]
        two.say(type="join_session", session_id=session_id)
        assert await two.hear() == {
            "type": "session_joined",
            "session_id": session_id,
            "model": None,
            "message_count": 0,
            "running_turn_id": None,
        }
        async with httpx.AsyncClient(base_url=f"http://{server.address}") as http:
            assert (await http.get(f"/sessions/{session_id}")).json()["connections"] == 2
        one.say(type="typing_start")
        one.say(type="typing_stop")
        update = {"type": "session_update", "session_id": session_id, "update_type": "user_typing"}
        assert await two.hear() == update | {"typing": True}
        assert await two.hear() == update | {"typing": False}
        one.say(type="chat", message="/tokens 50 hello")
        mine = await one.turn()
        seen = [await two.hear() for _ in range(len(mine) + 2)]
        assert [said for said in seen if "seq" in said] == mine
        added = [said for said in seen if said["type"] == "session_update"]
        assert [said["update_type"] for said in added] == ["message_added", "message_added"]
        assert [said["message_count"] for said in added] == [1, 2]
        # Nothing of one's own comes back: the next thing that either hears is the answer to a ping.
        for each in (one, two):
            each.say(type="ping")
            assert await each.hear() == {"type": "pong"}
        async with httpx.AsyncClient(base_url=f"http://{server.address}") as http:
            await http.post(f"/sessions/{session_id}/clear")
            await http.delete(f"/sessions/{session_id}")
        for kind in ("session_cleared", "session_deleted"):
            for each in (one, two):
                assert (await each.hear())["update_type"] == kind


async def test_first_chat_of_a_new_session_brings_no_hint_to_its_own(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="chat", message="hello")
        await one.turn()
        one.say(type="ping")
        assert await one.hear() == {"type": "pong"}


async def test_one_joined_session_at_a_time(server: Server) -> None:
    async with raw(server) as one, raw(server) as two:
        sessions = []
        for _ in range(2):
            one.say(type="create_session")
            sessions.append((await one.hear())["session_id"])
        two.say(type="chat", message="left", session_id=sessions[0])
        await two.turn()
        two.say(type="chat", message="joined", session_id=sessions[1])
        await two.turn()
        assert (await one.hear("turn_started"))["input"] == "joined"


async def test_the_others_see_it_from_another_process(servers: Servers, server: Server) -> None:
    async with raw(server) as one, servers["sse"].client() as other:
        one.say(type="create_session")
        session_id = (await one.hear())["session_id"]
        reply = await collect(other.chat("/tokens 30 from elsewhere", session_id=session_id))
        heard = [await one.hear() for _ in range(34)]
        assert ours([said for said in heard if "seq" in said]) == reply.text
        assert [said["update_type"] for said in heard if "seq" not in said] == ["message_added", "message_added"]


# -- resume, cancel, keys ----------------------------------------------------------------------------------------------------


async def test_resume_after_a_cut(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="chat", message="/tokens 40 /stall 0.5 hello")
        before = [await one.hear() for _ in range(10)]
        one.abort()
    turn_id = before[0]["turn_id"]
    async with raw(server) as two:
        two.say(type="resume", turn_id=turn_id, after=10)
        resumed = await two.hear()
        assert resumed["type"] == "resumed"
        assert (resumed["turn_id"], resumed["after"], resumed["status"]) == (turn_id, 10, "running")
        assert resumed["last_seq"] >= 10
        after = await two.turn(turn_id)
        ours(before + after)
        end = after[-1]["seq"]
        two.say(type="resume", turn_id=turn_id, after=end)
        assert await two.hear() == {
            "type": "resumed",
            "turn_id": turn_id,
            "after": end,
            "last_seq": end,
            "status": "completed",
        }
        two.say(type="ping")
        assert await two.hear() == {"type": "pong"}


async def test_resume_replaces_the_live_subscription(server: Server) -> None:
    async with raw(server) as one, raw(server) as two:
        one.say(type="create_session")
        session_id = (await one.hear())["session_id"]
        two.say(type="join_session", session_id=session_id)
        await two.hear()
        one.say(type="chat", message="/tokens 60 /stall 0.5 hello")
        live = [await two.hear("turn_started", "chunk") for _ in range(20)]
        two.say(type="resume", turn_id=live[0]["turn_id"], after=5)
        async with asyncio.timeout(PATIENCE_S):
            while (said := await two.hear())["type"] != "resumed":
                pass
        assert said["after"] == 5
        again = await two.turn()
        assert [event["seq"] for event in again] == list(range(6, 63))
        ours(live[:5] + again)
        two.say(type="ping")
        assert (await two.hear("pong", "chunk"))["type"] == "pong"


async def test_cancel_twice(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="chat", message="/tokens 40 /stall 60 hello")
        turn_id = (await one.hear())["turn_id"]
        await until_seq(one, 21)
        one.say(type="cancel", turn_id=turn_id)
        end = await one.hear()
        assert end["type"] == "turn_cancelled"
        state = await one.hear()
        assert state == {
            "type": "resumed",
            "turn_id": turn_id,
            "after": end["seq"],
            "last_seq": end["seq"],
            "status": "cancelled",
        }
        one.say(type="cancel", turn_id=turn_id)
        assert await one.hear() == state


async def test_cancel_and_gone(server: Server) -> None:
    """A cancel that was sent counts, though its sender did not wait."""
    async with raw(server) as one:
        one.say(type="chat", message="/tokens 40 /stall 60 hello")
        turn_id = (await one.hear())["turn_id"]
        one.say(type="cancel", turn_id=turn_id)
        one.write(b"\x88\x82\0\0\0\0\x03\xe8")
        await one.closed()
    async with raw(server) as two:
        two.say(type="resume", turn_id=turn_id, after=0)
        assert (await two.turn(turn_id))[-1]["type"] == "turn_cancelled"


async def until_seq(connection: Raw, seq: int) -> None:
    while (await connection.hear()).get("seq", 0) < seq:
        pass


async def test_key_joins_its_turn(server: Server) -> None:
    async with raw(server) as one:
        ask = {"type": "chat", "message": "/tokens 40 /stall 0.5 hello", "request_id": f"key-{id(one)}"}
        one.say(**ask)
        started = await one.hear()
        assert started["request_id"] == ask["request_id"]
        await until_seq(one, 10)
        # The same again on the same connection: from the start, and once.
        one.say(**ask)
        await one.hear("turn_started")
        again = [started, *await one.turn(started["turn_id"])]
        ours(again)
        one.say(**ask)
        assert await one.turn() == again
        one.say(**ask | {"message": "other"})
        refusal = await one.hear()
        assert (refusal["code"], refusal["request_id"]) == ("idempotency_key_reused", ask["request_id"])
    async with raw(server) as two:
        two.say(**ask)
        assert await two.turn() == again


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "join_session", "session_id": "nowhere"}, "session_not_found"),
        ({"type": "chat", "message": "hi", "session_id": "nowhere"}, "session_not_found"),
        ({"type": "chat", "message": "hi", "session_id": ""}, "session_not_found"),
        ({"type": "resume", "turn_id": "nothing", "after": 0}, "turn_not_found"),
        ({"type": "cancel", "turn_id": "nothing"}, "turn_not_found"),
        ({"type": "cancel", "turn_id": "a\0b"}, "turn_not_found"),
        ({"type": "typing_start"}, "invalid_request"),
        ({"type": "chat", "message": ""}, "invalid_request"),
        ({"type": "chat", "message": "  \n"}, "invalid_request"),
        ({"type": "chat", "message": "a\0b"}, "invalid_request"),
        ({"type": "chat", "message": "lone \ud800"}, "invalid_request"),
        ({"type": "chat", "message": 5}, "invalid_request"),
        ({"type": "chat", "message": True}, "invalid_request"),
        ({"type": "chat", "message": None}, "invalid_request"),
        ({"type": "chat"}, "invalid_request"),
        ({"type": "chat", "message": float("nan")}, "invalid_request"),
        ({"type": "chat", "message": "a" * 1_000_001}, "invalid_request"),
        ({"type": "resume", "turn_id": "x", "after": 1.0}, "invalid_request"),
        ({"type": "resume", "turn_id": "x", "after": "1"}, "invalid_request"),
        ({"type": "resume", "turn_id": "x", "after": -1}, "invalid_request"),
        ({"type": "image", "prompt": "x", "size": "big"}, "invalid_request"),
        ({"type": "image", "prompt": "x", "size": "0x0"}, "invalid_request"),
        ({"type": "dance"}, "invalid_request"),
        ({"type": 3}, "invalid_request"),
        ({"message": "no type"}, "invalid_request"),
    ],
)
async def test_refused_and_open(server: Server, message: ContextMessage, code: str) -> None:
    async with raw(server) as one:
        one.say(**message, request_id="which")
        said = await one.hear()
        assert (said["type"], said["code"], said["retryable"]) == ("error", code, False)
        assert said["request_id"] == "which"
        one.say(type="ping")
        assert await one.hear() == {"type": "pong"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{",
        "[]",
        "null",
        '"ping"',
        "\0",
        '{"type":"ping"} x',
        '{"type":"ping","x":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=["empty", "word", "half", "list", "null", "string", "NUL", "two", "deep"],
)
async def test_no_message_of_ours(server: Server, text: str) -> None:
    async with raw(server) as one:
        one.text(text)
        said = await one.hear()
        assert (said["type"], said["code"]) == ("error", "invalid_request")
        one.say(type="ping")
        assert await one.hear() == {"type": "pong"}


async def test_a_turn_in_progress(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="chat", message="/tokens 20 /stall 30 hello")
        turn_id = (await one.hear())["turn_id"]
        one.say(type="chat", message="impatient", request_id="second")
        said = await one.hear("error")
        assert (said["code"], said["retryable"], said["request_id"]) == ("turn_in_progress", True, "second")
        one.say(type="cancel", turn_id=turn_id)
        await one.hear("turn_cancelled")


async def test_cursor_out_of_range(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="chat", message="hello")
        events = await one.turn()
        one.say(type="resume", turn_id=events[0]["turn_id"], after=len(events) + 1)
        assert (await one.hear())["code"] == "cursor_out_of_range"
        one.say(type="resume", turn_id=events[0]["turn_id"], after=10**30)
        assert (await one.hear())["code"] == "cursor_out_of_range"


async def test_a_megabyte_there_and_back(server: Server) -> None:
    async with raw(server) as one:
        message = "/tokens 3 " + "ü" * 999_990
        one.say(type="chat", message=message)
        assert (await one.turn())[0]["input"] == message


async def test_unknown_fields_are_ignored_and_the_last_of_two_counts(server: Server) -> None:
    async with raw(server) as one:
        one.text('{"type":"chat","mood":{"a":[1]},"message":"first","message":"second","request_id":null}')
        events = await one.turn()
        assert (events[0]["input"], events[0]["request_id"]) == ("second", None)


# -- closing -----------------------------------------------------------------------------------------------------------------


async def test_binary_is_1003(server: Server) -> None:
    async with raw(server) as one:
        one.binary(b'{"type":"ping"}')
        assert await one.closed() == 1003
        assert one.close_reason == "unsupported_media_type"


async def test_invalid_utf8_is_1007(server: Server) -> None:
    async with raw(server) as one:
        one.write(b"\x81\x82\0\0\0\0\xc3\x28")
        assert await one.closed() == 1007


@pytest.mark.parametrize("extra_bytes", [1, LIMIT_BYTES * 2], ids=["ours", "the library's"])
async def test_too_large_is_1009(strict: Servers, extra_bytes: int) -> None:
    async with raw(strict["websocket"], headers=KEY) as one:
        frame = json.dumps({"type": "ping", "pad": ""})
        one.text(frame.replace('""', '"' + "ü" * ((LIMIT_BYTES - len(frame)) // 2) + '"'))
        assert await one.hear() == {"type": "pong"}
        one.text(frame.replace('""', '"' + "x" * (LIMIT_BYTES - len(frame) + extra_bytes) + '"'))
        assert await one.closed() == 1009


async def test_a_clean_close_is_answered(server: Server) -> None:
    async with raw(server) as one:
        one.write(b"\x88\x82\0\0\0\0\x03\xe8")
        assert await one.closed() == 1000


async def test_sigterm_delivers_the_end_and_closes_with_1012(make_servers: MakeServers) -> None:
    own = make_servers(DRAIN_S="0.5")
    async with raw(own["websocket"]) as one, raw(own["websocket"]) as idle, raw(own["websocket"]) as late:
        one.say(type="chat", message="/tokens 20 /stall 60 hello")
        await until_seq(one, 11)
        stopping = asyncio.create_task(own.signal("websocket", signal.SIGTERM))
        end = await one.hear("turn_interrupted")
        assert end["chunks"] == 10
        assert await one.closed() == 1012
        assert one.close_reason == "shutting_down"
        assert await idle.closed() == 1012
        late.say(type="chat", message="too late")
        assert await late.closed() == 1012
        assert await stopping == 0


async def test_sigint_is_quick(make_servers: MakeServers) -> None:
    own = make_servers()
    async with raw(own["websocket"]) as one:
        one.say(type="chat", message="/tokens 20 /stall 60 hello")
        await until_seq(one, 11)
        begun = time.monotonic()
        stopping = asyncio.create_task(own.signal("websocket"))
        await one.hear("turn_interrupted")
        assert await one.closed() == 1012
        assert await stopping == 0
        assert time.monotonic() - begun < 2


async def test_a_draining_server_refuses_a_chat_after_the_running_turn(make_servers: MakeServers) -> None:
    own = make_servers(DRAIN_S="20")
    server = own["websocket"]
    async with raw(server) as one, raw(server) as two:
        one.say(type="chat", message="/tokens 20 /stall 1 hello")
        await until_seq(one, 11)
        stopping = asyncio.create_task(own.signal("websocket", signal.SIGTERM))
        async with httpx.AsyncClient(base_url=f"http://{server.address}") as http:

            async def draining() -> bool:
                return (await http.get("/health")).status_code == 503

            await until(draining)
        two.say(type="chat", message="too late")
        assert await two.closed() == 1012
        one.say(type="chat", message="too late", new_session=True)
        await one.hear("turn_completed")
        assert await one.closed() == 1012
        assert await stopping == 0


# -- keys, origins, those who vanish -----------------------------------------------------------------------------------------


async def test_wrong_key_is_401_at_the_handshake(strict: Servers) -> None:
    async with raw(strict["websocket"], headers={"X-API-Key": "wrong"}, connected=False) as one:
        assert one.status == 401
        with contextlib.suppress(ConnectionLost):
            while not one.body.endswith(b"}"):
                await one._read()
        assert json.loads(one.body)["code"] == "unauthenticated"


@pytest.mark.parametrize("headers", [KEY, {"Authorization": "Bearer open sesame"}])
async def test_right_key(strict: Servers, headers: dict[str, str]) -> None:
    async with raw(strict["websocket"], headers=headers) as one:
        one.say(type="ping")
        assert await one.hear() == {"type": "pong"}


async def test_ticket(strict: Servers) -> None:
    server = strict["websocket"]
    async with httpx.AsyncClient(base_url=f"http://{server.address}", headers=KEY) as http:
        ticket = (await http.post("/tickets", json={})).json()["ticket"]
    async with raw(server, connected=False) as one:
        one.say(type="auth", ticket=ticket)
        assert (await one.hear())["type"] == "connected"
        one.say(type="auth", ticket="again, which changes nothing")
        one.say(type="ping")
        assert await one.hear() == {"type": "pong"}


@pytest.mark.parametrize(
    "first",
    ['{"type":"auth","ticket":"forged"}', '{"type":"auth","ticket":""}', '{"type":"ping"}', "not JSON"],
)
async def test_no_ticket_is_4401(strict: Servers, first: str) -> None:
    async with raw(strict["websocket"], connected=False) as one:
        one.text(first)
        assert await one.closed() == 4401
        assert one.close_reason == "unauthenticated"


async def test_silence_instead_of_a_ticket_is_4401(strict: Servers) -> None:
    begun = time.monotonic()
    async with raw(strict["websocket"], connected=False) as one:
        assert await one.closed() == 4401
    assert 4.5 < time.monotonic() - begun < 8


async def test_ticket_of_a_turn_opens_no_socket(strict: Servers) -> None:
    server = strict["websocket"]
    async with httpx.AsyncClient(base_url=f"http://{server.address}", headers=KEY) as http:
        turn = (await http.post("/turns", json={"message": "hello"})).json()
        ticket = (await http.post("/tickets", json={"turn_id": turn["turn_id"]})).json()["ticket"]
    async with raw(server, connected=False) as one:
        one.say(type="auth", ticket=ticket)
        assert await one.closed() == 4401


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}])
async def test_foreign_origin_is_403(server: Server, headers: dict[str, str]) -> None:
    async with raw(server, headers=headers, connected=False) as one:
        assert one.status == 403


async def test_own_origin(server: Server) -> None:
    async with raw(server, headers={"Origin": f"http://{server.address}"}) as one:
        assert one.status == 101


async def test_leaving_is_not_cancelling_until_nobody_has_read_for_the_grace(strict: Servers) -> None:
    server = strict["websocket"]
    async with raw(server, headers=KEY) as one:
        one.say(type="chat", message="/tokens 20 /stall 60 hello")
        turn_id = (await one.hear())["turn_id"]
        one.abort()
    async with httpx.AsyncClient(base_url=f"http://{server.address}", headers=KEY) as http:

        async def ended() -> str:
            status: str = (await http.get(f"/turns/{turn_id}")).json()["status"]
            return "" if status == "running" else status

        assert await until(ended) == "cancelled"


@pytest.mark.parametrize("says", ["nothing", "goodbye"])
async def test_who_has_left_is_forgotten(strict: Servers, says: str) -> None:
    server = strict["websocket"]
    async with raw(server, headers=KEY) as one:
        one.say(type="chat", message="/tokens 20 /stall 60 hello")
        await one.hear()
        assert (await stats(server, **KEY))["connections_active"] == 1
        one.abort() if says == "nothing" else one.write(b"\x88\x80\0\0\0\0")

    async def nobody() -> bool:
        now = await stats(server, **KEY)
        return bool(now["connections_active"] == now["streams_active"] == 0)

    await until(nobody)


async def test_who_does_not_read_is_cut(strict: Servers) -> None:
    server = strict["websocket"]
    async with raw(server, headers=KEY) as one:
        one.say(type="chat", message="/tokens 200000 hello")

        async def nobody() -> bool:
            return int((await stats(server, **KEY))["connections_active"]) == 0

        await until(nobody)


async def test_who_answers_no_ping_is_cut(strict: Servers) -> None:
    server = strict["websocket"]
    async with raw(server, headers=KEY):

        async def nobody() -> bool:
            return int((await stats(server, **KEY))["connections_active"]) == 0

        await until(nobody)


# -- our client ----------------------------------------------------------------------------------------------------------------


async def test_client_holds_one_connection(client: Connect, server: Server) -> None:
    one = await client("websocket")
    before = (await one.stats()).connections_active
    replies = await asyncio.gather(*(collect(one.chat(f"/tokens 100 turn {number}")) for number in range(8)))
    assert len({reply.session_id for reply in replies}) == 8
    picture = await collect_picture(one.image("a pond", size="256x256"))
    assert await one.get_image(picture.image_id) == picture.image
    assert await one.ping() > 0
    assert (await one.stats()).connections_active == before
    assert one.holds_connection


async def test_client_resumes_every_turn_after_a_cut(client: Connect) -> None:
    one = await client("websocket")

    async def follow(number: int) -> tuple[list[int], list[str]]:
        seqs, notes = [], []
        async for item in one.chat(f"/tokens 40 /stall 0.3 turn {number}"):
            if isinstance(item, Lost | Resumed):
                notes.append(type(item).__name__)
            else:
                assert not isinstance(item, Ask)
                seqs.append(getattr(item, "seq", 0))
                if number == 0 and seqs[-1] == 10:
                    await one.cut()
        return seqs, notes

    for seqs, notes in await asyncio.gather(*(follow(number) for number in range(3))):
        assert seqs == list(range(1, 43))
        assert notes == ["Lost", "Resumed"]


async def test_client_watches_a_session(client: Connect) -> None:
    one, two = await client("websocket"), await client("websocket")
    session = await one.create_session()
    seen: list[Any] = []

    async def watch() -> None:
        async with aclosing(two.watch(session.session_id)) as items:
            async for item in items:
                seen.append(item)

    watching = asyncio.create_task(watch())

    async def joined() -> bool:
        return (await one.get_session(session.session_id)).connections == 2

    await until(joined)
    await one.typing(session.session_id, True)
    await until(lambda: seen)
    assert seen == [SessionUpdate(session_id=session.session_id, update_type="user_typing", typing=True)]
    reply = await collect(one.chat("hello", session_id=session.session_id))
    # One's own turn is not another person's, and making a session does not leave the one that is watched.
    await collect(two.chat("/tokens 3 me too", session_id=session.session_id))
    await two.create_session()
    await one.typing(session.session_id, False)
    await until(lambda: isinstance(seen[-1], SessionUpdate) and seen[-1].typing is False)
    started = [item for item in seen if isinstance(item, TurnStarted)]
    assert [item.turn_id for item in started] == [reply.turn_id]
    assert "".join(item.text for item in seen if isinstance(item, Chunk)) == reply.text
    # A replay on the same connection shows nothing twice.
    assert (await collect(two.read(reply.turn_id))) == reply
    assert [item for item in seen if isinstance(item, TurnStarted)] == started
    with pytest.raises(ChatError, match="watches another session"):
        await two.typing((await one.create_session()).session_id, True)
    await two.cut()
    with pytest.raises(ConnectionLost):
        await watching


async def test_client_leaves_early(make_servers: MakeServers, client: Connect) -> None:
    """Who stops reading leaves, as on every other transport, and the turn ends after the grace period."""
    own = make_servers(DISCONNECT_GRACE_S="0.3")
    one = await client("websocket", on=own)
    async with aclosing(one.chat("/tokens 20 /stall 60 hello")) as items:
        async for item in items:
            if getattr(item, "seq", 0) == 5:
                turn_id: str = item.turn_id  # type: ignore[union-attr]
                break

    async def cancelled() -> bool:
        return (await one.get_turn(turn_id)).status == "cancelled"

    await until(cancelled)
    assert (await collect(one.chat("hello"))).status == "completed"


async def test_client_cancels(client: Connect) -> None:
    one = await client("websocket")
    last = None
    async for item in one.chat("/tokens 20 /stall 60 hello"):
        last = item
        if isinstance(item, Chunk) and item.seq == 11:
            states = await asyncio.gather(*(one.cancel(item.turn_id) for _ in range(2)))
            assert [state.status for state in states] == ["cancelled", "cancelled"]
    assert isinstance(last, TurnCancelled)
    with pytest.raises(ChatError, match="turn_not_found"):
        await one.cancel("nothing")


async def test_client_same_key_twice_at_once(client: Connect) -> None:
    one = await client("websocket")
    asks = [collect(one.chat("/tokens 40 /stall 0.3 hello", request_id=f"twice-{id(one)}")) for _ in range(2)]
    first, second = await asyncio.gather(*asks)
    assert first == second


async def test_client_too_large_costs_the_others_nothing(client: Connect, make_servers: MakeServers) -> None:
    own = make_servers(MAX_BODY_BYTES="20000")
    one = await client("websocket", on=own)
    running = asyncio.create_task(collect(one.chat("/tokens 40 /stall 1 hello")))
    await until(lambda: one.counts.bytes_received > 1000)
    with pytest.raises(ChatError, match="payload_too_large"):
        await collect(one.chat("x" * 30_000))
    assert (await running).status == "completed"
    assert one.counts.lost == 1


async def test_client_keys(strict: Servers) -> None:
    server = strict["websocket"]
    async with server.client(key="open sesame") as one:
        assert (await collect(one.chat("hello"))).status == "completed"
    with pytest.raises(ChatError, match="unauthenticated"):
        async with server.client(key="wrong"):
            pass
    with pytest.raises(ChatError, match="unauthenticated"):
        async with server.client():
            pass


async def test_client_without_a_server(unused: Callable[[], str]) -> None:
    from protocols import TRANSPORTS

    with pytest.raises(ServerAbsent):
        await TRANSPORTS["websocket"].client(unused()).connect()


@pytest.fixture
def unused() -> Callable[[], str]:
    """An address where nobody listens."""
    import socket

    def find() -> str:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{sock.getsockname()[1]}"

    return find


@pytest.mark.parametrize("transport", ["rest", "ndjson", "sse"])
async def test_who_holds_no_connection_cannot_watch(client: Connect, transport: str) -> None:
    one: ChatClient = await client(transport)
    with pytest.raises(ChatError, match="holds no connection"):
        one.watch("any")
    with pytest.raises(ChatError, match="holds no connection"):
        await one.typing("any", True)
