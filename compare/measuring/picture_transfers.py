"""Four ways to get the same picture: JSON with base64 and bare bytes over REST, one message and a stream over gRPC.

Each request opens a connection of its own. They are raw requests without the clients of the project, because the article compares
the protocols.
"""

from __future__ import annotations

import base64
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx

from compare.lines.relay import Relay
from protocols.grpc import chat_pb2, image_generation_pb2
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from protocols.grpc.image_generation_pb2_grpc import ImageGenerationServiceStub
from protocols.processes import Server, serving_all

PROMPT = "a red bridge"
# Takes an address, and the size or the id of a picture; returns its bytes.
Request = Callable[[str, str], Awaitable[bytes]]


@dataclass(slots=True)
class Transfer:
    """One way to get a picture, and what was measured with it.

    ``draw_ms`` includes the drawing, ``fetch_ms`` is of a picture that exists. ``up`` and ``down`` are TCP payload in bytes.
    """

    name: str
    word: str
    draw: Request
    fetch: Request | None = None
    draw_ms: list[float] = field(default_factory=list)
    fetch_ms: list[float] = field(default_factory=list)
    up: int = 0
    down: int = 0
    picture: int = 0


async def _rest_json(address: str, size: str) -> bytes:
    """``POST /images``, the picture as base64 in JSON."""
    async with rest_client(address) as http:
        answer = (await http.post("/images", json={"prompt": PROMPT, "size": size})).raise_for_status()
        return base64.b64decode(answer.json()["image"])


async def _rest_bytes(address: str, size: str) -> bytes:
    """``POST /images`` with ``Accept: image/*``, the picture as bytes."""
    async with rest_client(address) as http:
        headers = {"Accept": "image/*"}
        answer = await http.post("/images", json={"prompt": PROMPT, "size": size}, headers=headers)
        return answer.raise_for_status().content


async def _rest_fetch(address: str, image_id: str) -> bytes:
    """``GET /images/{image_id}``."""
    async with rest_client(address) as http:
        return (await http.get(f"/images/{image_id}")).raise_for_status().content


async def _grpc_article(address: str, size: str) -> bytes:
    """``imagegeneration.ImageGenerationService``, the article's contract: base64 in one message."""
    async with grpc_channel(address) as channel:
        request = image_generation_pb2.ImageRequest(prompt=PROMPT, size=size)
        answer = await ImageGenerationServiceStub(channel).GenerateImage(request)
        return base64.b64decode(answer.image)


async def _grpc_stream(address: str, size: str) -> bytes:
    """``chat.ChatService/GenerateImage``: bytes in pieces; the previews that come before the picture are left out."""
    final, data = "", b""
    async with grpc_channel(address) as channel:
        request = chat_pb2.GenerateImageRequest(prompt=PROMPT, size=size)
        async for event in ChatServiceStub(channel).GenerateImage(request):
            if event.WhichOneof("body") == "image_started" and not event.image_started.preview:
                final = event.image_started.image_id
            elif event.WhichOneof("body") == "image_chunk" and event.image_chunk.image_id == final:
                data += event.image_chunk.data
    return data


async def _grpc_fetch(address: str, image_id: str) -> bytes:
    """``chat.ChatService/GetImage``."""
    async with grpc_channel(address) as channel:
        call = ChatServiceStub(channel).GetImage(chat_pb2.GetImageRequest(image_id=image_id))
        return b"".join([piece.data async for piece in call])


@asynccontextmanager
async def rest_client(address: str) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client with a connection of its own."""
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, verify=False, timeout=60) as http:
        yield http


@asynccontextmanager
async def grpc_channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A plain gRPC channel with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


@asynccontextmanager
async def image_servers() -> AsyncIterator[dict[str, Server]]:
    """The REST and the gRPC server on one store, with the offline model."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'chat.db'}"
        env = {"IMAGE_PROVIDER": "offline", "GENAI_PROVIDER": "offline", "STORE_URL": store}
        async with serving_all(("rest", "grpc"), env=env) as servers:
            yield servers


def transfers() -> list[Transfer]:
    """The four ways."""
    return [
        Transfer("REST, JSON with base64", "rest", _rest_json),
        Transfer("REST, `Accept: image/*`", "rest", _rest_bytes, _rest_fetch),
        Transfer("gRPC, the article's message (base64)", "grpc", _grpc_article),
        Transfer("gRPC, streamed bytes", "grpc", _grpc_stream, _grpc_fetch),
    ]


async def measure_transfers(size: str, rounds: int, seed: int = 0) -> list[Transfer]:
    """The four ways, each measured ``rounds`` times after a warm-up, in an order that is shuffled in each round."""
    found = transfers()
    dice = random.Random(seed)
    async with image_servers() as servers:
        async with rest_client(servers["rest"].address) as http:
            drawn = (await http.post("/images", json={"prompt": PROMPT, "size": size})).raise_for_status().json()
        for number in range(rounds + 1):
            for transfer in dice.sample(found, len(found)):
                address = servers[transfer.word].address
                draw_ms = await _timed_ms(transfer.draw, address, size)
                fetch_ms = await _timed_ms(transfer.fetch, address, drawn["image_id"]) if transfer.fetch else None
                if number:
                    transfer.draw_ms.append(draw_ms)
                    transfer.fetch_ms += [fetch_ms] if fetch_ms is not None else []
        for transfer in found:
            async with Relay(servers[transfer.word].address) as relay:
                transfer.picture = len(await transfer.draw(relay.address, size))
                transfer.up, transfer.down = relay.up_bytes, relay.down_bytes
    return found


async def _timed_ms(request: Request, address: str, what: str) -> float:
    begun = time.perf_counter()
    await request(address, what)
    return (time.perf_counter() - begun) * 1000
