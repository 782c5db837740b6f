"""``python -m compare migration``: the article's claims about REST and gRPC, measured on its own subject, pictures.

Four ways to the same picture: JSON with base64 and bare bytes over REST, the article's one message and our stream over gRPC. Each
from a fresh connection; the order is shuffled in each round, the first round is thrown away, medians and the middle half are given.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import httpx

from compare.lines.relay import Relay
from protocols.grpc import chat_pb2, image_generation_pb2
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from protocols.grpc.image_generation_pb2_grpc import ImageGenerationServiceStub
from protocols.processes import serving_all

PROMPT = "a red bridge"
Ask = Callable[[str, str], Awaitable[bytes]]


@dataclass(slots=True)
class Way:
    """One way to a picture, and what was measured on it: ``draw`` includes the model, ``fetch`` is of a picture that is there."""

    name: str
    word: str
    draw: Ask
    fetch: Ask | None = None
    draw_ms: list[float] = field(default_factory=list)
    fetch_ms: list[float] = field(default_factory=list)
    up: int = 0
    down: int = 0
    picture: int = 0


async def rest_json(address: str, size: str) -> bytes:
    """``POST /images``, the picture base64 in JSON."""
    async with _http(address) as http:
        answer = (await http.post("/images", json={"prompt": PROMPT, "size": size})).raise_for_status()
        return base64.b64decode(answer.json()["image"])


async def rest_bytes(address: str, size: str) -> bytes:
    """The same with ``Accept: image/*``."""
    async with _http(address) as http:
        headers = {"Accept": "image/*"}
        answer = await http.post("/images", json={"prompt": PROMPT, "size": size}, headers=headers)
        return answer.raise_for_status().content


async def rest_fetch(address: str, image_id: str) -> bytes:
    """``GET /images/{image_id}``."""
    async with _http(address) as http:
        return (await http.get(f"/images/{image_id}")).raise_for_status().content


async def grpc_article(address: str, size: str) -> bytes:
    """``imagegeneration.ImageGenerationService``, the article's contract: base64 in one message."""
    async with _channel(address) as channel:
        request = image_generation_pb2.ImageRequest(prompt=PROMPT, size=size)
        answer = await ImageGenerationServiceStub(channel).GenerateImage(request)
        return base64.b64decode(answer.image)


async def grpc_stream(address: str, size: str) -> bytes:
    """``chat.ChatService/GenerateImage``: bytes in pieces of 64 KiB; the previews that come first are left out of the picture."""
    final, data = "", b""
    async with _channel(address) as channel:
        request = chat_pb2.GenerateImageRequest(prompt=PROMPT, size=size)
        async for event in ChatServiceStub(channel).GenerateImage(request):
            if event.WhichOneof("body") == "image_started" and not event.image_started.preview:
                final = event.image_started.image_id
            elif event.WhichOneof("body") == "image_chunk" and event.image_chunk.image_id == final:
                data += event.image_chunk.data
    return data


async def grpc_fetch(address: str, image_id: str) -> bytes:
    """``chat.ChatService/GetImage``."""
    async with _channel(address) as channel:
        call = ChatServiceStub(channel).GetImage(chat_pb2.GetImageRequest(image_id=image_id))
        return b"".join([piece.data async for piece in call])


@asynccontextmanager
async def _http(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, verify=False, timeout=60) as http:
        yield http


@asynccontextmanager
async def _channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


def ways() -> list[Way]:
    """The four."""
    return [
        Way("REST, JSON with base64", "rest", rest_json),
        Way("REST, `Accept: image/*`", "rest", rest_bytes, rest_fetch),
        Way("gRPC, the article's message (base64)", "grpc", grpc_article),
        Way("gRPC, streamed bytes", "grpc", grpc_stream, grpc_fetch),
    ]


async def measure(size: str, rounds: int, seed: int = 0) -> list[Way]:
    """All ways, ``rounds`` times after a warm-up."""
    found = ways()
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        env = {"IMAGE_PROVIDER": "offline", "GENAI_PROVIDER": "offline", "STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with serving_all(("rest", "grpc"), env=env) as servers:
            rest = servers["rest"].address
            async with _http(rest) as http:
                made = (await http.post("/images", json={"prompt": PROMPT, "size": size})).raise_for_status().json()
            for number in range(rounds + 1):
                for way in dice.sample(found, len(found)):
                    address = servers[way.word].address
                    drawn = await _timed(way.draw, address, size)
                    fetched = await _timed(way.fetch, address, made["image_id"]) if way.fetch else None
                    if number:
                        way.draw_ms.append(drawn)
                        way.fetch_ms += [fetched] if fetched is not None else []
            for way in found:
                async with Relay(servers[way.word].address) as relay:
                    way.picture = len(await way.draw(relay.address, size))
                    way.up, way.down = relay.up_bytes, relay.down_bytes
    return found


async def _timed(ask: Ask, address: str, what: str) -> float:
    begun = time.perf_counter()
    await ask(address, what)
    return (time.perf_counter() - begun) * 1000


def table(found: Sequence[Way], size: str, rounds: int) -> str:
    """Markdown."""
    lines = [
        f"| {size}, {rounds} rounds | drawn and here, ms | fetched again, ms | bytes up | bytes down | of the picture |",
        "|---|---|---|---|---|---|",
    ]
    for way in found:
        share = f"{way.down / way.picture:.2f} ×"
        cells = (_middle(way.draw_ms), _middle(way.fetch_ms), f"{way.up:,}", f"{way.down:,}", share)
        lines.append(f"| {way.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _middle(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


# What a client does wrong, as JSON and as a message's fields.
MISTAKES: dict[str, dict[str, object]] = {
    "`promt` for `prompt`": {"promt": PROMPT},
    "`sise` for `size`": {"prompt": PROMPT, "sise": "64x64"},
    "a number for the prompt": {"prompt": 5},
    "a number for the size": {"prompt": PROMPT, "size": 64},
    "no prompt at all": {},
    "an empty prompt": {"prompt": ""},
    "a size that is none": {"prompt": PROMPT, "size": "large"},
}


async def mistakes() -> str:
    """Who notices them, and when; Markdown."""
    lines = ["| a client sends | REST | gRPC |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        env = {"IMAGE_PROVIDER": "offline", "GENAI_PROVIDER": "offline", "STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with serving_all(("rest", "grpc"), env=env) as servers:
            for mistake, fields in MISTAKES.items():
                over_rest = await _rest_notices(servers["rest"].address, fields)
                over_grpc = await _grpc_notices(servers["grpc"].address, fields)
                lines.append(f"| {mistake} | {over_rest} | {over_grpc} |")
    return "\n".join(lines) + "\n"


async def _rest_notices(address: str, fields: dict[str, object]) -> str:
    async with _http(address) as http:
        answer = await http.post("/images", json=fields)
    if answer.is_success:
        picture = answer.json()
        return f"nobody: a picture of {picture['width']}x{picture['height']}"
    return f"the server: {answer.status_code}"


async def _grpc_notices(address: str, fields: dict[str, object]) -> str:
    try:
        request = chat_pb2.GenerateImageRequest(**fields)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        return f"the client's own code: {type(error).__name__}, nothing is sent"
    async with _channel(address) as channel:
        try:
            async for _ in ChatServiceStub(channel).GenerateImage(request):
                pass
        except grpc.aio.AioRpcError as error:
            return f"the server: {error.code().name}"
    return "nobody: a picture"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="compare migration", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--size", default="1024x1024", metavar="WxH")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)
    print(table(asyncio.run(measure(args.size, args.rounds)), args.size, args.rounds))
    print(asyncio.run(mistakes()), end="")
    return 0
