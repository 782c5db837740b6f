"""Answers that stay open. The framework answers the head of a stream, or the handshake of a WebSocket, and returns.

The body is written, and the conversation is held, after the framework has returned. While the framework waited for the end, its
middleware, routing and dependencies would stay in memory for each open stream, and each event would pass through all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol, cast

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from shared.chat.turn_log import LineDropped, Reader
from shared.errors import ChatError
from shared.logger import Logger
from shared.server.http.answer_middleware import BREAK_LINE, close_after_a_fault
from shared.server.http.answers import problem
from shared.server.http.lines import WRITE_NOW, BodyLine
from shared.store.record import Record

# The key in the scope of a request of a list, to which the body of the answer, or the conversation, is added.
_OPENED = "genai.opened"
# FastAPI's exit stacks in the scope. They are closed when the framework has returned, and each keeps 0.9 KiB.
_EXIT_STACKS = ("fastapi_middleware_astack", "fastapi_inner_astack", "fastapi_function_astack")

Conversation = Callable[[WebSocket], Awaitable[None]]


class Streamed(Protocol):
    """Starlette's ``StreamingResponse``, sse-starlette's ``EventSourceResponse``."""

    status_code: int
    raw_headers: list[tuple[bytes, bytes]]
    body_iterator: Any

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class OpenBody(Response):
    """Sends the head of ``response`` and leaves its body, an async generator of bytes, to ``OpenBodies``.

    The body is what ``reader`` gives, framed by ``frame``, so the reader gets the connection as its line. Where the app is run
    without ``OpenBodies``, ``response`` sends its body itself.
    """

    def __init__(self, response: Streamed, reader: Reader, frame: Callable[[Record], bytes]) -> None:
        self._response = response
        self._reader = reader
        self._frame = frame
        self.background = None
        self.status_code = response.status_code
        self.raw_headers = response.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = scope.get(_OPENED)
        if opened is None:
            await self._response(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if WRITE_NOW in scope:
            self._reader.line = BodyLine(scope[WRITE_NOW], self._frame)
        opened.append(self._response.body_iterator)


async def open_socket(socket: WebSocket, converse: Conversation) -> None:
    """Leave the conversation on a socket, which has been accepted, to ``OpenBodies``; hold it here where the app is run without."""
    opened = socket.scope.get(_OPENED)
    if opened is None:
        await converse(socket)
    else:
        opened.append(converse)


class OpenBodies:
    """The outermost ASGI app: it writes the bodies that ``OpenBody`` has left, until they end or the client leaves.

    It holds the conversations that ``open_socket`` has left.
    """

    def __init__(self, app: ASGIApp, logger: Logger) -> None:
        self._app = app
        self._logger = logger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened: list[Any] = []
        scope[_OPENED] = opened
        await self._app(scope, receive, send)
        for name in _EXIT_STACKS if opened else ():
            scope.pop(name, None)
        if opened and scope["type"] == "websocket":
            socket = WebSocket(scope, receive, send)
            socket.client_state = socket.application_state = WebSocketState.CONNECTED
            await close_after_a_fault(opened.pop()(socket), scope, send, self._logger)
        elif opened:
            try:
                await _write(opened.pop(), receive, send)
            except LineDropped:
                scope.setdefault("state", {})[BREAK_LINE] = True
            except Exception as error:
                # The status has been sent. The server breaks the connection, so that the client does not read a whole answer.
                problem(ChatError("internal"), scope, self._logger, why=type(error).__name__)
                raise


async def _write(body: AsyncGenerator[bytes, None], receive: Receive, send: Send) -> None:
    writing = cast("asyncio.Task[None]", asyncio.current_task())
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        writing.cancel()

    watching = asyncio.create_task(watch())
    try:
        async with aclosing(body):
            async for piece in body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except asyncio.CancelledError:
        if not left or writing.uncancel():
            raise
    except OSError:
        # The client has left while a piece was sent to it (ASGI, "Disconnected Client - send exception").
        return
    finally:
        watching.cancel()
