"""What an HTTP server answers with: JSON (RFC 8259), problem+json (RFC 9457), pictures and their ranges, and their schemas."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from starlette.responses import Response

from shared.errors import ChatError
from shared.events import to_json
from shared.server.tasks import first_of
from shared.store.protocol import StoredImage

T = TypeVar("T")


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer (RFC 8259)."""
    return Response(to_json(value), status, headers, "application/json")


def problem(error: ChatError) -> Response:
    """An error as problem+json (RFC 9457)."""
    body = {
        "type": "about:blank",
        "title": error.kind.message,
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": str(uuid.uuid4()),
    }
    headers = {}
    if error.retry_after_s is not None and error.http_status in (429, 503):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    return Response(to_json(body), error.http_status, headers, "application/problem+json")


def stream_headers(turn_id: str) -> dict[str, str]:
    """What every streamed answer carries; X-Accel-Buffering keeps nginx from holding it back."""
    return {
        "Content-Location": f"/turns/{turn_id}",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }


def _schema_of(model: Any) -> dict[str, Any]:
    """A struct's JSON schema, every reference resolved in place (OpenAPI 3.1)."""
    (schema,), components = msgspec.json.schema_components([model], ref_template="{name}")

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(components[node["$ref"]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def answers(model: Any, *, status: int = 200, description: str = "") -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route, for OpenAPI: the schema of a struct of ours."""
    content = {"application/json": {"schema": _schema_of(model)}}
    return {status: {"description": description or "OK", "content": content}}


def streams(media_type: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that streams events, for OpenAPI."""
    reference = {"$ref": "#/components/schemas/Event"}
    return {200: {"description": "The events of the turn", "content": {media_type: {"schema": reference}}}}


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Do the work for as long as the client waits for it; None when it left."""
    task = asyncio.create_task(work)
    try:
        await first_of(asyncio.shield(task), _disconnected(request))
        return task.result() if task.done() else None
    finally:
        task.cancel()


def gone() -> Response:
    """For a client that left: nobody reads it."""
    return Response(status_code=499)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def image_answer(image: StoredImage, headers: Mapping[str, str]) -> Response:
    """A picture, a range of it, 304 or 416."""
    common = {
        "ETag": f'"{image.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    size = len(image.data)
    known = headers.get("if-none-match", "").strip()
    if known == "*" or f'"{image.sha256}"' in known:
        return Response(status_code=304, headers=common)
    unit, _, spec = headers.get("range", "").partition("=")
    first, dash, last = spec.strip().partition("-")
    one = unit.strip() == "bytes" and dash and "," not in spec and (first + last).isdecimal()
    if not one or headers.get("if-range", common["ETag"]) != common["ETag"]:
        return Response(image.data, 200, common, image.mime_type)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= min(size, stop):
        return Response(status_code=416, headers={**common, "Content-Range": f"bytes */{size}"})
    common["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(image.data[start:stop], 206, common, image.mime_type)
