"""``compare probe`` as a command: several wires, TLS, foreign servers, what it sends and does not send, and its JSON."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import h2.config
import h2.connection
import h2.events
import pytest

from compare import probe as command
from compare.lines.programs import reserved_port, running
from compare.probing.checks import cache, requests
from compare.probing.checks.answers import check_trailers
from compare.probing.document import SCHEMA
from compare.probing.http2 import Http2
from compare.probing.outcome import Kind
from compare.probing.recognise import recognise, speaks
from compare.probing.stream import read_whole
from compare.probing.subject import Subject
from compare.probing.target import parse_target
from compare.probing.wires import WIRES
from protocols.grpc import chat_pb2 as pb
from shared.errors import ServerAbsent
from tests.certificates import ca_file, tls_settings
from tests.conftest import KEY, MakeServers, Servers
from tests.parts import part
from tests.probing import probed


def checked(value: Any, schema: dict[str, Any], where: str = "document") -> None:
    """Hold a value against the part of JSON Schema that the probe's schema uses; every field must be described."""
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "number": (int, float), "boolean": bool}
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), where
    assert value in schema.get("enum", [value]), where
    assert value == schema.get("const", value), where
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= value.keys(), where
        for name, inner in value.items():
            open_fields = schema.get("additionalProperties", None if "properties" in schema else {})
            described = schema.get("properties", {}).get(name, open_fields)
            assert described is not None, f"{where}.{name} is not described"
            checked(inner, described, f"{where}.{name}")
    if isinstance(value, list):
        for number, inner in enumerate(value):
            checked(inner, schema["items"], f"{where}[{number}]")


SHAPE = json.loads(SCHEMA.read_text(encoding="utf-8"))


def test_the_schema_has_every_kind_of_finding_and_every_wire() -> None:
    wire = SHAPE["properties"]["wires"]["items"]["properties"]
    assert wire["findings"]["items"]["properties"]["kind"]["enum"] == list(get_args(Kind))
    assert wire["wire"]["enum"] == [*WIRES, ""]


async def test_nobody_there() -> None:
    status, out, err = await probed("127.0.0.1:9")
    assert (status, out) == (2, "")
    assert "127.0.0.1:9" in err
    assert "Traceback" not in err
    status, out, _ = await probed("127.0.0.1:9", "--json")
    record = json.loads(out)
    checked(record, SHAPE)
    assert (status, record["status"], record["wires"]) == (2, 2, [])


async def test_a_wrong_key_is_found_and_the_answer_is_json(keyed: Servers) -> None:
    status, out, _ = await probed(keyed["sse"].address, "--key", "wrong", "--patience", "1", "--json")
    record = json.loads(out)
    checked(record, SHAPE)
    assert status == record["status"] == 1
    (wire,) = record["wires"]
    assert [finding["kind"] for finding in wire["findings"]] == ["key_removed"]
    assert wire["address"] == keyed["sse"].address
    status, out, _ = await probed(keyed["sse"].address, "--direct", keyed["sse"].address, "--key", "wrong", "--json")
    assert status == 0, "what the server does without the path too is no finding"


async def test_a_real_model_gets_no_turn_unless_it_is_allowed(make_servers: MakeServers) -> None:
    """The server has a provider, whose address leads nowhere: a turn would fail and be counted."""
    real = make_servers(
        GENAI_PROVIDER="gemini", GEMINI_API_KEY="x", GOOGLE_GEMINI_BASE_URL="http://127.0.0.1:9", API_SECRET_KEY=KEY
    )
    async with real["ndjson"].client(key=KEY) as client:
        before = (await client.stats()).sessions_created
        status, out, _ = await probed(real["ndjson"].address, "--key", KEY, "--patience", "1")
        assert status == 0, out
        assert "the gemini model answers: the probe starts no turn" in out
        assert (await client.list_sessions()).sessions == []
        assert (await client.stats()).sessions_created == before


async def test_the_port_for_pages_is_probed_as_grpc_web(make_servers: MakeServers) -> None:
    part("connectrpc")
    pages = make_servers(GRPC_WEB_PORT="0", OFFLINE_TOKENS_PER_S="20")
    status, out, err = await probed(pages["grpc"].page_url or "", "--patience", "1", "--json")
    record = json.loads(out)
    checked(record, SHAPE)
    (wire,) = record["wires"]
    assert (status, wire["wire"], wire["provider"], wire["findings"]) == (0, "grpc-web", "offline", []), err
    judged = {check["check"] for check in wire["checks"] if check["judged"]}
    assert judged >= {"pace", "cursor", "trailers", "silence", "upload", "leaving", "many"}, out


async def test_a_foreign_stream_costs_nothing_unless_it_is_allowed(servers: Servers) -> None:
    address = f"http://{servers['sse'].address}/chat/stream"
    body = ["--body", '{"message": "/tokens 8 hello"}']
    status, _, err = await probed(address, *body)
    assert status == 2
    assert "--allow-turns" in err
    status, out, _ = await probed(address, *body, "--allow-turns", "--patience", "3")
    assert "10 events in" in out
    assert status in (0, 1)


async def test_a_foreign_grpc_method_is_called_by_reflection(servers: Servers) -> None:
    address = servers["grpc"].address
    arguments = (
        "--method",
        "chat.ChatService/SendMessage",
        "--body",
        '{"message": "/tokens 8 hello"}',
        "--allow-turns",
    )
    status, out, err = await probed(address, *arguments, "--patience", "3")
    assert "10 events in" in out, err
    assert status in (0, 1)
    status, _, err = await probed(address, "--method", "chat.ChatService/Nothing", "--allow-turns")
    assert status == 2
    assert "no method" in err


async def test_several_wires_and_those_that_are_not_there(keyed: Servers) -> None:
    address = keyed["sse"].address
    status, out, err = await probed(address, "--wire", "sse", "--wire", "rest", "--key", "wrong", "--json")
    record = json.loads(out)
    checked(record, SHAPE)
    assert status == 1
    assert [wire["wire"] for wire in record["wires"]] == ["sse"]
    assert [wire["wire"] for wire in record["absent"]] == ["rest"]
    assert "rest: " in err
    target = parse_target(address, KEY)
    assert [word for word in WIRES if await speaks(target, word)] == ["sse"]


def test_a_host_alone_means_the_own_port_of_each_wire() -> None:
    args = command.argument_parser().parse_args(["chat.example.com", "--wire", "grpc", "--wire", "all"])
    ports = {word: command._target(args.address, args, word).port for word in WIRES}
    assert ports == {"rest": 8000, "ndjson": 8001, "sse": 8002, "websocket": 8003, "grpc": 50051, "grpc-web": 50052}
    assert command._target("https://chat.example.com", args, "sse").port == 443


async def test_over_tls(make_servers: MakeServers) -> None:
    """The command finds a server over TLS with ``TLS_CA``, and not without; each is recognised, and its checks pass."""
    secure = make_servers(**tls_settings(), API_SECRET_KEY=KEY)
    addresses = {
        "sse": f"https://{secure['sse'].address}",
        "websocket": f"wss://{secure['websocket'].address}",
        "grpc": f"grpcs://{secure['grpc'].address}",
    }
    status, out, err = await probed(addresses["grpc"], "--key", "wrong", "--json", TLS_CA=ca_file())
    (wire,) = json.loads(out)["wires"]
    assert (status, wire["wire"]) == (1, "grpc"), err
    assert "key_removed" in {finding["kind"] for finding in wire["findings"]}
    with pytest.raises(ServerAbsent, match=r"(?i)certificate"):
        await recognise(parse_target(addresses["sse"]))
    trust = ssl.create_default_context(cafile=ca_file())
    for word, address in addresses.items():
        assert (await recognise(parse_target(address, KEY, trust))).word == word
    over = {word: Subject(WIRES[word], parse_target(address, KEY, trust), 1.0) for word, address in addresses.items()}
    assert (await requests.check_upgrade(over["websocket"])).words == "101, with the subprotocol"
    assert (await check_trailers(over["grpc"])).words == "grpc-status 0"
    assert not (await cache.check_turns(over["sse"])).findings
    assert (await requests.check_origin(over["sse"])).words == "a page at this address may ask the server"


async def test_a_stranger_finds_the_line_to_change(servers: Servers) -> None:
    """A proxy without a server behind it, and one that sends another Host: each answers before the transport is known."""
    part("nginx")
    lines = "server {{ listen 127.0.0.1:{0}; location / {{ proxy_pass http://{1}; {2} }} }}"
    with reserved_port() as port:
        async with running("nginx", port, lines.format(port, "127.0.0.1:9", "")) as proxy:
            status, out, err = await probed(proxy.address)
    assert status == 1, err
    assert "HTTP 502 by nginx" in out
    assert "`proxy_pass" in out or "proxy_pass http" in out
    with reserved_port() as port:
        host = "proxy_set_header Host chat.example.com;"
        async with running("nginx", port, lines.format(port, servers["sse"].address, host)) as proxy:
            status, out, err = await probed(proxy.address)
    assert status == 1, err
    assert "the name of the host is changed" in out
    assert "proxy_set_header Host $http_host;" in out


async def test_a_proxy_that_ends_tls_or_takes_a_path_away(servers: Servers) -> None:
    """nginx with the recommended lines and a certificate, and a second location below which the server answers."""
    part("nginx")
    address = servers["sse"].address
    settings = tls_settings()
    lines = f"""server {{{{ listen 127.0.0.1:{{0}} ssl;
        ssl_certificate {settings["TLS_CERT"]}; ssl_certificate_key {settings["TLS_KEY"]};
        location / {{{{ proxy_pass http://{address}; proxy_set_header Host $http_host; }}}}
        location /chat/ {{{{ proxy_pass http://{address}/; proxy_set_header Host $http_host; }}}} }}}}"""
    trust = ssl.create_default_context(cafile=ca_file())
    with reserved_port() as port:
        async with running("nginx", port, lines.format(port)):
            outcome = await requests.check_origin(
                Subject(WIRES["sse"], parse_target(f"https://localhost:{port}", None, trust), 1.0)
            )
            assert [finding.kind for finding in outcome.findings] == ["https_unknown"]
            status, out, err = await probed(f"https://localhost:{port}/chat/", TLS_CA=ca_file())
    assert status == 1, err
    assert "a server of this project answers below /chat" in out
    assert "without a slash after the address" in out


async def test_a_foreign_upload_limit_is_found_without_a_body(servers: Servers) -> None:
    part("nginx")
    lines = "server {{ listen 127.0.0.1:{0}; client_max_body_size 64k; location / {{ proxy_pass http://{1}; }} }}"
    async with servers["ndjson"].client() as client:
        before = (await client.stats()).sessions_created
        with reserved_port() as port:
            async with running("nginx", port, lines.format(port, servers["ndjson"].address)) as proxy:
                body = ("--body", '{"message": "/tokens 8 hello"}', "--allow-turns", "--patience", "3", "--json")
                status, out, err = await probed(f"http://{proxy.address}/chat/stream", *body)
        after = (await client.stats()).sessions_created
    (wire,) = json.loads(out)["wires"]
    limits = [finding for finding in wire["findings"] if finding["kind"] == "upload_limit"]
    assert status == 1, err
    assert limits[0]["numbers"] == {"kib": 65}, out
    assert after == before + 1, "the stream itself, and nothing for the upload"


@asynccontextmanager
async def goaway_server() -> AsyncIterator[str]:
    """A gRPC server that says GOAWAY without an error in the middle of each call, and then ends the call in good order."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        message = pb.Event(turn_id="t", seq=1, chunk=pb.Chunk(text="x")).SerializeToString()
        framed = b"\0" + len(message).to_bytes(4) + message
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    assert event.stream_id is not None
                    connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                    connection.send_data(event.stream_id, framed)
                    writer.write(connection.data_to_send())
                    writer.write(b"\0\0\x08\x07\0\0\0\0\0" + event.stream_id.to_bytes(4) + bytes(4))
                    connection.send_data(event.stream_id, framed)
                    connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            writer.write(connection.data_to_send())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_graceful_goaway_does_not_end_a_call() -> None:
    """A proxy says it after so many requests, or after so long, and lets the running calls end (RFC 9113, section 6.8)."""
    async with goaway_server() as address:
        connection = await Http2.open(parse_target(address))
        heard = await read_whole(await connection.call("chat.ChatService/SendMessage", b""), 10.0)
    assert (len(heard.events), heard.end, heard.rpc_status) == (2, "ended", 0)
