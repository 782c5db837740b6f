"""The OpenAI images wire: one JSON object, or with ``stream`` server-sent events of partial pictures and the whole one.

https://platform.openai.com/docs/api-reference/images · https://platform.openai.com/docs/api-reference/images-streaming
"""

from __future__ import annotations

import base64
import io
import json
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

    Scenarios: plain, status-N, block, hang, slow-N (ms), stall, cut, error-frame-N, eof, garbage, not-a-picture.
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
