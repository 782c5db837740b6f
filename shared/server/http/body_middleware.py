"""The body of a request: its codings, its size, its time and its media type, checked before any route sees the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import ChatError
from shared.logger import Logger
from shared.server.http.answers import problem


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
            check_framing(headers)
            if is_json:
                _check_codings(headers, advice)
                # Before the body: a client that waits after ``Expect: 100-continue`` need not send it.
                _check_media_type(headers, advice, has_body=_length(headers) > 0)
            body = await read_body(headers, receive, self._max_body_bytes, self._timeout_s)
            if is_json:
                _check_media_type(headers, advice, has_body=bool(body))
                _check_json(body)
        except ChatError as error:
            if error.http_status in (408, 413):
                # The rest of the request is not read, so the connection cannot be used again.
                advice["Connection"] = "close"
            response = problem(error, scope, self._logger)
            response.headers.update(advice)
            await response(scope, receive, send)
            return
        await self._app(scope, replay(body, receive), send)


async def read_body(headers: Headers, receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body. Raises ``payload_too_large``, and ``invalid_request`` with 408 for a body that does not end."""
    if _length(headers) > max_bytes:
        raise ChatError("payload_too_large")
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise ChatError("payload_too_large")
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise ChatError(
            "invalid_request", "The request was not finished in time; send it again, whole.", http_status=408
        ) from None
    return bytes(body)


def check_framing(headers: Headers) -> None:
    """Raises ``invalid_request`` with 501 for a transfer coding that is not read (RFC 9112, section 6.1)."""
    if _tokens(headers, "transfer-encoding") - {"chunked"}:
        raise ChatError(
            "invalid_request",
            "Only the transfer coding chunked is read; send the body with it, or with Content-Length.",
            http_status=501,
        )


def _check_codings(headers: Headers, advice: dict[str, str]) -> None:
    """Raises ``unsupported_media_type`` for a compressed body. ``advice`` takes headers for the answer."""
    if _tokens(headers, "content-encoding") - {"identity"}:
        advice["Accept-Encoding"] = "identity"
        raise ChatError("unsupported_media_type", "A compressed body is not read; send it without Content-Encoding.")


def _check_media_type(headers: Headers, advice: dict[str, str], *, has_body: bool) -> None:
    """Raises ``unsupported_media_type`` for a body that is not JSON by its ``Content-Type``."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and media_type != "application/json" and not media_type.endswith("+json"):
        advice["Accept"] = "application/json"
        raise ChatError("unsupported_media_type")


def _length(headers: Headers) -> int:
    """The ``Content-Length``; 0 for none. The HTTP server has refused what is no number."""
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0


def _tokens(headers: Headers, name: str) -> set[str]:
    """The members of a list in a header, in lower case; several lines are one list (RFC 9110, section 5.3)."""
    return {token.strip().lower() for line in headers.getlist(name) for token in line.split(",")} - {""}


def _check_json(body: bytes) -> None:
    """Raises ``invalid_request`` with 400 for what Python's parser reads and RFC 8259 does not have.

    These are other encodings than UTF-8, which have NUL bytes, and the numbers NaN and Infinity.
    """
    if b"\0" in body:
        _refuse_json()
    if b"NaN" in body or b"Infinity" in body:
        try:
            json.loads(body, parse_constant=_refuse_json)
        except (ValueError, RecursionError):
            # The framework parses the body again and answers.
            return


def _refuse_json(_constant: str = "") -> NoReturn:
    raise ChatError("invalid_request", "The body is not JSON; send JSON (RFC 8259) in UTF-8.", http_status=400)


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body in one message, then what follows on the connection."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return whole.pop() if whole else await receive()

    return receive_again
