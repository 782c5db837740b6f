"""Health and reflection: the two services that need no key.

Health is ``grpc.health.v1`` (grpc.io, "Health Checking"). Reflection is ``grpc.reflection.v1`` and, for older tools,
``v1alpha``: two names for the same messages. Malformed protobuf ends a call with INVALID_ARGUMENT, as it does in the
chat; the library alone would send UNKNOWN and the text of an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from protocols.grpc.handlers import SHAPES, parse, refuse
from shared.chat.service import ChatService
from shared.errors import ChatError

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION_ALPHA = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
REFLECTION = "grpc.reflection.v1.ServerReflection"
# The port for pages has health without the RPC that streams, which no client of that port needs.
NOT_FOR_PAGES = ("Watch",)
# How often Watch looks at the chat's readiness.
_WATCH_S = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


class Health:
    """``grpc.health.v1.Health``. SERVING means that this server would accept a new turn, whatever service is asked for."""

    def __init__(self, service: ChatService, names: Sequence[str]) -> None:
        self._service = service
        self._names = ("", *names)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        return await self._status()

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        status = await self._status()
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._names, status))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        unknown = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        told = None
        while True:
            status = await self._status() if request.service in self._names else unknown
            if status != told:
                await context.write(status)
            told = status
            await asyncio.sleep(_WATCH_S)

    async def _status(self) -> health_pb2.HealthCheckResponse:
        if await self._service.ready():
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)


def open_handlers(
    service: ChatService, chat_services: Sequence[str], max_bytes: int
) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """The RPCs of health and of both names of reflection. ``chat_services``: the names of the other services here."""
    names = [*chat_services, HEALTH.full_name, REFLECTION, REFLECTION_ALPHA.full_name]
    health = Health(service, names)
    # The library has no descriptor of v1, so only v1alpha describes itself.
    described = [name for name in names if name != REFLECTION]
    reflecting = reflection.aio.ReflectionServicer(described)  # type: ignore[attr-defined]
    return [
        _handlers(HEALTH, HEALTH.full_name, health, max_bytes),
        _handlers(REFLECTION_ALPHA, REFLECTION_ALPHA.full_name, reflecting, max_bytes),
        _handlers(REFLECTION_ALPHA, REFLECTION, reflecting, max_bytes),
    ]


def _handlers(
    service: ServiceDescriptor, name: str, servicer: object, max_bytes: int
) -> grpc.GenericRpcHandler[Any, Any]:
    rpcs = {method.name: _handler(method, getattr(servicer, method.name), max_bytes) for method in service.methods}
    return grpc.method_handlers_generic_handler(name, rpcs)


def _handler(method: MethodDescriptor, work: Callable[..., Any], max_bytes: int) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that parses by itself: the library sends the text of the exception that a deserialiser raises."""
    kind = GetMessageClass(method.input_type)

    def deserialize(data: bytes) -> Message | ChatError:
        try:
            return parse(data, kind, max_bytes)
        except ChatError as error:
            return error

    async def checked(requests: AsyncIterator[Message | ChatError], context: Context) -> AsyncIterator[Message]:
        async for request in requests:
            if isinstance(request, ChatError):
                await refuse(context, request)
            else:
                yield request

    async def call(request: Message | ChatError, context: Context) -> Message | None:
        if isinstance(request, ChatError):
            await refuse(context, request)
        answer: Message | None = await work(request, context)
        return answer

    async def converse(requests: AsyncIterator[Message | ChatError], context: Context) -> AsyncIterator[Message]:
        async for answer in work(checked(requests, context), context):
            yield answer

    return SHAPES[method.client_streaming, method.server_streaming](
        converse if method.client_streaming else call,
        request_deserializer=deserialize,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )
