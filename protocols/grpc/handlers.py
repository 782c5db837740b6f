"""Around every RPC: the key, the size limit, parsing, the status of an error, and the cutting of slow readers.

The handlers that protoc generates cannot write bytes that are serialised already. The handlers here are built from the
service's descriptor: bytes come in and bytes go out.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from protocols.grpc.status import to_status
from shared.chat.turn_log import LineDropped
from shared.errors import ChatError
from shared.server.context import ServerContext

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[bytes, bytes]
Headers = Mapping[str, str]
Handler = Callable[[Any, Context], Awaitable[bytes | None]]
# A service, the object that answers its RPCs, and its check of the key.
Servicer = tuple[ServiceDescriptor, object, Callable[[Headers], None] | None]

SHAPES = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def handlers(
    service: ServiceDescriptor,
    servicer: object,
    server_context: ServerContext,
    check_key: Callable[[Headers], None] | None = None,
    without: Container[str] = (),
) -> grpc.GenericRpcHandler[bytes, bytes]:
    """The RPCs of a service; ``servicer`` has a method of each RPC's name that returns an awaitable, in one of three shapes.

    A unary RPC is ``method(request)`` and returns the answer. A server-streaming RPC is ``method(request, context)``; an
    RPC that streams both ways is ``method(requests, context)`` and gets the bytes of each request. Both write bytes to
    the context. A unary RPC that looks at its metadata has the parameter ``context`` too.

    ``check_key`` gets the call's metadata and raises ``unauthenticated``. The RPCs named in ``without`` are left out, and
    the library answers UNIMPLEMENTED for them.
    """
    rpcs = {
        method.name: SHAPES[method.client_streaming, method.server_streaming](
            guarded(method, getattr(servicer, method.name), server_context, check_key)
        )
        for method in service.methods
        if method.name not in without
    }
    return grpc.method_handlers_generic_handler(service.full_name, rpcs)


def guarded(
    method: MethodDescriptor,
    work: Callable[..., Awaitable[Message | None]],
    server_context: ServerContext,
    check_key: Callable[[Headers], None] | None,
) -> Handler:
    """The handler of one RPC: bytes in, bytes out. It checks the key, parses, works, and ends with a status of the error table."""
    request_type = GetMessageClass(method.input_type)
    takes_context = "context" in inspect.signature(work).parameters

    def begin(request: Any, context: Context) -> Awaitable[Message | None]:
        """Check and parse, then call the method. While the stream is open, no frame of this function keeps the parsed request."""
        headers = dict(context.invocation_metadata() or ())
        if check_key is not None:
            check_key(headers)
        if "gzip" in headers.get("accept-encoding", ""):
            context.set_compression(grpc.Compression.Gzip)
        if not method.client_streaming:
            request = parse(request, request_type, server_context.settings.max_body_bytes)
        return work(request, context) if takes_context else work(request)

    async def call(request: Any, context: Context) -> bytes | None:
        try:
            answer = await begin(request, context)
            return None if answer is None else answer.SerializeToString()
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:
            # The connection broke during a read or a write. The library ends a cancelled handler without a log line.
            raise asyncio.CancelledError from None
        except ChatError as error:
            refusal = error
        except LineDropped:
            refusal = ChatError("storage_unavailable")
        except Exception as error:  # noqa: BLE001 - the library would send the exception's text to the client
            server_context.service.logger.error("internal error", rpc=method.full_name, why=type(error).__name__)
            refusal = ChatError("internal")
        await refuse(context, refusal)
        return None

    return call


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: ChatError) -> None:
    """End a call with the status of an error. Raises grpc.aio.AbortError, which the library catches."""
    status = to_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


def parse(data: bytes, kind: type[M], max_bytes: int) -> M:
    """A request's bytes as a message. Raises ``payload_too_large``, and ``invalid_request`` for malformed protobuf."""
    if len(data) > max_bytes:
        raise ChatError("payload_too_large", f"The request is larger than {max_bytes} bytes; shorten it.")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise ChatError(
            "invalid_request", f"This is not a {kind.DESCRIPTOR.full_name}; send a message that chat.proto describes."
        ) from None


@asynccontextmanager
async def stall_guarded_writer(context: Context, stall_s: float) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """``write`` for the messages of one call. A write that waits ``stall_s`` seconds ends the call with UNAVAILABLE.

    Flow control holds back one call and not the connection (RFC 9113, section 5.2). The status arrives after the
    messages that the client has not read yet. There is one timer a call: one a message would cost more than the message.
    """
    loop = asyncio.get_running_loop()
    writing_since = math.inf
    timer: asyncio.TimerHandle

    async def write(data: bytes) -> None:
        nonlocal writing_since
        writing_since = loop.time()
        try:
            await context.write(data)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None
        writing_since = math.inf

    def check() -> None:
        nonlocal timer
        if loop.time() - writing_since >= stall_s:
            limit.reschedule(loop.time())
        else:
            timer = loop.call_later(stall_s / 4, check)

    timer = loop.call_later(stall_s / 4, check)
    try:
        async with asyncio.timeout(None) as limit:
            yield write
    except TimeoutError:
        if not limit.expired():
            raise
        words = f"The client read nothing for {stall_s:g} s; ResumeTurn goes on from its cursor."
        await context.abort(grpc.StatusCode.UNAVAILABLE, words)
    finally:
        timer.cancel()
