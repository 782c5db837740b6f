"""How a WebSocket ends or is refused: close codes, a stopping server, keys and tickets, peers that vanish."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time

import httpx
import pytest

from protocols.processes import Server
from shared.errors import ConnectionLost
from tests.conftest import MakeServers, Servers, until
from tests.raw_websocket import raw, stats, until_seq

LIMIT_BYTES = 50_000
KEY = {"X-API-Key": "open-sesame"}


@pytest.fixture
def server(servers: Servers) -> Server:
    """The shared server."""
    return servers["websocket"]


@pytest.fixture(scope="module")
def strict(make_servers: MakeServers) -> Servers:
    """A server with a key, a small frame limit, short time-outs and a short grace period."""
    return make_servers(
        API_SECRET_KEY="open-sesame",
        MAX_BODY_BYTES=str(LIMIT_BYTES),
        HEARTBEAT_S="0.5",
        STALL_TIMEOUT_S="1",
        DISCONNECT_GRACE_S="0.3",
    )


async def test_binary_is_1003(server: Server) -> None:
    async with raw(server) as one:
        one.binary(b'{"type":"ping"}')
        assert await one.closed() == 1003
        assert one.close_reason == "unsupported_media_type"


async def test_invalid_utf8_is_1007(server: Server) -> None:
    async with raw(server) as one:
        one.write(b"\x81\x82\0\0\0\0\xc3\x28")
        assert await one.closed() == 1007


@pytest.mark.parametrize("extra_bytes", [1, LIMIT_BYTES * 2], ids=["above MAX_BODY_BYTES", "above the library's limit"])
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


async def test_wrong_key_is_401_at_the_handshake(strict: Servers) -> None:
    async with raw(strict["websocket"], headers={"X-API-Key": "wrong"}, connected=False) as one:
        assert one.status == 401
        with contextlib.suppress(ConnectionLost):
            while not one.body.endswith(b"}"):
                await one._read()
        assert json.loads(one.body)["code"] == "unauthenticated"


@pytest.mark.parametrize("headers", [KEY, {"Authorization": "Bearer open-sesame"}])
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
