"""The chat over gRPC: HTTP/2 (RFC 9113), protobuf messages with a length before each, the status in the trailers.

The contract is ``chat.proto``, whose comments say what each RPC does. Server-streaming calls carry one event a message; ``Chat`` is
the held connection that the WebSocket is. Heartbeats are HTTP/2's PING. Also the article's image service, health and reflection.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protocols.grpc import chat_pb2 as pb
from protocols.grpc import image_generation_pb2
from protocols.grpc.convert import from_chat_request, to_chat_response, to_event_bytes, to_fields, to_message
from protocols.grpc.handlers import Context, handlers, outlet, parse
from shared.chat.turn_log import Reader
from shared.config import Settings
from shared.errors import ChatError
from shared.events import IMAGE_CHUNK_BYTES, TurnFailed
from shared.server import launch
from shared.server.context import ServerContext
from shared.server.duplex import Duplex, Outgoing
from shared.server.signals import Stopping
from shared.server.tasks import first_of
from shared.store.record import Record

CHAT = pb.DESCRIPTOR.services_by_name["ChatService"]
IMAGES = image_generation_pb2.DESCRIPTOR.services_by_name["ImageGenerationService"]
# What a client takes in one message unless it says otherwise.
USUAL_MESSAGE_BYTES = 4 * 1024 * 1024
STOP_S = 0.4


class ChatService:
    """``chat.ChatService``: each RPC is a call of the service, and protobuf around it."""

    def __init__(self, server_context: ServerContext) -> None:
        self._service = server_context.service
        self._stall_s = server_context.settings.stall_timeout_s
        self._max_bytes = server_context.settings.max_body_bytes

    # -- turns, as streams of events

    async def SendMessage(self, request: pb.SendMessageRequest, context: Context) -> None:
        await self._stream(await self._service.start_chat(**to_fields(request)), context)

    async def GenerateImage(self, request: pb.GenerateImageRequest, context: Context) -> None:
        await self._stream(await self._service.start_image(**to_fields(request)), context)

    async def ResumeTurn(self, request: pb.ResumeTurnRequest, context: Context) -> None:
        await self._stream(await self._service.open(request.turn_id, request.after), context)

    async def _stream(self, reader: Reader, context: Context) -> None:
        """The events after a cursor, ready bytes; a client that leaves cancels us, and only us."""
        record: Record | None = None
        async with outlet(context, self._stall_s) as write:
            with reader:
                await context.send_initial_metadata((("turn_id", reader.turn_id),))
                async for records in reader:
                    for record in records:
                        await write(record.framed(frame))
        if not reader.complete:
            # We are closing and the turn goes on elsewhere: UNAVAILABLE means come back.
            raise ChatError("shutting_down")
        if record is not None and isinstance(record.event, TurnFailed):
            raise ChatError.received(record.event.code, record.event.message)

    # -- both directions on one stream

    async def Chat(self, requests: AsyncIterator[bytes], context: Context) -> None:
        closed = self._service.closed
        async with outlet(context, self._stall_s) as write:
            writing = asyncio.get_running_loop().create_future()
            writing.set_result(None)

            async def write_all(item: Outgoing) -> None:
                for message in item if isinstance(item, list) else [item]:
                    await write(response_frame(message) if isinstance(message, Record) else to_chat_response(message))

            async def send(item: Outgoing) -> None:
                """A task of its own, for HTTP/2 knows no half message: a write that has begun ends, whoever gives up waiting."""
                nonlocal writing
                await asyncio.wait((writing,))
                writing = asyncio.ensure_future(write_all(item))
                await asyncio.shield(writing)

            async with Duplex(self._service, send) as duplex:
                talking = asyncio.create_task(self._talk(duplex, requests))
                try:
                    await first_of(asyncio.shield(talking), closed.wait())
                    if not talking.done():
                        raise ChatError("shutting_down")
                    talking.result()
                finally:
                    talking.cancel()

    async def _talk(self, duplex: Duplex, requests: AsyncIterator[bytes]) -> None:
        async for data in requests:
            try:
                message = from_chat_request(parse(data, pb.ChatRequest, self._max_bytes))
            except ChatError as error:
                if error.kind.ws_close is not None:
                    raise
                await duplex.refuse(error)
            else:
                await duplex.take(message)
        # The client has said all: what it asked is answered to the end.
        await duplex.finish()

    # -- one request, one answer

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.Session:
        return to_message(await self._service.create_session(**to_fields(request)), pb.Session)

    async def GetSessionInfo(self, request: pb.GetSessionInfoRequest, context: Context) -> pb.Session:
        return to_message(await self._service.get_session(request.session_id), pb.Session)

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.SessionPage:
        return to_message(await self._service.list_sessions(**to_fields(request)), pb.SessionPage)

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        messages = await self._service.list_messages(request.session_id)
        return pb.ListMessagesResponse(messages=[to_message(message, pb.Message) for message in messages])

    async def ClearSession(self, request: pb.ClearSessionRequest, context: Context) -> pb.ClearSessionResponse:
        await self._service.clear_session(request.session_id)
        return pb.ClearSessionResponse()

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        await self._service.delete_session(request.session_id)
        return pb.DeleteSessionResponse()

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[to_message(model, pb.ModelInfo) for model in self._service.models()])

    async def GetServerStats(self, request: pb.GetServerStatsRequest, context: Context) -> pb.ServerStats:
        return to_message(await self._service.stats(), pb.ServerStats)

    async def StartTurn(self, request: pb.StartTurnRequest, context: Context) -> pb.TurnSnapshot:
        match request.WhichOneof("input"):
            case "chat":
                reader = await self._service.start_chat(**to_fields(request.chat), attended=False)
            case "image":
                reader = await self._service.start_image(**to_fields(request.image), attended=False)
            case _:
                raise ChatError("invalid_request", "Give either chat or image.")
        return to_message(await self._service.get_turn(reader.turn_id), pb.TurnSnapshot)

    async def GetTurn(self, request: pb.GetTurnRequest, context: Context) -> pb.TurnSnapshot:
        return to_message(await self._service.get_turn(request.turn_id), pb.TurnSnapshot)

    async def CancelTurn(self, request: pb.CancelTurnRequest, context: Context) -> pb.TurnSnapshot:
        return to_message(await self._service.cancel_turn(request.turn_id), pb.TurnSnapshot)

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> None:
        image = await self._service.get_image(request.image_id)
        size = len(image.data)
        info = pb.ImageInfo(
            mime_type=image.mime_type, width=image.width, height=image.height, size_bytes=size, sha256=image.sha256
        )
        async with outlet(context, self._stall_s) as write:
            for offset in range(0, size, IMAGE_CHUNK_BYTES):
                data = image.data[offset : offset + IMAGE_CHUNK_BYTES]
                piece = pb.GetImageResponse(info=None if offset else info, data=data)
                await write(piece.SerializeToString())


class ImageService:
    """``imagegeneration.ImageGenerationService``, as the article has it: the key a field, the picture base64 in one message."""

    def __init__(self, server_context: ServerContext) -> None:
        self._service = server_context.service
        self._access = server_context.access

    async def GenerateImage(
        self, request: image_generation_pb2.ImageRequest, context: Context
    ) -> image_generation_pb2.ImageResponse:
        try:
            self._access.check_key({"x-api-key": request.api_key})
        except ChatError:
            raise ChatError("permission_denied", "Invalid API key") from None
        if not request.prompt:
            raise ChatError("invalid_request", "Prompt is required")
        reader = await self._service.start_image(request.prompt, size=request.size or None)
        picture = (await reader.whole()).picture()
        answer = image_generation_pb2.ImageResponse(
            image=base64.b64encode(picture.image).decode(), filename=f"{picture.image_id}.png"
        )
        if answer.ByteSize() > USUAL_MESSAGE_BYTES:
            raise ChatError(
                "payload_too_large",
                f"The picture is too large for one message: chat.ChatService/GenerateImage streams it,"
                f" and chat.ChatService/GetImage gives this one, {picture.image_id}.",
            )
        return answer


class Health(health.aio.HealthServicer):  # type: ignore[name-defined,misc]
    """``grpc.health.v1.Health``: serving means that a new turn would be taken."""

    def __init__(self, server_context: ServerContext) -> None:
        super().__init__()
        self._service = server_context.service

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        answer: health_pb2.HealthCheckResponse = await super().Check(request, context)
        if answer.status == health_pb2.HealthCheckResponse.SERVING and not await self._service.ready():
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
        return answer


def frame(record: Record) -> bytes:
    """One event: a serialised ``chat.Event``; the library puts its length before it."""
    return to_event_bytes(record.event)


def response_frame(record: Record) -> bytes:
    """The same inside a ``chat.ChatResponse``, for ``Chat``."""
    response = pb.ChatResponse()
    response.event.MergeFromString(record.framed(frame))
    return response.SerializeToString()


@asynccontextmanager
async def listening(host: str, port: int, settings: Settings) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    """The library takes the port itself. Raises OSError when another has it."""
    # Tried first without the library, which would log a line of its own about a port that is taken.
    launch.listen(host, port, settings.stall_timeout_s).close()
    server = grpc.aio.server(
        options=(
            # Off, so that a second server on the port fails and does not take half of the calls.
            ("grpc.so_reuseport", 0),
            # Ours comes first, with our words.
            ("grpc.max_receive_message_length", settings.max_body_bytes * 2),
            ("grpc.max_send_message_length", -1),
            # Calls that come at the same time wait for their turn; past 1,000 the library would refuse some by chance.
            ("grpc.server.max_pending_requests", settings.max_streams),
            ("grpc.server.max_pending_requests_hard_limit", settings.max_streams),
            # A PING for every heartbeat: a half-open connection is noticed though nothing is sent on it.
            ("grpc.keepalive_time_ms", int(settings.heartbeat_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(settings.stall_timeout_s * 1000)),
            # What decides in fact: without it a PING that nobody answers is waited for a minute.
            ("grpc.http2.ping_timeout_ms", int(settings.stall_timeout_s * 1000)),
            # A client that never finishes its preface and SETTINGS.
            ("grpc.server_handshake_timeout_ms", int(settings.request_timeout_s * 1000)),
            ("grpc.http2.settings_timeout", int(settings.request_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # And clients may do the same to us, as often as they like.
            ("grpc.http2.max_ping_strikes", 0),
        )
    )
    try:
        taken = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError:
        raise OSError(f"cannot listen on {host}:{port}; choose another --port") from None
    try:
        yield server, taken
    finally:
        await server.stop(None)


async def serve(server_context: ServerContext, server: grpc.aio.Server, stopping: Stopping) -> None:
    """Run until a signal, then drain."""
    about = Health(server_context)
    health_pb2_grpc.add_HealthServicer_to_server(about, server)
    chat = handlers(CHAT, ChatService(server_context), server_context, server_context.access.check_key)
    server.add_generic_rpc_handlers((chat, handlers(IMAGES, ImageService(server_context), server_context)))
    names = [CHAT.full_name, IMAGES.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    for name in ("", *names):
        await about.set(name, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    await stopping.asked.wait()
    await about.enter_graceful_shutdown()
    await stopping.drain(server_context.service)
    # What has ended is still being written; then the calls that are left are cut.
    await server.stop(STOP_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal; the exit status."""
    return launch.main("grpc", f"grpcio {grpc.__version__}", serve, argv, listening=listening)


if __name__ == "__main__":
    raise SystemExit(main())
