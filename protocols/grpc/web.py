"""The chat for the scripts of pages: gRPC-Web and the Connect protocol on a port of its own, by the library connectrpc.

A page cannot speak gRPC, because fetch shows a script neither HTTP/2's frames nor its trailers. gRPC-Web
(github.com/grpc/grpc, doc/PROTOCOL-WEB.md) and Connect (connectrpc.com, "Protocol reference") put the status at the end of the
body. Handlers, errors, key and limits are those of the gRPC port. A page sends no stream, so ``Chat`` is UNIMPLEMENTED here.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, NoReturn, TypeVar, cast

import grpc
from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from starlette.types import ASGIApp, Receive, Scope, Send

from protocols.grpc.handlers import Context, Headers, Servicer, guarded
from protocols.grpc.status import DETAILS
from protocols.grpc.web_codecs import Answer, Binary, Gzip, Json
from protocols.grpc.web_requests import PageRequests
from protocols.grpc.web_status import refused
from shared.server.context import ServerContext
from shared.server.http.access_middleware import AccessMiddleware
from shared.server.http.answer_middleware import AnswerMiddleware
from shared.server.http.answers import json_response
from shared.server.http.cors import Cors

# The headers that a page's library sends, and those that it reads in an answer.
_REQUEST_HEADERS = (
    "Connect-Protocol-Version",
    "Connect-Timeout-Ms",
    "Grpc-Timeout",
    "X-Grpc-Web",
    "X-User-Agent",
)
_EXPOSED_HEADERS = ("Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin")
# This many messages of a call may wait until the message before them is sent.
_AHEAD = 16
_NO_CHAT = "Chat streams both ways, and a page can send no stream: use SendMessage, ResumeTurn and CancelTurn."

Work = Callable[[bytes, Any], Awaitable[bytes | None]]
T = TypeVar("T")


def page_app(context: ServerContext, servicers: Iterable[Servicer], without: Iterable[str]) -> ASGIApp:
    """The ASGI app of the port for pages, without the RPCs that are named in ``without``."""
    endpoints = {
        f"/{service.full_name}/{method.name}": _endpoint(method, servicer, context, check_key)
        for service, servicer, check_key in servicers
        for method in service.methods
        if method.name not in without
    }
    # Twice the limit of a message, so that the handlers refuse a message that is somewhat too large.
    max_bytes = context.settings.max_body_bytes * 2
    app: ASGIApp = _Application(endpoints, max_bytes)
    app = PageRequests(app, context.service.logger, max_bytes, context.settings.request_timeout_s)
    app = _Health(app, context)
    # The handlers check the key, so that a refusal is a status of the protocol.
    keyless = dataclasses.replace(context.access, key=None)
    app = AccessMiddleware(app, keyless, context.service.logger, None, frozenset())
    app = AnswerMiddleware(app, context.service.logger, cacheable="//", in_parts="//")
    return Cors(app, context.access, request_headers=_REQUEST_HEADERS, exposed=_EXPOSED_HEADERS)


class _Application(ConnectASGIApplication[None]):
    """connectrpc's application with endpoints that are made from descriptors, without generated code."""

    path = ""

    def __init__(self, endpoints: dict[str, Any], max_bytes: int) -> None:
        codecs = cast(Iterable[Codec], (Binary(), Json()))
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=max_bytes,
            codecs=codecs,
            compressions=(Gzip(),),
        )


class _Health:
    """``GET /health``, as the HTTP servers answer it: pages and balancers look here whether the port is served."""

    def __init__(self, app: ASGIApp, context: ServerContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/health":
            await self._app(scope, receive, send)
            return
        ready = await self._context.service.ready()
        about = {"status": "ok" if ready else "unavailable", "transport": "grpc-web", "for_pages_of": "grpc"}
        await json_response(about, 200 if ready else 503)(scope, receive, send)


class _Call:
    """One call as the handlers see it: what they use of ``grpc.aio.ServicerContext``."""

    http_version = "1.1"

    def __init__(self, request: RequestContext[Any, Any]) -> None:
        self._request = request
        # The messages, then the error or None.
        self.answers: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(_AHEAD)

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return list(self._request.request_headers.allitems())

    def set_compression(self, compression: grpc.Compression) -> None:
        """The library compresses by itself where a client asks."""

    async def send_initial_metadata(self, metadata: Iterable[tuple[str, str]]) -> None:
        for name, value in metadata:
            self._request.response_headers.add(name, value)

    async def write(self, data: bytes) -> None:
        await self.answers.put(data)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, Any]] = ()
    ) -> NoReturn:
        trailing = list(trailing_metadata)
        for name, value in trailing:
            if name != DETAILS:
                self._request.response_trailers.add(name, value)
        raise refused(code, details, trailing)


def _endpoint(
    method: MethodDescriptor, servicer: object, context: ServerContext, check_key: Callable[[Headers], None] | None
) -> Any:
    """The library's endpoint for one RPC."""
    kind = GetMessageClass(method.output_type)
    shape = (method.client_streaming, method.server_streaming)
    about: MethodInfo[Any, Any] = MethodInfo(
        name=method.name,
        service_name=method.containing_service.full_name,
        input=GetMessageClass(method.input_type),
        output=kind,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=_STREAMS[shape],
    )
    handler = cast(Work, guarded(method, getattr(servicer, method.name), context, check_key))

    async def unary(request: bytes, about: RequestContext[Any, Any]) -> Answer:
        return Answer(await handler(request, cast(Context, _Call(about))) or b"", kind)

    async def stream(request: bytes, about: RequestContext[Any, Any]) -> AsyncIterator[Answer]:
        about.response_headers.add("cache-control", "no-store, no-transform")
        call = _Call(about)
        working = asyncio.create_task(_work(handler, request, call))
        try:
            while (answer := await call.answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield Answer(answer, kind)
        finally:
            # The client may have left: the handler is cancelled, and the turn goes on.
            working.cancel()
            await asyncio.wait((working,))

    async def converse(requests: AsyncIterator[bytes], about: RequestContext[Any, Any]) -> AsyncIterator[Answer]:
        raise ConnectError(Code.UNIMPLEMENTED, _NO_CHAT)
        yield

    if method.client_streaming:
        return Endpoint.bidi_stream(about, converse)
    if method.server_streaming:
        return Endpoint.server_stream(about, stream)
    return Endpoint.unary(about, unary)


_STREAMS = {
    (False, False): StreamType.UNARY,
    (False, True): StreamType.SERVER_STREAM,
    (True, True): StreamType.BIDI_STREAM,
}


async def _work(handler: Work, request: bytes, call: _Call) -> None:
    end: Exception | None = None
    try:
        await handler(request, cast(Context, call))
    except Exception as error:  # noqa: BLE001 - raised again where the library awaits the call's messages
        end = error
    await call.answers.put(end)
