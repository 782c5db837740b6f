"""The chat over gRPC: protobuf messages on HTTP/2 (RFC 9113), and the status of each call in the trailers.

``chat.proto`` is the contract; its comments say what each RPC does. A server-streaming call carries one event a message.
``Chat`` is the held connection that the WebSocket is (``chat_stream.py``). Beside the chat the server has the original
article's image service, health and reflection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence

import protocols.grpc.library_log  # noqa: F401 - before grpcio, which reads the level of its log when it is imported

import grpc

from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.grpc import image_generation_pb2, serving
from protocols.grpc.chat_stream import converse
from protocols.grpc.convert import to_fields, to_message
from protocols.grpc.frames import frame
from protocols.grpc.handlers import Context, handlers, stall_guarded_writer
from protocols.grpc.image_service import ImageService
from protocols.grpc.open_services import HEALTH, NOT_FOR_PAGES, Health
from protocols.grpc.web_port import pages_running
from shared.chat.turn_log import Reader
from shared.errors import ChatError
from shared.events import IMAGE_CHUNK_BYTES, TurnFailed
from shared.server import launch
from shared.server.context import ServerContext
from shared.server.echo import echo_enabled, shown
from shared.server.stopping import Stopping
from shared.store.record import Record

CHAT = pb.DESCRIPTOR.services_by_name["ChatService"]
IMAGES = image_generation_pb2.DESCRIPTOR.services_by_name["ImageGenerationService"]


class ChatService:
    """``chat.ChatService``: each RPC calls the chat's service, with protobuf around it."""

    def __init__(self, server_context: ServerContext) -> None:
        self._server_context = server_context
        self._service = server_context.service
        self._stall_s = server_context.settings.stall_timeout_s

    def SendMessage(self, request: pb.SendMessageRequest, context: Context) -> Awaitable[None]:
        return self._stream(self._service.start_chat(**to_fields(request)), context)

    def GenerateImage(self, request: pb.GenerateImageRequest, context: Context) -> Awaitable[None]:
        return self._stream(self._service.start_image(**to_fields(request)), context)

    def ResumeTurn(self, request: pb.ResumeTurnRequest, context: Context) -> Awaitable[None]:
        return self._stream(self._service.open(request.turn_id, request.after, request.epoch), context)

    async def _stream(self, opening: Awaitable[Reader], context: Context) -> None:
        """Write the events after the reader's cursor. A client that leaves cancels this handler, and not the turn."""
        reader = await opening
        record: Record | None = None
        heartbeat = pb.Event(turn_id=reader.turn_id, heartbeat=pb.Heartbeat()).SerializeToString()
        async with stall_guarded_writer(context, self._stall_s) as write:
            with reader:
                await context.send_initial_metadata((("turn_id", reader.turn_id),))
                async for records in reader:
                    for record in records:
                        await write(record.framed(frame))
                    if not records:
                        # A proxy counts the silence of each call, and HTTP/2's PING ends at the first hop.
                        await write(heartbeat)
        # A stream that ends early has UNAVAILABLE as its status, which tells the client to resume; DATA_LOSS, to read from 0.
        reader.check_complete()
        if record is not None and isinstance(record.event, TurnFailed):
            raise ChatError.received(record.event.code, record.event.message)

    async def Chat(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await converse(self._server_context, requests, context)

    async def CreateSession(self, request: pb.CreateSessionRequest) -> pb.Session:
        return to_message(await self._service.create_session(**to_fields(request)), pb.Session)

    async def GetSessionInfo(self, request: pb.GetSessionInfoRequest) -> pb.Session:
        return to_message(await self._service.get_session(request.session_id), pb.Session)

    async def ListSessions(self, request: pb.ListSessionsRequest) -> pb.SessionPage:
        return to_message(await self._service.list_sessions(**to_fields(request)), pb.SessionPage)

    async def ListMessages(self, request: pb.ListMessagesRequest) -> pb.ListMessagesResponse:
        return to_message(await self._service.list_messages(**to_fields(request)), pb.ListMessagesResponse)

    async def ClearSession(self, request: pb.ClearSessionRequest) -> pb.ClearSessionResponse:
        await self._service.clear_session(request.session_id)
        return pb.ClearSessionResponse()

    async def DeleteSession(self, request: pb.DeleteSessionRequest) -> pb.DeleteSessionResponse:
        await self._service.delete_session(request.session_id)
        return pb.DeleteSessionResponse()

    async def ListModels(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[to_message(model, pb.ModelInfo) for model in self._service.models()])

    async def GetServerStats(self, request: pb.GetServerStatsRequest) -> pb.ServerStats:
        return to_message(await self._service.stats(), pb.ServerStats)

    async def StartTurn(self, request: pb.StartTurnRequest) -> pb.TurnSnapshot:
        match request.WhichOneof("input"):
            case "chat":
                reader = await self._service.start_chat(**to_fields(request.chat), attended=False)
            case "image":
                reader = await self._service.start_image(**to_fields(request.image), attended=False)
            case _:
                raise ChatError("invalid_request", "Give either chat or image, not both.")
        return to_message(await self._service.snapshot(reader), pb.TurnSnapshot)

    async def GetTurn(self, request: pb.GetTurnRequest) -> pb.TurnSnapshot:
        return to_message(await self._service.get_turn(request.turn_id), pb.TurnSnapshot)

    async def CancelTurn(self, request: pb.CancelTurnRequest) -> pb.TurnSnapshot:
        return to_message(await self._service.cancel_turn(request.turn_id), pb.TurnSnapshot)

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> None:
        image = await self._service.get_image(request.image_id)
        size = len(image.data)
        info = pb.ImageInfo(
            mime_type=image.mime_type, width=image.width, height=image.height, size_bytes=size, sha256=image.sha256
        )
        async with stall_guarded_writer(context, self._stall_s) as write:
            for offset in range(0, size, IMAGE_CHUNK_BYTES):
                data = image.data[offset : offset + IMAGE_CHUNK_BYTES]
                piece = pb.GetImageResponse(info=None if offset else info, data=data)
                await write(piece.SerializeToString())

    async def Echo(self, request: pb.EchoRequest, context: Context) -> pb.EchoResponse:
        # Values of names that end in -bin are bytes.
        metadata = [
            (name, value if isinstance(value, str) else value.decode("latin-1"))
            for name, value in context.invocation_metadata() or ()
        ]
        headers = [pb.EchoHeader(name=name, value=value) for name, value in shown(metadata)]
        return pb.EchoResponse(
            method="POST",
            http_version=getattr(context, "http_version", "2"),
            headers=headers,
            body_bytes=request.ByteSize(),
        )


async def serve(context: ServerContext, listeners: serving.Listeners, stopping: Stopping) -> None:
    """Answer calls until a signal, then drain. The chat's RPCs need the key; the image service checks its own field."""
    check_key = context.access.check_key
    without = () if echo_enabled(context) else ("Echo",)
    chat, images = ChatService(context), ImageService(context)
    listeners.server.add_generic_rpc_handlers(
        (handlers(CHAT, chat, context, check_key, without), handlers(IMAGES, images, context))
    )
    health = Health(context.service, [CHAT.full_name, IMAGES.full_name, HEALTH.full_name])
    servicers = ((CHAT, chat, check_key), (IMAGES, images, None), (HEALTH, health, None))
    async with pages_running(context, listeners.pages, servicers, (*without, *NOT_FOR_PAGES), stopping):
        await serving.run(context, listeners.server, stopping, [CHAT.full_name, IMAGES.full_name])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal, and return the exit status."""
    return launch.main(TRANSPORTS, "grpc", f"grpcio {grpc.__version__}", serve, argv, listening=serving.listening)


if __name__ == "__main__":
    raise SystemExit(main())
