"""What every answer has in common: HEAD without a body; caching and ranges where a route has them; one form of internal errors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.chat.turn_log import LineDropped
from shared.errors import ChatError
from shared.logger import Logger
from shared.server.http.answers import problem
from shared.server.tasks import first_of

_INTERNAL_ERROR = 1011
# The name in a request's state that asks the HTTP server to break the connection.
BREAK_LINE = "break_line"


class AnswerMiddleware:
    """Answers HEAD as GET without the body; adds ``Cache-Control: no-store``; turns an exception into ``internal``.

    Pure ASGI, because BaseHTTPMiddleware hides disconnects. It stands inside the CORS middleware, so that a page can read a 500.
    ``cacheable`` is the folder of the pages' files, ``in_parts`` that of the pictures: no other answer is sent in ranges.
    """

    def __init__(self, app: ASGIApp, logger: Logger, cacheable: str, in_parts: str) -> None:
        self._app = app
        self._logger = logger
        self._cacheable = cacheable
        self._in_parts = in_parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await close_after_a_fault(self._app(scope, receive, send), scope, send, self._logger)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The head of GET's answer (RFC 9110, section 9.3.2). The app is cancelled before it begins the body."""
        answered = asyncio.Event()

        async def send_head(message: Message) -> None:
            if not answered.is_set():
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                answered.set()
            await asyncio.get_running_loop().create_future()

        # ``head`` tells a route that waits, such as a long poll, not to wait.
        state = {**scope.get("state", {}), "head": True}
        # A range is for GET alone (RFC 9110, section 14.2).
        asked = {**_without_range(scope), "method": "GET", "state": state}
        await first_of(self._answer(asked, receive, send_head), answered.wait())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_marked(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                self._mark(message, scope)
            await send(message)

        try:
            in_parts = scope["path"].startswith(self._in_parts)
            await self._app(scope if in_parts else _without_range(scope), receive, send_marked)
        except Exception as error:
            # sse-starlette raises in a group what its stream raises.
            if isinstance(error, LineDropped) or (isinstance(error, ExceptionGroup) and error.subgroup(LineDropped)):
                scope.setdefault("state", {})[BREAK_LINE] = True
                return
            response = problem(ChatError("internal"), scope, self._logger, why=type(error).__name__)
            if started:
                # The status has been sent. The server breaks the connection, so that the client does not read a whole answer.
                raise
            await response(scope, receive, send_marked)

    def _mark(self, message: Message, scope: Scope) -> None:
        raw = message.setdefault("headers", [])
        names = {name for name, _ in raw}
        file = message["status"] < 400 and scope["path"].startswith(self._cacheable)
        if b"cache-control" not in names and not file:
            raw.append((b"cache-control", b"no-store"))
        if b"accept-ranges" in names and not scope["path"].startswith(self._in_parts):
            del MutableHeaders(raw=raw)["accept-ranges"]
        if b"connection" in names:
            headers = MutableHeaders(raw=raw)
            if headers["connection"].lower() == "keep-alive":
                # The HTTP server adds its own ``Connection`` header, and two such headers could contradict each other.
                del headers["connection"]


async def close_after_a_fault(conversation: Awaitable[None], scope: Scope, send: Send, logger: Logger) -> None:
    """Hold a WebSocket's conversation. After an exception the log names its type, and the socket is closed with 1011."""
    try:
        await conversation
    except OSError:
        # The client has left before the handshake was accepted (ASGI, "Disconnected Client - send exception").
        return
    except Exception as error:  # noqa: BLE001 - the text of a fault must not travel, and the client is told the code
        logger.error("internal error", path=scope["path"], why=type(error).__name__)
        with contextlib.suppress(RuntimeError, OSError):
            await send({"type": "websocket.close", "code": _INTERNAL_ERROR, "reason": "internal"})


def _without_range(scope: Scope) -> Scope:
    """The request without ``Range``, which a server may ignore (RFC 9110, section 14.2)."""
    if all(name != b"range" for name, _ in scope["headers"]):
        return scope
    return {**scope, "headers": [header for header in scope["headers"] if header[0] != b"range"]}
