"""The body of a request: its size, its time and its media type, checked before any route sees the request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import ChatError
from shared.logger import Logger
from shared.server.http.answers import problem

_LINGER_S = 2.0
_LINGER_BODIES = 8


class BodyMiddleware:
    """Reads the whole body of a POST and hands it on in one message. Pure ASGI, because BaseHTTPMiddleware hides disconnects."""

    def __init__(self, app: ASGIApp, logger: Logger, max_body_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._logger = logger
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            try:
                receive = await self._read(Headers(scope=scope), receive)
            except ChatError as error:
                response = problem(error, scope, self._logger)
                if error.code == "unsupported_media_type":
                    # RFC 9110, section 15.5.16: the coding that would be accepted.
                    response.headers["Accept-Encoding"] = "identity"
                elif error.http_status in (408, 413):
                    # The rest of the request is not read, so the connection cannot be used again.
                    response.headers["Connection"] = "close"
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _read(self, headers: Mapping[str, str], receive: Receive) -> Receive:
        """The whole body, checked, as a ``receive`` that gives it in one message."""
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise ChatError("unsupported_media_type", "Send the body without Content-Encoding.")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            if "expect" not in headers:
                await self._discard(receive)
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
                            await self._discard(receive)
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

    async def _discard(self, receive: Receive) -> None:
        """Read the rest of a body for a while. Closing with unread data resets the connection, and the refusal would be lost."""
        left = _LINGER_BODIES * self._max_body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
