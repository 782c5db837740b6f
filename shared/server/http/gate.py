"""Host, Origin, key, media type and size, before any route sees a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import ChatError
from shared.server.access import AccessPolicy
from shared.server.http.answers import problem

_LINGER_S = 2.0
_LINGER_BODIES = 8
_PUBLIC = frozenset({"/", "/health", "/docs", "/openapi.json", "/demo", "/race"})
PUBLIC_FOLDER = "/web/"


class Gate:
    """Host, Origin, key, media type and size, before any route: pure ASGI, because BaseHTTPMiddleware hides disconnects."""

    def __init__(self, app: ASGIApp, access: AccessPolicy, max_body_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._access = access
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._access.check_host(headers.get("host"))
            if scope["type"] == "websocket":
                self._access.check_origin(headers.get("origin"))
                # Without a header a ticket may follow in the first message; with a wrong one nothing follows.
                scope["state"]["authenticated"] = self._access.key is None
                if "authorization" in headers or "x-api-key" in headers:
                    self._access.check_key(headers)
                    scope["state"]["authenticated"] = True
            else:
                if scope["method"] in ("POST", "DELETE"):
                    self._access.check_origin(headers.get("origin"))
                self._check_key(scope, headers)
                if scope["method"] == "POST":
                    receive = await self._read_body(headers, receive)
        except ChatError as error:
            if scope["type"] == "websocket":
                await receive()
            await _refuse(problem(error), scope, receive, send)
            return
        # An open stream would hold on to it for as long as it lasts.
        del headers
        await self._app(scope, receive, send)

    def _check_key(self, scope: Scope, headers: Mapping[str, str]) -> None:
        path: str = scope["path"]
        if self._access.key is None or path in _PUBLIC or path.startswith(PUBLIC_FOLDER):
            return
        query = scope["query_string"].decode("latin-1")
        if path.startswith("/turns/") and path.endswith("/stream") and "ticket=" in query:
            tickets = parse_qs(query).get("ticket", [""])
            self._access.check_ticket(tickets[0], path.removeprefix("/turns/").removesuffix("/stream"))
            return
        self._access.check_key(headers)

    async def _read_body(self, headers: Mapping[str, str], receive: Receive) -> Receive:
        """The whole body, checked, and a ``receive`` that gives it in one message."""
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            if "expect" not in headers:
                await self._let_finish(receive)
            raise ChatError("payload_too_large")
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    body += message.get("body", b"")
                    if len(body) > self._max_body_bytes:
                        if message.get("more_body", False):
                            await self._let_finish(receive)
                        raise ChatError("payload_too_large")
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise ChatError("invalid_request", "The request was not finished in time.", http_status=408) from None
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media_type != "application/json" and not media_type.endswith("+json"):
            raise ChatError("unsupported_media_type")
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        return replay

    async def _let_finish(self, receive: Receive) -> None:
        """Take the rest of a body and forget it, for a while: closing on unread data resets the line, and the refusal is lost."""
        left = _LINGER_BODIES * self._max_body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


async def _refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if response.status_code in (408, 413):
        # What is left of the request is not read, so the connection cannot be used again.
        response.headers["Connection"] = "close"
    await response(scope, receive, send)
