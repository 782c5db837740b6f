"""Keys, tickets and the addresses that a server may listen on, on every transport."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protocols.grpc import chat_pb2
from protocols.processes import serving
from shared.client.protocol import Ask, collect
from shared.config import Settings
from shared.errors import ChatError
from shared.server.access import SOCKET_TICKET_S, access_policy, is_loopback
from shared.session import short_turn
from tests.conftest import FAST, KEY, WORDS, Connect, Servers, until
from tests.wires import WIRES, GrpcWire, Wire, channel

HTTP_WORDS = ("rest", "ndjson", "sse", "websocket")
PUBLIC = {"/", "/health", "/docs", "/openapi.json", "/demo", "/race"}
RIGHT = [
    {"Authorization": f"Bearer {KEY}"},
    {"authorization": f"bearer {KEY}"},
    {"Authorization": f"BEARER  {KEY}"},
    {"X-API-Key": KEY},
    {"x-api-key": KEY, "Authorization": "Basic dXNlcjpwYXNz"},
]
WRONG: list[dict[str, str]] = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": KEY},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": f"Bearer {KEY}x"},
    {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": f"Bearer {KEY.upper()}"},
    {"Authorization": "Bearer wrong", "X-API-Key": KEY},
    {"X-API-Key": ""},
    {"X-API-Key": "wrong"},
    {"X-API-Key": f"Bearer {KEY}"},
    {"Cookie": f"key={KEY}"},
]


@pytest.fixture
async def http(keyed: Servers) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the SSE server with a key; a test gives the key with a request, or does not."""
    async with httpx.AsyncClient(base_url=f"http://{keyed['sse'].address}", trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
async def turn_id(keyed: Servers, client: Connect) -> str:
    """A turn that has ended, on the servers with a key."""
    return (await collect((await client("rest", on=keyed, key=KEY)).chat("Hello"))).turn_id


async def ticket(http: httpx.AsyncClient, body: Mapping[str, Any]) -> str:
    answer = await http.post("/tickets", json=body, headers={"X-API-Key": KEY})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["ticket"])


@pytest.mark.parametrize("headers", RIGHT, ids=str)
@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_the_right_key(wire: Wire, headers: dict[str, str], keyed: Servers) -> None:
    outcome = await wire.ask(keyed[wire.word], "chat", headers, message="Hello")
    assert outcome.code is None, outcome


@pytest.mark.parametrize("headers", WRONG, ids=str)
@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_the_wrong_key(wire: Wire, headers: dict[str, str], keyed: Servers) -> None:
    outcome = await wire.ask(keyed[wire.word], "chat", headers, message="Hello")
    assert (outcome.code, outcome.events) == ("unauthenticated", []), outcome
    assert KEY not in outcome.message


async def test_the_clients_bring_it(word: str, keyed: Servers, client: Connect) -> None:
    here = await client(word, on=keyed, key=KEY)
    reply = await collect(here.chat("Hello"))
    assert reply.session_id is not None
    assert len(await here.list_messages(reply.session_id)) == 2
    assert (await here.stats()).requests_total > 0
    assert await here.list_models()
    # Health needs no key, so that a probe needs no secret.
    stranger = keyed[word].client()
    assert (await stranger.health())["status"] == "ok"
    await stranger.aclose()


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_every_route_wants_it(word: str, keyed: Servers) -> None:
    """Every route in the server's schema needs the key, except public routes.

    Unknown paths and methods need it, too.
    """
    async with httpx.AsyncClient(base_url=f"http://{keyed[word].address}", trust_env=False, verify=False) as http:
        paths: dict[str, dict[str, Any]] = (await http.get("/openapi.json")).json()["paths"]
        assert len(paths) > 12
        for path, methods in paths.items():
            for method in methods:
                answer = await http.request(method, re.sub(r"\{.*?\}", "x", path))
                if path in PUBLIC:
                    assert answer.status_code == 200, path
                else:
                    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (method, path)
                    assert answer.headers["www-authenticate"] == "Bearer"
        for method, path in (("GET", "/no/such"), ("PUT", "/turns"), ("GET", "/health/x"), ("POST", "/tickets")):
            assert (await http.request(method, path)).status_code == 401, path
        for path in PUBLIC:
            assert (await http.get(path)).status_code == 200, path


async def test_the_files_of_the_pages_are_public(http: httpx.AsyncClient) -> None:
    for page in ("/docs", "/demo", "/race"):
        html = (await http.get(page)).text
        # Every file comes from this server, those of the API documentation included.
        files = [name for name in re.findall(r'(?:src|href)="([^"#]+)"', html) if not name.startswith("data:")]
        assert files, page
        for name in files:
            answer = await http.get(name)
            assert answer.status_code == 200, (page, name)


async def test_every_rpc_wants_it(keyed: Servers) -> None:
    """Every RPC of the chat service checks the key before the message. The image service has the key in a field."""
    wire = GrpcWire("grpc", "grpc")
    for method in chat_pb2.DESCRIPTOR.services_by_name["ChatService"].methods:
        path = f"/chat.ChatService/{method.name}"
        if method.client_streaming:
            async with channel(keyed["grpc"]) as line:
                call = line.stream_stream(path)(timeout=30)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call.read()
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, path
        else:
            assert (await wire.call(keyed["grpc"], path, b"\xff")).code == "unauthenticated", path


async def test_health_and_reflection_are_public(keyed: Servers) -> None:
    async with channel(keyed["grpc"]) as line:
        health = health_pb2_grpc.HealthStub(line)
        for service in ("", "chat.ChatService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        asking = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection = reflection_pb2_grpc.ServerReflectionStub(line)
        call = reflection.ServerReflectionInfo(iter([asking]))
        names = {one.name for one in (await call.read()).list_services_response.service}
        assert {"chat.ChatService", "imagegeneration.ImageGenerationService"} <= names
        call.cancel()


@pytest.mark.parametrize("word", ["sse", "ndjson"])
async def test_a_turns_ticket(word: str, keyed: Servers, http: httpx.AsyncClient, turn_id: str) -> None:
    """A turn's ticket opens the stream of that turn, again and again, on every server of the store, and nothing else."""
    good = await ticket(http, {"turn_id": turn_id})
    claims, _, signature = good.rpartition(".")
    async with httpx.AsyncClient(base_url=f"http://{keyed[word].address}", trust_env=False, verify=False) as there:
        stream = f"/turns/{turn_id}/stream"
        for _ in range(3):
            answer = await there.get(stream, params={"ticket": good, "after": 1})
            assert answer.status_code == 200
            assert "turn_completed" in answer.text
        other = (await there.post("/turns", json={"message": "Hi"}, headers={"X-API-Key": KEY})).json()["turn_id"]
        refused = [
            (f"/turns/{other}/stream", good),
            (f"/turns/{turn_id}", good),
            (f"/turns/{turn_id}/events", good),
            ("/sessions", good),
            (stream, ""),
            (stream, f"{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"),
            (stream, f"{claims[::-1]}.{signature}"),
            (stream, "x" + good),
            (stream, claims + "."),
            (stream, claims),
            (stream, "é"),
            (stream, KEY),
            (stream, await ticket(http, {})),
            (stream, await ticket(http, {"turn_id": other})),
        ]
        for path, wrong in refused:
            answer = await there.get(path, params={"ticket": wrong})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (path, wrong)
        assert (await there.post(f"/turns/{turn_id}/cancel", params={"ticket": good})).status_code == 401


@pytest.mark.parametrize("word", ["sse", "ndjson"])
async def test_a_right_key_beside_a_ticket(word: str, keyed: Servers, http: httpx.AsyncClient, turn_id: str) -> None:
    """A right header counts, whatever the ticket. A right ticket counts, though the header is wrong.

    Names are whole names.
    """
    good = await ticket(http, {"turn_id": turn_id})
    stream = f"/turns/{turn_id}/stream"
    async with httpx.AsyncClient(base_url=f"http://{keyed[word].address}", trust_env=False, verify=False) as there:
        for query in (
            "",
            "?ticket=old",
            "?ticket=",
            "?xticket=1",
            f"?ticket={good}",
            "?after=0&ticket=old&ticket=older",
        ):
            answer = await there.get(stream + query, headers={"X-API-Key": KEY})
            assert answer.status_code == 200, query
        assert (await there.get(f"{stream}?ticket={good}", headers={"X-API-Key": "wrong"})).status_code == 200
        for query in (f"?xticket={good}", f"?ticketx={good}", f"?TICKET={good}", f"?x=ticket={good}"):
            assert (await there.get(stream + query)).status_code == 401, query


async def test_an_event_source_comes_back_with_its_ticket(http: httpx.AsyncClient, turn_id: str) -> None:
    """EventSource comes back to the same URL with ``Last-Event-ID``. At the end of the log the answer is 204."""
    params = {"ticket": await ticket(http, {"turn_id": turn_id})}
    first = (await http.get(f"/turns/{turn_id}/stream", params=params)).text
    ids = re.findall(r"^id: (\S+)$", first, flags=re.MULTILINE)
    again = await http.get(f"/turns/{turn_id}/stream", params=params, headers={"Last-Event-ID": ids[2]})
    assert re.findall(r"^id: (\S+)$", again.text, flags=re.MULTILINE) == ids[3:]
    done = await http.get(f"/turns/{turn_id}/stream", params=params, headers={"Last-Event-ID": ids[-1]})
    assert done.status_code == 204


async def test_making_tickets(http: httpx.AsyncClient, turn_id: str) -> None:
    answer = await http.post("/tickets", headers={"X-API-Key": KEY})
    assert (answer.status_code, answer.json()["expires_in_s"]) == (201, SOCKET_TICKET_S)
    assert (await http.post("/tickets", json={})).status_code == 401
    missing = await http.post("/tickets", json={"turn_id": "nothing"}, headers={"X-API-Key": KEY})
    assert (missing.status_code, missing.json()["code"]) == (404, "turn_not_found")
    long = await http.post("/tickets", json={"turn_id": turn_id}, headers={"X-API-Key": KEY})
    assert long.json()["expires_in_s"] == 24 * 3600


async def test_a_sockets_ticket(keyed: Servers, http: httpx.AsyncClient, turn_id: str) -> None:
    """The ticket is the first message of a browser's WebSocket; ``connected`` comes after it."""
    address = f"ws://{keyed['websocket'].address}/ws"
    good = await ticket(http, {})
    async with connect(address, proxy=None) as socket:
        await socket.send(json.dumps({"type": "auth", "ticket": good}))
        assert json.loads(await socket.recv())["type"] == "connected"
        await socket.send('{"type": "ping"}')
        assert json.loads(await socket.recv())["type"] == "pong"
        # On an open connection another ticket changes nothing.
        await socket.send(json.dumps({"type": "auth", "ticket": "whatever"}))
        await socket.send('{"type": "ping"}')
        assert json.loads(await socket.recv())["type"] == "pong"
    wrong = [
        {"type": "auth", "ticket": good + "x"},
        {"type": "auth", "ticket": await ticket(http, {"turn_id": turn_id})},
        {"type": "auth", "ticket": KEY},
        {"type": "auth"},
        {"type": "ping"},
        {"type": "chat", "message": "Hi"},
        ["auth", good],
    ]
    for first in wrong:
        async with connect(address, proxy=None) as socket:
            await socket.send(json.dumps(first))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401, first


async def test_a_wrong_header_ends_the_handshake(keyed: Servers) -> None:
    """A handshake with a wrong key is refused; the server does not wait for a ticket."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{keyed['websocket'].address}/ws", additional_headers={"X-API-Key": "no"}, proxy=None):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(response.body)["code"] == "unauthenticated"


def test_how_long_a_ticket_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr("shared.server.access.time.time", lambda: now)
    policy = access_policy(Settings(_env_file=None, api_secret_key=KEY, turn_retention_h=2), "127.0.0.1", [8000])
    other = access_policy(Settings(_env_file=None, api_secret_key=KEY + "!"), "127.0.0.1", [8000])
    (socket, socket_s), (turn, turn_s) = policy.ticket(), policy.ticket("t")
    assert (socket_s, turn_s) == (30, 7200)
    for given, turn_id, life_s in ((socket, None, socket_s), (turn, "t", turn_s)):
        monkeypatch.setattr("shared.server.access.time.time", lambda life_s=life_s: now + life_s - 1)
        policy.check_ticket(given, turn_id)
        with pytest.raises(ChatError, match="unauthenticated"):
            other.check_ticket(given, turn_id)
        monkeypatch.setattr("shared.server.access.time.time", lambda life_s=life_s: now + life_s + 1)
        with pytest.raises(ChatError, match="unauthenticated"):
            policy.check_ticket(given, turn_id)


async def test_no_secret_is_logged(keyed: Servers, http: httpx.AsyncClient, turn_id: str) -> None:
    good = await ticket(http, {"turn_id": turn_id})
    await http.get(f"/turns/{turn_id}/stream", params={"ticket": good})
    await http.get("/turns/nothing/stream", params={"ticket": good})
    # When this turn is in the log, the lines of the earlier requests are there, too.
    answer = await http.post("/turns", json={"message": "A prompt of mine"}, headers={"X-API-Key": KEY})
    mark = short_turn(answer.json()["turn_id"])
    lines = keyed["sse"].log
    await until(lambda: any(line.get("turn") == mark for line in list(lines)))
    everything = json.dumps([list(keyed[word].log) for word in WORDS])
    for secret in (KEY, good, "A prompt of mine"):
        assert secret not in everything


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "127.example.com", "localhost.example.com"]
)
def test_without_a_key_a_server_binds_loopback_only(host: str) -> None:
    settings = Settings(_env_file=None)
    with pytest.raises(ValueError, match="API_SECRET_KEY"):
        access_policy(settings, host, [8000])
    assert access_policy(Settings(_env_file=None, api_secret_key=KEY), host, [8000]).key == KEY


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_what_loopback_is(host: str) -> None:
    assert is_loopback(host)
    assert access_policy(Settings(_env_file=None), host, [8000]).key is None


async def test_a_server_refuses_to_start_open(word: str) -> None:
    env = {**FAST, "STORE_URL": "sqlite://"}
    with pytest.raises(RuntimeError, match="API_SECRET_KEY"):
        async with serving(word, env=env, arguments=("--host", "0.0.0.0")):
            pass


@pytest.mark.parametrize("key", ["", "   "])
async def test_an_empty_key_is_a_mistake(key: str) -> None:
    with pytest.raises(RuntimeError, match="API_SECRET_KEY"):
        async with serving("rest", env={**FAST, "STORE_URL": "sqlite://", "API_SECRET_KEY": key}):
            pass


async def test_with_a_key_it_may_be_reached_from_elsewhere() -> None:
    env = {**FAST, "STORE_URL": "sqlite://", "API_SECRET_KEY": KEY}
    async with serving("rest", env=env, arguments=("--host", "0.0.0.0")) as server:
        port = server.address.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as http:
            assert (await http.get("/sessions", headers={"X-API-Key": KEY})).status_code == 200
            assert (await http.get("/sessions")).status_code == 401


async def test_a_key_is_no_session(keyed: Servers, client: Connect) -> None:
    """Every client with the key sees the same sessions: the key is the server's, and not a user's."""
    one, two = await client("rest", on=keyed, key=KEY), await client("grpc", on=keyed, key=KEY)
    turn = await one.start(Ask(text="Hello"))
    assert (await two.get_turn(turn.turn_id)).session_id == turn.session_id
