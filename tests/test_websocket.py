"""The WebSocket on the wire (RFC 6455): frames, several turns and several people on one connection, resume, refusals."""

from __future__ import annotations

import asyncio
import hashlib
import json

import httpx
import pytest

from protocols.processes import Server
from shared.client.protocol import collect
from tests.conftest import Servers
from tests.raw_websocket import PATIENCE_S, PROTOCOL, SocketMessage, checked_text, client_frame, raw, until_seq


@pytest.fixture
def server(servers: Servers) -> Server:
    """The shared server."""
    return servers["websocket"]


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
        assert [piece["offset"] for piece in pieces] == list(range(0, len(data), 46_080))
    assert hashlib.sha256(data).hexdigest() == events[-1]["sha256"] == events[-2]["sha256"]
    # A full piece of 45 KiB has a length of 16 bits.
    assert b"\x82\x7e" + (46_080).to_bytes(2, "big") in one.received
    assert "session_id" in events[0]
    assert events[0]["session_id"] is None


async def test_line_separators_are_escaped(server: Server) -> None:
    async with raw(server) as one:
        one.say(type="chat", message="a\u2028b\u2029c\u0085d")
        events = await one.turn()
    assert events[0]["input"] == "a\u2028b\u2029c\u0085d"
    assert b"a\\u2028b\\u2029c\\u0085d" in one.received


async def test_several_turns_on_one_connection(server: Server) -> None:
    """Also with a picture between them: nothing comes between the text frame and the binary frame of a pair."""
    async with raw(server) as one:
        for number in range(6):
            one.say(
                type="chat",
                message=f"/tokens 300 turn {number}",
                request_id=f"many-{id(one)}-{number}",
                new_session=True,
            )
        one.say(type="image", prompt="between them", size="256x256")
        turns: dict[str, list[SocketMessage]] = {}
        done = 0
        while done < 7:
            said = await one.hear()
            turns.setdefault(said["turn_id"], []).append(said)
            done += said["type"] == "turn_completed"
    assert len(turns) == 7
    for events in turns.values():
        checked_text(events)
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
        # A connection gets no hint about its own turn: the next message for both is the answer to a ping.
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
        assert checked_text([said for said in heard if "seq" in said]) == reply.text
        assert [said["update_type"] for said in heard if "seq" not in said] == ["message_added", "message_added"]


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
        checked_text(before + after)
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
        checked_text(live[:5] + again)
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
    """A cancel takes effect though the client closes the connection at once."""
    async with raw(server) as one:
        one.say(type="chat", message="/tokens 40 /stall 60 hello")
        turn_id = (await one.hear())["turn_id"]
        one.say(type="cancel", turn_id=turn_id)
        one.write(b"\x88\x82\0\0\0\0\x03\xe8")
        await one.closed()
    async with raw(server) as two:
        two.say(type="resume", turn_id=turn_id, after=0)
        assert (await two.turn(turn_id))[-1]["type"] == "turn_cancelled"


async def test_key_joins_its_turn(server: Server) -> None:
    async with raw(server) as one:
        ask = {"type": "chat", "message": "/tokens 40 /stall 0.5 hello", "request_id": f"key-{id(one)}"}
        one.say(**ask)
        started = await one.hear()
        assert started["request_id"] == ask["request_id"]
        await until_seq(one, 10)
        # The same request again on the same connection: the events come from the start, and only once.
        one.say(**ask)
        await one.hear("turn_started")
        again = [started, *await one.turn(started["turn_id"])]
        checked_text(again)
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
async def test_refused_and_open(server: Server, message: SocketMessage, code: str) -> None:
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
async def test_a_frame_that_is_no_message(server: Server, text: str) -> None:
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


CONTINUATION, TEXT, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x9, 0xA
QUESTION = '{"type": "ping", "pad": "Grüße, 👩‍👩‍👧‍👦"}'.encode()


@pytest.mark.parametrize("step", [1, 2, 3, 7, len(QUESTION)])
async def test_a_message_in_fragments(server: Server, step: int) -> None:
    """RFC 6455, section 5.4: cut anywhere, inside a character too, with control frames and empty fragments in between."""
    pieces = [QUESTION[start : start + step] for start in range(0, len(QUESTION), step)]
    for between in (
        b"",
        client_frame(PING, b"still there?"),
        client_frame(PONG),
        client_frame(CONTINUATION, fin=False),
    ):
        async with raw(server) as one:
            one.write(client_frame(TEXT, b"", fin=False))
            for piece in pieces[:-1]:
                one.write(client_frame(CONTINUATION, piece, fin=False) + between)
            one.write(client_frame(CONTINUATION, pieces[-1]))
            assert await one.hear() == {"type": "pong"}
            if between[:1] == b"\x89":
                assert one.received.count(b"\x8a\x0cstill there?") == len(pieces) - 1


async def test_control_frames_at_any_time(server: Server) -> None:
    """Pings of every length are answered with their own bytes, also while a turn is sent; an unasked pong is ignored."""
    async with raw(server) as one:
        one.say(type="chat", message="/tokens 200 hello")
        for size in (0, 1, 124, 125):
            one.write(client_frame(PONG, b"p" * size) + client_frame(PING, b"q" * size))
        checked_text(await one.turn())
        one.say(type="ping")
        assert (await one.hear("pong"))["type"] == "pong"
        for size in (0, 1, 124, 125):
            assert bytes([0x8A, size]) + b"q" * size in one.received


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", 1005),
        (b"\x03\xe8", 1000),
        (b"\x03\xe9going away", 1001),
        (b"\x0f\xa0own code", 4000),
        (b"\x03\xe8" + b"r" * 123, 1000),
    ],
    ids=["no code", "normal", "going away", "private", "long reason"],
)
async def test_a_close_in_every_place(server: Server, payload: bytes, code: int) -> None:
    """The client closes at once, after a request, between two fragments, during a turn.

    The server repeats the code and closes.
    """
    asked = client_frame(TEXT, b'{"type": "ping"}')
    half = client_frame(TEXT, b'{"type": ', fin=False)
    turn = client_frame(TEXT, b'{"type": "chat", "message": "/tokens 50 /stall 60 hello"}')
    for before in (b"", asked, half, half + client_frame(PING) + client_frame(CONTINUATION, b'"pi', fin=False), turn):
        async with raw(server) as one:
            one.write(before + client_frame(CLOSE, payload) + client_frame(TEXT, b"after the close"))
            assert await one.closed() == code


async def test_a_handshake_on_another_path(servers: Servers) -> None:
    """The answer is 404 as problem+json on the four servers, also for a path that begins with ``/ws``."""
    for word in ("rest", "ndjson", "sse", "websocket"):
        paths = ("/nothing", "/ws/", "/ws/x", "/", "/health", "/web/app.css", "/turns/x/stream")
        for target in paths if word == "websocket" else (*paths, "/ws"):
            async with raw(servers[word], target=target, connected=False) as one:
                assert one.status == 404, (word, target)
                while not one.body.endswith(b"}"):
                    await one._read()
                assert json.loads(one.body)["code"] == "invalid_request"
    async with raw(servers["websocket"], target="/ws?x=1") as one:
        assert one.status == 101
