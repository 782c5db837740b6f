"""The OpenAI images wire: one JSON object, or with ``stream`` server-sent events of partial pictures and the whole one.

https://platform.openai.com/docs/api-reference/images · https://platform.openai.com/docs/api-reference/images-streaming
"""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from PIL import Image

from tests.emulators.server import PROVIDER_TEXT, WRONG_KEY, Exchange

MODELS = ("gpt-image-2.6-flare", "gpt-image-1.5", "dall-e-3", "dall-e-2", "stable-diffusion")
_DALLE_ONLY = ("response_format", "style")
_GPT_ONLY = ("output_format", "stream", "partial_images")
_USAGE = {
    "input_tokens": 9,
    "output_tokens": 196,
    "total_tokens": 205,
    "input_tokens_details": {"text_tokens": 9, "image_tokens": 0},
}


def picture(size: str, shade: int) -> bytes:
    """A flat PNG of ``WIDTHxHEIGHT``."""
    width, height = (int(side) for side in size.split("x"))
    out = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 80, 255 - shade)).save(out, "PNG")
    return out.getvalue()


def _b64(size: str, shade: int) -> str:
    return base64.b64encode(picture(size, shade)).decode()


def _error(code: str | None, key: str) -> dict[str, Any]:
    return {"error": {"message": f"{PROVIDER_TEXT} {key}", "type": "emulated", "param": None, "code": code}}


async def openai(exchange: Exchange) -> None:
    """``POST /v1/images/generations``.

    Scenarios: plain, status-N, block, hang, slow-N (ms), stall, cut, error-frame-N, eof, garbage, not-a-picture, and those
    of ``ODD``: what image servers send beside the API's page.
    """
    seen = exchange.seen
    asked, scenario, number = seen.body, seen.scenario, seen.number
    key = seen.headers.get("authorization", "").removeprefix("Bearer ")
    dalle = not asked["model"].startswith("gpt-image")
    wrong = _GPT_ONLY if dalle else _DALLE_ONLY
    if key == WRONG_KEY:
        await exchange.answer(401, _error("invalid_api_key", key))
    elif asked["model"] not in MODELS:
        await exchange.answer(404, _error("model_not_found", key))
    elif any(name in asked for name in wrong):
        await exchange.answer(400, _error("unknown_parameter", key))
    elif scenario in ODD:
        await ODD[scenario](exchange)
    elif scenario == "status":
        await exchange.answer(number, _error(None, key), {"retry-after": "7"} if number == 429 else None)
    elif scenario == "block":
        await exchange.answer(400, _error("moderation_blocked", key))
    elif scenario == "hang":
        await exchange.silence()
    elif asked.get("stream"):
        await _stream(exchange, key)
    else:
        await exchange.pause(number / 1000 if scenario == "slow" else 0)
        data: list[dict[str, Any]] = [
            {"b64_json": _b64(asked["size"], 200), "revised_prompt": f"revised: {asked['prompt']}"}
        ]
        if scenario == "not-a-picture":
            data = [{"b64_json": base64.b64encode(PROVIDER_TEXT.encode()).decode()}]
        await exchange.answer(200, {"created": 1, "data": [] if scenario == "eof" else data})


def _pictures(*pictures: dict[str, Any]) -> dict[str, Any]:
    return {"created": 1, "data": list(pictures)}


def damaged(kind: str) -> bytes:
    """Bytes that are no whole picture: ``truncated``, ``broken``, or a ``bomb`` of more pixels than anyone asks for."""
    if kind == "bomb":
        size = struct.pack("!IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        head = b"\x89PNG\r\n\x1a\n" + struct.pack("!I", len(size)) + b"IHDR" + size
        return head + struct.pack("!I", zlib.crc32(b"IHDR" + size)) + b"\0\0\0\0IDAT5\xaf\x06\x1e"
    whole = picture("1024x1024", 200)
    return whole[: len(whole) // 2] if kind == "truncated" else whole[:60] + bytes(40) + whole[100:]


async def _refusing(exchange: Exchange, *names: str, named: bool = True) -> None:
    """A picture, but a 400 while one of these parameters is in the request."""
    refused = [name for name in names if name in exchange.seen.body]
    if refused:
        error = {
            "message": f"Unknown parameter: '{refused[0]}'." if named else "Bad request",
            "type": "invalid",
            "code": None,
        }
        return await exchange.answer(400, {"error": error})
    return await exchange.answer(200, _pictures({"b64_json": _b64(exchange.seen.body["size"], 200)}))


def _answering(make: Callable[[Exchange], dict[str, Any]]) -> Callable[[Exchange], Awaitable[None]]:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(200, make(exchange))

    return answer


def _size(exchange: Exchange) -> str:
    return str(exchange.seen.body["size"])


ODD: dict[str, Callable[[Exchange], Awaitable[None]]] = {
    "whole": _answering(lambda e: _pictures({"b64_json": _b64(_size(e), 200), "revised_prompt": 7})),
    "data-uri": _answering(lambda e: _pictures({"b64_json": f"data:image/png;base64,{_b64(_size(e), 200)}"})),
    "data-url": _answering(lambda e: _pictures({"url": f"data:image/png;base64,{_b64(_size(e), 200)}"})),
    "wrapped": _answering(
        lambda e: _pictures({"b64_json": base64.encodebytes(picture(_size(e), 200)).decode().replace("\n", "\r\n")})
    ),
    "url-alphabet": _answering(
        lambda e: _pictures({"b64_json": base64.urlsafe_b64encode(picture(_size(e), 200)).decode().rstrip("=")})
    ),
    "url": _answering(lambda e: _pictures({"url": "/pictures/plain.png", "b64_json": None})),
    "url-redirect": _answering(lambda e: _pictures({"url": "/redirect-3"})),
    "url-too-many": _answering(lambda e: _pictures({"url": "/redirect-4"})),
    "url-missing": _answering(lambda e: _pictures({"url": "/pictures/none.png"})),
    "url-elsewhere": _answering(lambda e: _pictures({"url": "http://localhost:9/plain.png"})),
    "url-escape": _answering(lambda e: _pictures({"url": "/escape"})),
    "url-file": _answering(lambda e: _pictures({"url": "file:///etc/hostname"})),
    "url-number": _answering(lambda e: _pictures({"url": 7})),
    "truncated": _answering(lambda e: _pictures({"b64_json": base64.b64encode(damaged("truncated")).decode()})),
    "broken": _answering(lambda e: _pictures({"b64_json": base64.b64encode(damaged("broken")).decode()})),
    "bomb": _answering(lambda e: _pictures({"b64_json": base64.b64encode(damaged("bomb")).decode()})),
    "list": _answering(lambda e: {"data": [[_b64(_size(e), 200)]]}),
    "no-data": _answering(lambda e: {"data": None}),
    "odd-counts": _answering(
        lambda e: _pictures({"b64_json": _b64(_size(e), 200)}) | {"usage": {"input_tokens": -1, "output_tokens": 4.0}}
    ),
    "no-response-format": lambda e: _refusing(e, "response_format"),
    "no-stream": lambda e: _refusing(e, "stream", "partial_images"),
    "no-output-format": lambda e: _refusing(e, "output_format"),
    "vague": lambda e: _refusing(e, "stream", "partial_images", "output_format", "response_format", named=False),
}


async def file(exchange: Exchange) -> None:
    """``GET``: a picture, redirects that lead to it (``/redirect-N``), one that leads away, and 404."""
    path = exchange.seen.path
    if path == "/pictures/plain.png":
        return await exchange.file(picture("1536x1024", 200), "image/png")
    if path == "/escape":
        return await exchange.answer(302, {}, {"location": "http://localhost:9/plain.png", "set-cookie": "a=b"})
    if number := re.fullmatch(r"/redirect-(\d)", path):
        left = int(number[1]) - 1
        target = f"/redirect-{left}" if left else "/pictures/plain.png"
        return await exchange.answer(302, {}, {"location": target, "set-cookie": f"step={left}"})
    return await exchange.answer(404, {})


async def _stream(exchange: Exchange, key: str) -> None:
    asked, scenario, number = exchange.seen.body, exchange.seen.scenario, exchange.seen.number
    common = {"created_at": 1, "size": asked["size"], "quality": "auto", "background": "auto", "output_format": "png"}

    async def send(value: dict[str, Any]) -> None:
        await exchange.send(f"event: {value.get('type', 'error')}\ndata: {json.dumps(value)}\n\n".encode())

    await exchange.start("text/event-stream")
    await exchange.pause(number / 1000 if scenario == "slow" else 0)
    for index in range(asked["partial_images"]):
        partial = {"type": "image_generation.partial_image", "partial_image_index": index}
        await send({**partial, "b64_json": _b64(asked["size"], 50 * index), **common})
        if scenario == "stall":
            await exchange.silence()
        if scenario == "cut":
            await exchange.pause(0.02)
            return exchange.cut()
        if scenario == "error-frame":
            await send(_error({429: "rate_limit_exceeded"}.get(number, "server_error"), key))
            return await exchange.finish()
        if scenario == "eof":
            return await exchange.finish()
        if scenario == "garbage":
            await exchange.send(f"data: <html>{PROVIDER_TEXT}</html>\n\n".encode())
            return await exchange.finish()
    b64_json = (
        base64.b64encode(PROVIDER_TEXT.encode()).decode() if scenario == "not-a-picture" else _b64(asked["size"], 200)
    )
    await send({"type": "image_generation.completed", "b64_json": b64_json, **common, "usage": _USAGE})
    return await exchange.finish()
