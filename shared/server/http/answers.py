"""What an HTTP server answers with: JSON (RFC 8259), problem+json (RFC 9457), and nothing to a client that left."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar, cast

from fastapi import Request
from starlette.responses import Response
from starlette.types import Scope

from shared.errors import ChatError
from shared.events import to_json
from shared.logger import Logger

T = TypeVar("T")

_LOGGED_CHARS = 200


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer (RFC 8259)."""
    return Response(to_json(value), status, headers, "application/json")


def problem(error: ChatError, scope: Scope, logger: Logger, *, why: str = "") -> Response:
    """An error as problem+json (RFC 9457), and a line in the log with the same ``request_id``.

    ``why`` is for the log alone, such as the type of an exception.
    """
    request_id = str(uuid.uuid4())
    write, event = (logger.error, "internal error") if error.code == "internal" else (logger.info, "refused")
    # The raw path is ASCII and has no query, which may hold a ticket.
    path = scope.get("raw_path", b"").decode("ascii", "replace")[:_LOGGED_CHARS]
    write(event, code=error.code, status=error.http_status, path=path, request_id=request_id, why=why or error.message)
    body = {
        "type": "about:blank",
        "title": error.kind.message,
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": request_id,
        **({"last_seq": error.last_seq} if error.last_seq is not None else {}),
    }
    headers = {}
    if error.retry_after_s is not None and error.http_status in (429, 503):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    return Response(to_json(body), error.http_status, headers, "application/problem+json")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``; None, and ``work`` is cancelled, when the client leaves before."""
    working = cast("asyncio.Task[None]", asyncio.current_task())
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not left or working.uncancel():
            raise
        return None
    finally:
        watching.cancel()


def no_reader() -> Response:
    """The answer to a client that left. No client reads this answer; 499 is nginx's status for it."""
    return Response(status_code=499)
