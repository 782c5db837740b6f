"""What every RPC passes through: the key, the size limit, parsing, statuses for errors, and the cutting of slow readers.

The handlers that protoc generates cannot take ready bytes, so these are built from the service's descriptor: bytes in, bytes out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from protocols.grpc.status import to_status
from shared.errors import ChatError
from shared.server.context import ServerContext

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[bytes, bytes]
Headers = Mapping[str, str]

_KINDS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def handlers(
    service: ServiceDescriptor,
    servicer: object,
    server_context: ServerContext,
    check_key: Callable[[Headers], None] | None = None,
) -> grpc.GenericRpcHandler[bytes, bytes]:
    """The RPCs of a service, each done by the coroutine method of its name.

    A unary one returns its answer; a streaming one writes bytes to the context, and where the client streams it gets the bytes of
    its messages.
    """
    rpcs = {
        method.name: _KINDS[method.client_streaming, method.server_streaming](
            _guarded(method, getattr(servicer, method.name), server_context, check_key)
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, rpcs)


def _guarded(
    method: MethodDescriptor,
    work: Callable[[Any, Context], Awaitable[Message | None]],
    server_context: ServerContext,
    check_key: Callable[[Headers], None] | None,
) -> Callable[[Any, Context], Awaitable[bytes | None]]:
    kind = GetMessageClass(method.input_type)

    async def call(request: Any, context: Context) -> bytes | None:
        try:
            headers = dict(context.invocation_metadata() or ())
            if check_key is not None:
                check_key(headers)
            if "gzip" in headers.get("accept-encoding", ""):
                context.set_compression(grpc.Compression.Gzip)
            if not method.client_streaming:
                request = parse(request, kind, server_context.settings.max_body_bytes)
            answer = await work(request, context)
            return None if answer is None else answer.SerializeToString()
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:
            # The line broke in the middle of an operation; the library takes this for what it is, and is silent.
            raise asyncio.CancelledError from None
        except ChatError as error:
            refusal = error
        except Exception as error:  # noqa: BLE001 - whatever it is, its text must not travel
            server_context.service.log.error("internal error", rpc=method.full_name, why=type(error).__name__)
            refusal = ChatError("internal")
        status = to_status(refusal)
        await context.abort(status.code, status.details, status.trailing_metadata)
        return None

    return call


def parse(data: bytes, kind: type[M], max_bytes: int) -> M:
    """A message of ours. Raises ``payload_too_large``, and ``invalid_request`` for malformed protobuf."""
    if len(data) > max_bytes:
        raise ChatError("payload_too_large", f"The request is larger than {max_bytes} bytes.")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise ChatError("invalid_request", f"This is not a {kind.DESCRIPTOR.full_name}.") from None


@asynccontextmanager
async def outlet(context: Context, stall_s: float) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """``write`` for the messages of one call, whose block is left when the client takes none for ``stall_s``.

    Flow control holds back only this call (RFC 9113, section 5.2). Its UNAVAILABLE waits behind what was not taken. One timer a
    call, because one a message would cost more than the message.
    """
    loop = asyncio.get_running_loop()
    since = math.inf
    timer: asyncio.TimerHandle

    async def write(data: bytes) -> None:
        nonlocal since
        since = loop.time()
        try:
            await context.write(data)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None
        since = math.inf

    def look() -> None:
        nonlocal timer
        if loop.time() - since >= stall_s:
            limit.reschedule(loop.time())
        else:
            timer = loop.call_later(stall_s / 4, look)

    timer = loop.call_later(stall_s / 4, look)
    try:
        async with asyncio.timeout(None) as limit:
            yield write
    except TimeoutError:
        if not limit.expired():
            raise
        words = f"The client took nothing for {stall_s:g} s; ResumeTurn goes on from its cursor."
        await context.abort(grpc.StatusCode.UNAVAILABLE, words)
    finally:
        timer.cancel()
