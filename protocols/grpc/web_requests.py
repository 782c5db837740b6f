"""Around the library connectrpc: requests as clients of gRPC-Web and Connect may send them, and answers that name a mistake.

- A media type may have parameters and any case (RFC 9110, section 8.3.1).
- gRPC-Web's text mode is base64 in both directions (github.com/grpc/grpc, doc/PROTOCOL-WEB.md). Google's own client for pages
  streams in this mode alone.
- A body is read whole, within the limits of every server; beyond them the call ends with a status of its protocol.
- Each answer names the encodings that are read, as a client that was refused with UNIMPLEMENTED must be told.
- What HTTP refuses (404, 405, 415) has a body that says what to send.
"""

from __future__ import annotations

import re

import pybase64
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocols.grpc.web_status import refused_by_table
from shared.errors import ChatError
from shared.logger import Logger
from shared.server.http.answers import problem
from shared.server.http.body_middleware import check_framing, read_body

_WEB, _TEXT = "application/grpc-web", "application/grpc-web-text"
_GRPC = re.compile(r"application/grpc(\+.*)?")
# The header that names the encodings which a server reads, by the beginning of the media type.
_ACCEPTED = (("application/grpc", "grpc-accept-encoding"), ("application/connect+", "connect-accept-encoding"))
_NOT_IMPLEMENTED = 501
_MEDIA_TYPES = (
    "application/json, application/proto, application/connect+json, application/connect+proto,"
    " application/grpc-web+proto, application/grpc-web-text"
)
_PLAIN_GRPC = "gRPC itself needs HTTP/2; send it to the server's own port, or gRPC-Web or Connect to this port."
_WORDS = {
    404: "There is no such RPC on this port; chat.proto describes those that there are.",
    405: "An RPC is called with POST; send the message in its body.",
    415: f"Content-Type is none of {_MEDIA_TYPES}.",
}


class PageRequests:
    """An ASGI app around the library's. ``max_bytes`` and ``timeout_s`` limit the body of a request."""

    def __init__(self, app: ASGIApp, logger: Logger, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._logger = logger
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        media_type = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        if _GRPC.fullmatch(media_type) and "http.response.trailers" not in scope.get("extensions", {}):
            error = ChatError("invalid_request", _PLAIN_GRPC, http_status=505)
            await problem(error, scope, self._logger)(scope, receive, send)
            return
        call = _Exchange(self, scope, receive, send, is_text=media_type.startswith(_TEXT))
        await self._app(_readable(scope, media_type), call.receive, call.send)

    async def body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body of a request. Raises ``payload_too_large`` and ``invalid_request``."""
        headers = Headers(scope=scope)
        check_framing(headers)
        return await read_body(headers, receive, self._max_bytes, self._timeout_s)

    def refusal(self, scope: Scope, status: int) -> ASGIApp:
        """The answer to what is no call of this port."""
        code = "unsupported_media_type" if status == 415 else "invalid_request"
        return problem(ChatError(code, _WORDS[status], http_status=status), scope, self._logger)  # type: ignore[arg-type]


class _Exchange:
    """One request and its answer; ``is_text``: both are in gRPC-Web's text mode."""

    def __init__(self, requests: PageRequests, scope: Scope, receive: Receive, send: Send, *, is_text: bool) -> None:
        self._requests = requests
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_text = is_text
        self._is_read = self._closes = self._is_replaced = False

    async def receive(self) -> Message:
        """The body in one message, then what follows on the connection. Raises Refused for a body that cannot be read."""
        if self._is_read:
            return await self._receive()
        self._is_read = True
        try:
            body = await self._requests.body(self._scope, self._receive)
            body = _from_text(body) if self._is_text else body
        except ChatError as error:
            # The rest of the request is not read, so the connection cannot be used again.
            self._closes = error.http_status in (408, 413)
            raise refused_by_table(error) from None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Send a part of the library's answer."""
        if message["type"] == "http.response.start":
            await self._begin(message)
            return
        if self._is_replaced:
            return
        if self._is_text and message["type"] == "http.response.body":
            message = {**message, "body": pybase64.b64encode(message.get("body", b""))}
        await self._send(message)

    async def _begin(self, message: Message) -> None:
        headers = MutableHeaders(raw=message.setdefault("headers", []))
        media_type = headers.get("content-type", "")
        if not media_type and message["status"] in _WORDS:
            self._is_replaced = True
            if "accept-post" in headers:
                headers["accept-post"] = _MEDIA_TYPES
            await self._requests.refusal(self._scope, message["status"])(
                self._scope, self._receive, self._refuse(headers)
            )
            return
        names = [name for begin, name in _ACCEPTED if media_type.startswith(begin)]
        if message["status"] == _NOT_IMPLEMENTED:
            names.append("accept-encoding")
        for name in names:
            headers[name] = "gzip"
        if self._is_text and media_type.startswith(_WEB):
            headers["content-type"] = _TEXT + media_type[len(_WEB) :]
        if self._closes:
            headers["connection"] = "close"
        await self._send(message)

    def _refuse(self, more: MutableHeaders) -> Send:
        """Send a refusal with the headers that the library gave."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message["headers"]).update(more)
            await self._send(message)

        return send


def _readable(scope: Scope, media_type: str) -> Scope:
    """The request as the library reads it.

    It reads headers as UTF-8: bytes that are not become ISO 8859-1's characters (RFC 9110, section 5.5).
    """
    plain = _WEB + media_type[len(_TEXT) :] if media_type.startswith(_TEXT) else media_type
    headers = [
        (name, plain.encode("latin-1") if name == b"content-type" else value)
        if value.isascii()
        else (name, value.decode("latin-1").encode())
        for name, value in scope["headers"]
    ]
    return {**scope, "headers": headers}


def _from_text(body: bytes) -> bytes:
    """The bytes of a body in text mode: pieces of base64, each with its own padding. Raises ``invalid_request``."""
    try:
        return b"".join(pybase64.b64decode(piece, validate=True) for piece in re.findall(rb"[^=]+=*", body))
    except ValueError:
        raise ChatError(
            "invalid_request", "This is not base64; send base64 in gRPC-Web's text mode.", http_status=400
        ) from None
