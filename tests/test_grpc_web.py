"""The port for pages beside the gRPC port: gRPC-Web and Connect, by curl, buf and connect's own clients for node."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]

from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.grpc import web_port
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient, Item, Lost, Reconnected, collect, collect_picture
from shared.config import Settings
from shared.errors import ChatError
from shared.events import Event
from shared.server.stopping import Stopping
from tests import connect_js
from tests.certificates import ca_file, tls_settings
from tests.conftest import FAST, KEY, MakeServers, Servers, until
from tests.parts import part

HERE = Path(connect_js.__file__).parent
ROOT = HERE.parents[1]
SERVICE = "chat.ChatService"
OURS = "http://localhost:8002"


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    part("connectrpc")


async def program(*command: str | Path) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a program."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


async def curl(server: Server, rpc: str, body: str | None, *more: str) -> tuple[int, dict[str, str], Any]:
    """A unary call in JSON, with curl: status, headers, answer."""
    data = () if body is None else ("-H", "Content-Type: application/json", "-d", body)
    where = f"{server.page_url}/{rpc if '/' in rpc or not rpc[0].isupper() else f'{SERVICE}/{rpc}'}"
    _, out, _ = await program(part("curl").path, "-s", "-i", *data, *more, where)
    head, _, answer = out.partition("\r\n\r\n")
    lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(answer) if answer.startswith("{") else answer


async def buf(server: Server, protocol: str, rpc: str, body: str, *more: str) -> tuple[int, list[dict[str, Any]], str]:
    """A call with buf: exit status, answers, stderr."""
    command = (
        str(part("buf").path),
        "curl",
        "--protocol",
        protocol,
        "--schema",
        "protocols/grpc/chat.proto",
        *more,
        "-d",
        body,
    )
    status, out, err = await program(*command, f"{server.page_url}/{SERVICE}/{rpc}")
    answers, decoder, at = [], json.JSONDecoder(), 0
    while at < len(out.rstrip()):
        answer, at = decoder.raw_decode(out, at)
        answers.append(answer)
        at += len(out[at:]) - len(out[at:].lstrip())
    return status, answers, err


def reasons(error: dict[str, Any]) -> list[str]:
    """The codes of the error table in a Connect error."""
    values = [base64.b64decode(detail["value"] + "==") for detail in error["details"]]
    return [ErrorInfo.FromString(value).reason for value in values]


@pytest.mark.parametrize("protocol", ["grpcweb", "connect"])
async def test_buf_reads_a_turn_and_its_refusal(servers: Servers, protocol: str) -> None:
    body = json.dumps({"message": "/tokens 5 hello"})
    status, events, err = await buf(servers["grpc"], protocol, "SendMessage", body)
    assert status == 0, err
    assert [event["seq"] for event in events] == [str(number + 1) for number in range(len(events))]
    assert "turnStarted" in events[0]
    assert "turnCompleted" in events[-1]
    async with servers["grpc"].client() as client:
        turn = await client.get_turn(events[0]["turnId"])
    assert "".join(event["chunk"]["text"] for event in events if "chunk" in event) == turn.text
    rest = await buf(servers["grpc"], protocol, "ResumeTurn", json.dumps({"turnId": events[0]["turnId"], "after": 3}))
    assert rest[1] == events[3:]
    status, _, err = await buf(servers["grpc"], protocol, "ResumeTurn", '{"turnId": "nowhere"}')
    error = json.loads(err)
    assert (status, error["code"], reasons(error)) == (40, "not_found", ["TURN_NOT_FOUND"])


async def test_curl_calls_in_json(servers: Servers) -> None:
    server = servers["grpc"]
    assert (await curl(server, "health", None))[2] == {"status": "ok", "transport": "grpc-web", "for_pages_of": "grpc"}
    status, headers, models = await curl(server, "ListModels", "{}")
    assert (status, headers["cache-control"], models["models"][0]["model"]) == (200, "no-store", "offline-1")
    status, _, error = await curl(server, "GetTurn", '{"turnId": "nowhere"}')
    assert (status, error["code"], reasons(error)) == (404, "not_found", ["TURN_NOT_FOUND"])
    for body in (
        '{"turnId',
        '{"turnId": 5}',
        "[]",
        '{"turnId": "\udc80"}'.encode("utf-8", "surrogateescape").decode("latin-1"),
    ):
        status, _, error = await curl(server, "GetTurn", body)
        assert error["code"] in ("invalid_argument", "not_found"), body
    assert (await curl(server, "Nothing", "{}"))[0] == 404
    assert (await curl(server, "ListModels", "{}", "-H", "X-Odd: caf\xe9 \xff"))[0] == 200
    status, _, answer = await curl(
        server, "imagegeneration.ImageGenerationService/GenerateImage", '{"prompt": "a boat", "size": "64x64"}'
    )
    assert (status, base64.b64decode(answer["image"])[1:4]) == (200, b"PNG")


async def test_the_key_is_asked_for_with_the_protocols_own_status(keyed: Servers) -> None:
    server = keyed["grpc"]
    for header in ("X-Nothing: x", "Authorization: Bearer wrong", "X-API-Key: wrong"):
        status, _, error = await curl(server, "ListModels", "{}", "-H", header)
        assert (status, error["code"], reasons(error)) == (401, "unauthenticated", ["UNAUTHENTICATED"])
    for header in (f"Authorization: Bearer {KEY}", f"X-API-Key: {KEY}"):
        assert (await curl(server, "ListModels", "{}", "-H", header))[0] == 200
    status, _, err = await buf(server, "grpcweb", "SendMessage", '{"message": "hello"}')
    assert (status >> 3, json.loads(err)["code"]) == (16, "unauthenticated")


async def test_only_a_page_of_an_allowed_origin_may_call(servers: Servers) -> None:
    server = servers["grpc"]
    names = "connect-protocol-version,x-grpc-web,x-user-agent,grpc-timeout,authorization"
    asked = ("-X", "OPTIONS", "-H", f"Origin: {OURS}", "-H", "Access-Control-Request-Method: POST")
    more = ("-H", f"Access-Control-Request-Headers: {names}")
    status, headers, _ = await curl(server, "SendMessage", None, *asked, *more)
    assert (status, headers["access-control-allow-origin"]) == (200, OURS)
    assert "x-grpc-web" in headers["access-control-allow-headers"].lower()
    status, headers, _ = await curl(server, "ListModels", "{}", "-H", f"Origin: {OURS}")
    assert status == 200
    exposed = {name.strip().lower() for name in headers["access-control-expose-headers"].split(",")}
    assert {"grpc-status", "grpc-message", "grpc-status-details-bin"} <= exposed
    status, headers, error = await curl(server, "ListModels", "{}", "-H", "Origin: http://evil.example")
    assert (status, error["code"]) == (403, "permission_denied")
    assert "access-control-allow-origin" not in headers
    assert (await curl(server, "ListModels", "{}", "-H", "Host: rebound.example"))[0] == 403


@pytest.mark.parametrize("kind", ["grpc-web", "connect", "connect-json", "grpc"])
async def test_connects_own_client_in_node(keyed: Servers, kind: str) -> None:
    """The same script on both ports: the port for pages must give the same answers as the gRPC port."""
    part("connect-node")
    server = keyed["grpc"]
    url = f"http://{server.address}" if kind == "grpc" else server.page_url
    code = HERE / "node_modules" / ".gen"
    await _generate(code)
    command = (part("node").path, HERE / "client.mjs", str(url), kind, code / "protocols/grpc/chat_pb.js", KEY)
    status, out, err = await program(*command)
    assert status == 0, err
    told, rest, unary, stream, unkeyed, chat, cancelled = [json.loads(line) for line in out.splitlines()]
    assert told["cases"] == ["turnStarted", *["chunk"] * 12, "turnCompleted"]
    assert rest["rest"] == [11, 12, 13, 14]
    for refusal in (unary, stream):
        assert refusal == {"code": "NotFound", "details": ["google.rpc.ErrorInfo"]}
    assert unkeyed == {"code": "Unauthenticated", "details": ["google.rpc.ErrorInfo"]}
    assert chat is None if kind == "grpc" else chat["code"] == "Unimplemented"
    assert cancelled == {"last": "turnCancelled"}


async def _generate(folder: Path) -> None:
    """The messages of chat.proto for node, beside the packages that they import."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    await asyncio.to_thread((folder / "package.json").write_text, '{"type": "module"}')
    plugin = HERE / "node_modules" / ".bin" / "protoc-gen-es"
    command = (
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I.",
        f"--plugin=protoc-gen-es={plugin}",
        f"--es_out={folder}",
    )
    status, _, err = await program(*command, "--es_opt=target=js", "protocols/grpc/chat.proto")
    assert status == 0, err


async def test_the_committed_bundle_is_what_its_sources_give() -> None:
    part("esbuild")
    status, _, err = await program(sys.executable, "-m", "tests.connect_js", "--check")
    assert status == 0, err


async def test_leaving_is_not_cancelling(servers: Servers) -> None:
    server = servers["grpc"]
    command = (str(part("buf").path), "curl", "--protocol", "grpcweb", "--schema", "protocols/grpc/chat.proto", "-d",
               '{"message": "/tokens 60 /stall 3 hello"}', f"{server.page_url}/{SERVICE}/SendMessage")  # fmt: skip
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    while b'"turnId"' not in (line := await process.stdout.readline()):
        assert line
    turn_id = line.split(b'"')[3].decode()
    async with server.client() as client:
        before = (await client.stats()).streams_active
        assert before >= 1
        process.kill()
        await process.communicate()

        async def left() -> bool:
            return (await client.stats()).streams_active < before

        await until(left)
        assert (await client.get_turn(turn_id)).status == "running"
        await client.cancel(turn_id)


async def test_a_draining_server_ends_a_call_with_unavailable() -> None:
    env = {**FAST, "STORE_URL": "sqlite://", "DRAIN_S": "0.5"}
    async with serving("grpc", env=env) as server:
        calling = asyncio.create_task(
            buf(server, "connect", "SendMessage", '{"message": "/tokens 9 /stall 600 hello"}')
        )
        async with server.client() as client:

            async def running() -> bool:
                return (await client.stats()).streams_active == 1

            await until(running)
        status = await server.stop(signal.SIGTERM)
        _, events, err = await calling
    assert status == 0
    assert "turnInterrupted" in events[-1] or json.loads(err)["code"] == "unavailable"


async def test_over_tls() -> None:
    env = {**FAST, "STORE_URL": "sqlite://", **tls_settings()}
    async with serving("grpc", env=env) as server:
        assert str(server.page_url).startswith("https://127.0.0.1:")
        trusting = ("--cacert", ca_file())
        assert (await curl(server, "health", None, *trusting))[0] == 200
        own = ("-H", "Origin: https://localhost:8002")
        status, headers, _ = await curl(server, "ListModels", "{}", *trusting, *own)
        assert (status, headers["access-control-allow-origin"]) == (200, "https://localhost:8002")
        assert (await buf(server, "grpcweb", "SendMessage", '{"message": "hello"}', *trusting))[0] == 0


@pytest.mark.parametrize(
    ("setting", "present", "found"),
    [
        (None, True, "bound"),
        (None, False, "off, because connectrpc is not installed"),
        ("off", False, ""),
        ("off", True, ""),
        ("0", False, "GRPC_WEB_PORT is set, and connectrpc is not installed"),
        ("70000", True, "GRPC_WEB_PORT: a port is 0 to 65535, or off"),
        ("taken", True, "another GRPC_WEB_PORT"),
    ],
)
def test_the_setting(setting: str | None, present: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        if setting is not None:
            monkeypatch.setenv("GRPC_WEB_PORT", str(other.getsockname()[1]) if setting == "taken" else setting)
        if not present:
            monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        try:
            with web_port.page_listening("127.0.0.1", 0, Settings(_env_file=None)) as pages:
                said = pages.off or ("bound" if pages.port else "")
        except (ValueError, OSError) as error:
            said = str(error)
    assert said == found if found in ("", "bound") else found in said


async def test_the_grpc_port_does_not_wait_for_the_libraries_of_the_port_for_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their import is held up here: the gRPC server runs and stops meanwhile, and no page is answered after that."""
    held = threading.Event()
    monkeypatch.setattr(importlib, "import_module", lambda name: held.wait(30))
    context: Any = None
    with socket.socket() as listener:
        async with asyncio.timeout(20), web_port.pages_running(context, listener, (), (), Stopping(0)):
            assert not held.is_set()
            asyncio.get_running_loop().call_later(0.1, held.set)
    assert held.is_set()


def page_client(server: Server, **options: Any) -> ChatClient:
    """A client of this project over gRPC-Web."""
    assert server.page_url is not None
    return TRANSPORTS["grpc"].page_client(server.page_url, **options)


async def test_our_client_over_the_port_for_pages_reads_the_same_log(servers: Servers) -> None:
    async with page_client(servers["grpc"]) as web, servers["grpc"].client() as client:
        assert (await web.health())["status"] == "ok"
        session_id = (await web.create_session()).session_id
        live = [item async for item in web.chat("/tokens 200 hello", session_id=session_id)]
        turn_id = getattr(live[0], "turn_id", "")
        assert live == [item async for item in client.read(turn_id)]
        assert live[150:] == [item async for item in web.read(turn_id, 150)]
        assert (await collect_picture(web.image("a boat", size="64x64"))).image[1:4] == b"PNG"
        assert await web.list_messages(session_id) == await client.list_messages(session_id)
        with pytest.raises(ChatError, match="turn_not_found"):
            await web.get_turn("nowhere")
        with pytest.raises(ChatError, match="turn_not_found"):
            await collect(web.read("nowhere"))
        with pytest.raises(ChatError, match="no connection"):
            web.watch(session_id)


async def test_our_client_over_the_port_for_pages_comes_back_after_a_cut(make_servers: MakeServers) -> None:
    slow = make_servers(OFFLINE_TOKENS_PER_S="60", HEARTBEAT_S="1")
    async with page_client(slow["grpc"]) as web:
        seen: list[Item] = []
        async for item in web.chat("/tokens 40 /stall 2 hello"):
            seen.append(item)
            if len(seen) == 8:
                await web.cut()
        assert [type(item) for item in seen if isinstance(item, Lost | Reconnected)] == [Lost, Reconnected]
        assert [item.seq for item in seen if isinstance(item, Event)] == list(range(1, 43))
        cancelling = collect(web.chat("/tokens 40 /stall 600 hello"))
        waiting = asyncio.create_task(cancelling)

        async def running() -> str | None:
            newest = (await web.list_sessions(limit=1)).sessions[0]
            return newest.running_turn_id

        await web.cancel(await until(running))
        assert (await waiting).status == "cancelled"


async def test_a_race_over_tls_has_the_lane() -> None:
    command = (
        sys.executable,
        "-m",
        "compare",
        "race",
        "--only",
        "ndjson,grpc,grpc-web",
        "--tokens",
        "6",
        "--rounds",
        "1",
    )
    status, out, err = await program(*command, "--rate", "50", "--tls", "--explain")
    assert status == 0, err
    assert "in their name), TLS," in out
    assert "The text is the model's, character by character, in every lane." in out


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


ASKED = message(pb.SendMessageRequest(message="/tokens 2 hello").SerializeToString())
LARGE = message(pb.SendMessageRequest(message="x" * 3000).SerializeToString())
# What a client may get wrong: the kind of body, RPC, body; then the HTTP status, and what the answer must hold.
ODD: dict[str, tuple[str, str, bytes, int, bytes]] = {
    "no kind": ("octet-stream", "SendMessage", ASKED, 415, b""),
    "unknown RPC": ("grpc-web+proto", "Nothing", ASKED, 404, b""),
    "Chat": ("grpc-web+proto", "Chat", message(b""), 200, b"grpc-status: 12"),
    "too large": ("grpc-web+proto", "SendMessage", LARGE, 200, b"grpc-status: 8"),
    "much too large": ("grpc-web+proto", "SendMessage", LARGE * 3, 200, b"grpc-status: 8"),
    "a length that lies": ("grpc-web+proto", "SendMessage", b"\0\xff\xff\xff\xffx", 200, b"grpc-status: 8"),
    "half a prefix": ("grpc-web+proto", "SendMessage", b"\0\0", 200, b"grpc-status: 3"),
    "no message": ("grpc-web+proto", "SendMessage", b"", 200, b"grpc-status: 12"),
    "two messages": ("grpc-web+proto", "SendMessage", ASKED * 2, 200, b"grpc-status: 12"),
    "no protobuf": ("grpc-web+proto", "SendMessage", message(b"\xff\xff"), 200, b"grpc-status: 3"),
    "compressed by nothing": ("grpc-web+proto", "SendMessage", b"\1" + ASKED[1:], 200, b"grpc-status: 13"),
    "no turn": ("grpc-web+proto", "ResumeTurn", message(b"\x0a\x01x"), 200, b"grpc-status: 5"),
    "no turn, Connect": ("connect+proto", "ResumeTurn", message(b"\x0a\x01x"), 200, b'"code": "not_found"'),
    "Connect in JSON": (
        "connect+json",
        "SendMessage",
        message(b'{"message": "/tokens 2 hello"}'),
        200,
        b'"turnCompleted"',
    ),
    "as it should be": ("grpc-web+proto", "SendMessage", ASKED, 200, b"grpc-status: 0"),
}


async def test_what_a_client_may_get_wrong_has_an_answer(make_servers: MakeServers, tmp_path: Path) -> None:
    servers = make_servers(MAX_BODY_BYTES="2000")
    server = servers["grpc"]
    sent = tmp_path / "sent"
    for name, (kind, rpc, body, status, holds) in ODD.items():
        await asyncio.to_thread(sent.write_bytes, body)
        command = (part("curl").path, "-s", "-w", "%{http_code}", "-H", f"Content-Type: application/{kind}")
        out = (await program(*command, "--data-binary", f"@{sent}", f"{server.page_url}/{SERVICE}/{rpc}"))[1]
        assert out.endswith(str(status)), (name, out)
        assert holds.decode() in out, (name, out)
    foreign = ("-X", "OPTIONS", "-H", "Origin: http://evil.example", "-H", "Access-Control-Request-Method: POST")
    status, headers, _ = await curl(server, "SendMessage", None, *foreign)
    assert (status, "access-control-allow-origin" in headers) == (400, False)
    assert (await curl(server, "ListModels?encoding=json&message=%7B%7D&connect=v1", None))[0] == 405
    assert (await curl(server, "grpc.health.v1.Health/Check", "{}"))[2] == {"status": "SERVING"}
    assert not servers.errors()
