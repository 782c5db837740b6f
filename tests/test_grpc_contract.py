"""The two contracts of the gRPC server, called by foreign clients; keys; health and reflection."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from PIL import Image

from protocols.grpc import chat_pb2 as pb
from protocols.grpc import image_generation_pb2, image_generation_pb2_grpc
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from shared.client.protocol import Ask, collect
from shared.errors import ChatError
from shared.reply import text_sha256
from tests.conftest import KEY, MakeServers, Servers
from tests.grpc_calls import calling, channel_to, run, status_of
from tests.parts import part

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "protocols" / "grpc"
CHAT = pb.DESCRIPTOR.services_by_name["ChatService"]

# The article's client, unchanged except for the address of the server.
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


@pytest.fixture(scope="module")
def address(servers: Servers) -> str:
    return servers["grpc"].address


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


def buf(*arguments: str) -> list[str]:
    return [str(part("buf").path), "curl", "--http2-prior-knowledge", "--protocol", "grpc", *arguments]


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


OPEN_RPCS = (
    ("/grpc.health.v1.Health/Check", False),
    ("/grpc.health.v1.Health/Watch", True),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", True),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", True),
)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe"], ids=["tag", "length", "utf-8"])
@pytest.mark.parametrize(("path", "streams"), OPEN_RPCS)
async def test_malformed_protobuf_for_health_and_reflection(
    address: str, path: str, streams: bool, data: bytes
) -> None:
    async with channel_to(address) as channel:
        both_ways = "reflection" in path
        shape = channel.stream_stream if both_ways else channel.unary_stream if streams else channel.unary_unary
        status, code, words = await status_of(shape(path)(iter([data]) if both_ways else data))
    assert (status, code) == ("INVALID_ARGUMENT", "invalid_request")
    assert words.startswith("This is not a grpc.")


async def test_echo_shows_how_a_call_arrived_and_no_secret(keyed: Servers) -> None:
    metadata = (("x-api-key", KEY), ("x-forwarded-for", "10.0.0.1"), ("cookie", "id=1"), ("x-bin", b"\xff\x00"))
    async with calling(keyed["grpc"].address) as stub:
        answer = await stub.Echo(pb.EchoRequest(body=b"12345"), metadata=metadata)
        assert (answer.method, answer.http_version, answer.body_bytes) == ("POST", "2", 7)
        headers = {header.name: header.value for header in answer.headers}
        assert headers["x-forwarded-for"] == "10.0.0.1"
        assert headers["user-agent"].startswith("grpc-python-asyncio/")
        assert headers["x-api-key"] == f"({len(KEY)} characters)"
        assert (headers["cookie"], headers["x-bin"]) == ("(4 characters)", "(2 characters)")
        assert KEY not in str(answer)
        assert (await status_of(stub.Echo(pb.EchoRequest())))[:2] == ("UNAUTHENTICATED", "unauthenticated")


async def test_echo_is_not_there_where_probe_is_off(make_servers: MakeServers) -> None:
    async with calling(make_servers(PROBE="off")["grpc"].address) as stub:
        assert (await status_of(stub.Echo(pb.EchoRequest())))[0] == "UNIMPLEMENTED"


async def test_both_names_of_reflection_answer(address: str) -> None:
    async with channel_to(address) as channel:
        for path, _ in OPEN_RPCS[2:]:
            call = channel.stream_stream(
                path,
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            asked = (
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="chat.ChatService"),
                reflection_pb2.ServerReflectionRequest(file_by_filename="no.proto"),
            )
            listed, described, missing = [answer async for answer in call(iter(asked))]
            names = {service.name for service in listed.list_services_response.service}
            assert {CHAT.full_name, "imagegeneration.ImageGenerationService", "grpc.health.v1.Health"} < names
            assert described.file_descriptor_response.file_descriptor_proto
            assert missing.error_response.error_code == 5


async def test_health_lists_and_watches(make_servers: MakeServers) -> None:
    servers = make_servers(DRAIN_S="5")
    serving, stopping = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    async with channel_to(servers["grpc"].address) as channel, servers["grpc"].client() as client:
        stub = health_pb2_grpc.HealthStub(channel)
        listed = await stub.List(health_pb2.HealthListRequest())
        assert {name: it.status for name, it in listed.statuses.items()}[CHAT.full_name] == serving
        unknown = aiter(stub.Watch(health_pb2.HealthCheckRequest(service="no")))
        assert (await anext(unknown)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch = aiter(stub.Watch(health_pb2.HealthCheckRequest(service=CHAT.full_name)))
        assert (await anext(watch)).status == serving
        await client.start(Ask(text="/stall 30 hello"))
        ending = asyncio.create_task(servers.signal("grpc", signal.SIGTERM))
        assert (await anext(watch)).status == stopping
        await ending


@pytest.mark.timeout(240)
async def test_a_conversation_with_grpc_js(address: str) -> None:
    folder = Path(__file__).parent / "grpc_js"
    part("grpc-js")
    node = part("node").path
    seen = json.loads(await run(str(node), "client.mjs", address, str(PROTOS / "chat.proto"), cwd=folder))
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


def test_the_contract_names_every_request_once() -> None:
    """Each RPC has messages of its own, so that one can grow without the others."""
    counted = Counter(GetMessageClass(method.input_type).DESCRIPTOR.full_name for method in CHAT.methods)
    assert set(counted.values()) == {1}
