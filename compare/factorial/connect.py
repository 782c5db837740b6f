"""A cell on connectrpc: Connect's streaming protocol by the library, on uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from connectrpc.codec import Codec
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint

from protocols.grpc import chat_pb2 as pb
from shared.chat.service import ChatService
from shared.store.record import Record


class _Application(ConnectASGIApplication[None]):
    path = ""


class _Bytes:
    """Messages of one encoding, which pass as the bytes that they are."""

    def __init__(self, encoding: str) -> None:
        self._name = "proto" if encoding == "protobuf" else "json"

    def name(self) -> str:
        return self._name

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> bytes:
        return bytes(data)


def connect_app(
    encoding: str, service: ChatService, question: Callable[[bytes], str], frame: Callable[[Record], bytes]
) -> Any:
    """The ASGI app: ``SendMessage`` with messages of this encoding, and nothing else."""

    async def answer(request: bytes, about: Any) -> AsyncIterator[bytes]:
        reader = await service.start_chat(question(request))
        with reader:
            async for records in reader:
                for record in records:
                    yield record.framed(frame)

    info: MethodInfo[Any, Any] = MethodInfo(
        name="SendMessage",
        service_name="chat.ChatService",
        input=pb.SendMessageRequest,
        output=pb.Event,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.SERVER_STREAM,
    )
    endpoints = {"/chat.ChatService/SendMessage": Endpoint.server_stream(info, cast(Any, answer))}
    return _Application(service=None, endpoints=lambda _: endpoints, codecs=[cast(Codec, _Bytes(encoding))])
