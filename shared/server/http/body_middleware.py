"""The body of a request: its size, its time and its media type, checked before any route sees the request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import ChatError
from shared.logger import Logger
from shared.server.http.answers import problem

_LINGER_S = 2.0
_LINGER_BODIES = 8


class BodyMiddleware:
    """Reads the whole body of a POST and hands it on in one message. Pure ASGI, because BaseHTTPMiddleware hides disconnects.

    ``is_json`` tells of a path whether its body has to be JSON without a Content-Encoding.
    """

    def __init__(
        self, app: ASGIApp, logger: Logger, max_body_bytes: int, timeout_s: float, is_json: Callable[[str], bool]
    ) -> None:
        self._app = app
        self._logger = logger
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s
        self._is_json = is_json

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_json = self._is_json(scope["path"])
        advice: dict[str, str] = {}
        try:
            if is_json and headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                advice["Accept-Encoding"] = "identity"
                raise ChatError("unsupported_media_type", "Send the body without Content-Encoding.")
            body = await self._read(headers, receive)
            media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            if is_json and body and media_type != "application/json" and not media_type.endswith("+json"):
                advice["Accept"] = "application/json"
                raise ChatError("unsupported_media_type")
        except ChatError as error:
            if error.http_status in (408, 413):
                # The rest of the request is not read, so the connection cannot be used again.
                advice["Connection"] = "close"
            response = problem(error, scope, self._logger)
            response.headers.update(advice)
            await response(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The whole body. Raises ``payload_too_large``, and ``invalid_request`` with 408 for a body that does not end."""
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
        return bytes(body)

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


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body in one message, then what follows on the connection."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay
