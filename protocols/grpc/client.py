"""A client of the chat over gRPC: one HTTP/2 connection for everything, each call a stream of its own on it (RFC 9113).

ChatService.SendMessage(message: "Hi", request_id: KEY) Event(turn_id, seq: 1, turn_started: …) Event(turn_id, seq: 2,
chunk: text: "Hello") Event(turn_id, seq: 3, turn_completed: …), then the status OK

The key travels as metadata ``authorization: Bearer KEY``. The protocol has no resume of its own, so ``ResumeTurn``
takes the last seq and goes on. A refusal is a status with the chat's error code in the status' details
(``protocols/grpc/status.py``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import protocols.grpc.library_log  # noqa: F401 - before grpcio, which reads the level of its log when it is imported

import grpc
import msgspec
from google.protobuf.message import Message as ProtobufMessage
from grpc.aio import ClientInterceptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.grpc.channel import ClientChannel
from protocols.grpc.convert import from_message
from protocols.grpc.received import received_event
from protocols.grpc.session_watch import ChatCall, SessionWatches, ended, send_hint
from protocols.grpc.status import failures
from shared.client import cli
from shared.client.events import UnknownEvent
from shared.client.protocol import Ask, ChatClient
from shared.client.transport import Watched
from shared.errors import ChatError, ConnectionLost, NotOurServer, SentAway, ServerAbsent
from shared.events import AnyEvent
from shared.reply import Snapshot
from shared.session import MessagePage, ModelInfo, Session, SessionPage
from shared.stats import ServerStats

Q = TypeVar("Q", bound=ProtobufMessage)
A = TypeVar("A", bound=ProtobufMessage)
S = TypeVar("S", bound=msgspec.Struct)
_REMEMBERED = 256
_HEALTH = {health_pb2.HealthCheckResponse.SERVING: "ok", health_pb2.HealthCheckResponse.NOT_SERVING: "unavailable"}


class Client(ChatClient):
    """See ChatClient. ``gzip``: compress in both directions. ``interceptors`` see each call, as the library has it."""

    transport = "grpc"
    holds_connection = True

    def __init__(
        self, address: str, *, gzip: bool = False, interceptors: Sequence[ClientInterceptor] = (), **options: Any
    ) -> None:
        super().__init__(address.rstrip("/"), **{"http2_word": self.transport, **options})
        host_port = self.address.rpartition("://")[2]
        self.address = f"grpcs://{host_port}" if self._uses_tls else host_port
        given = {"authorization": f"Bearer {self._key}" if self._key else "", "accept-encoding": "gzip" if gzip else ""}
        self._metadata = tuple((name, value) for name, value in given.items() if value)
        self._channel = ClientChannel(
            host_port,
            self._silence_s,
            self.counts,
            gzip=gzip,
            tls=self._uses_tls,
            ca=self._ca,
            interceptors=interceptors,
        )
        self._answered = False
        # The newest request_ids of this client. ``watch`` leaves out the turns that they started.
        self._own_requests: deque[str] = deque(maxlen=_REMEMBERED)
        self._watches = SessionWatches(self._own_requests)

    async def connect(self) -> None:
        try:
            async with self._failures():
                if not await self._channel.connect():
                    raise ServerAbsent("nothing answers there")
        except ConnectionLost:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._channel.aclose()

    async def cut(self) -> None:
        await self._channel.aclose()

    def stream_chat(self, ask: Ask) -> AsyncGenerator[AnyEvent | UnknownEvent, None]:
        self._own_requests.append(ask.request_id)
        return self._events(self._channel.chat.SendMessage, chat_request(ask))

    def stream_image(self, ask: Ask) -> AsyncGenerator[AnyEvent | UnknownEvent, None]:
        self._own_requests.append(ask.request_id)
        return self._events(self._channel.chat.GenerateImage, image_request(ask))

    def stream_turn(self, turn_id: str, after: int, epoch: int = 0) -> AsyncGenerator[AnyEvent | UnknownEvent, None]:
        request = pb.ResumeTurnRequest(turn_id=turn_id, after=after, epoch=epoch or None)
        return self._events(self._channel.chat.ResumeTurn, request)

    async def _events(
        self, method: grpc.aio.UnaryStreamMultiCallable[Q, pb.Event], request: Q
    ) -> AsyncGenerator[AnyEvent | UnknownEvent, None]:
        """The events of one call. Closing the generator cancels the call and waits for its end."""
        call = method(request, metadata=self._metadata)
        try:
            async with self._failures():
                async for message in call:
                    self._answered = True
                    self.counts.bytes_received += message.ByteSize()
                    event = received_event(message)
                    if event is not None:
                        yield event
        except ChatError as error:
            begun = call.done() and "turn_id" in dict(await call.initial_metadata() or ())
            if begun and error.code in ("shutting_down", "storage_unavailable"):
                raise SentAway(f"the stream ended early: {error.message}") from error
            raise
        finally:
            await ended(call)

    async def watch(self, session_id: str) -> AsyncGenerator[Watched, None]:
        async with self._failures(), aclosing(self._watches.watch(self._chat_call(), session_id)) as items:
            async for item in items:
                yield item

    async def typing(self, session_id: str, typing: bool) -> None:
        hint = pb.ChatRequest(typing_start=pb.TypingStart()) if typing else pb.ChatRequest(typing_stop=pb.TypingStop())
        async with self._failures():
            if not await self._watches.hint(session_id, hint):
                await send_hint(self._chat_call(timeout_s=self._silence_s), session_id, hint)

    def _chat_call(self, timeout_s: float | None = None) -> ChatCall:
        return self._channel.chat.Chat(None, metadata=self._metadata, timeout=timeout_s)

    @asynccontextmanager
    async def _failures(self) -> AsyncIterator[None]:
        """The library's exceptions as ChatError and ConnectionLost. Before the first good answer, another program is named."""
        try:
            with failures():
                yield
        except ChatError:
            raise
        except (ConnectionLost, NotOurServer) as error:
            if not self._answered and (stranger := await self._stranger()):
                raise NotOurServer(stranger) from error
            raise
        self._answered = True

    async def _ask(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        """One request, one answer, within ``silence_s``."""
        async with self._failures():
            return await method(request, metadata=self._metadata, timeout=self._silence_s)

    async def _get(self, kind: type[S], method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q) -> S:
        """The same, with the answer converted to ``kind``."""
        answer = await self._ask(method, request)
        return from_message(answer, kind)

    async def create_session(self, model_id: str | None = None) -> Session:
        request = pb.CreateSessionRequest(model_id=model_id)
        return await self._get(Session, self._channel.chat.CreateSession, request)

    async def get_session(self, session_id: str) -> Session:
        request = pb.GetSessionInfoRequest(session_id=session_id)
        return await self._get(Session, self._channel.chat.GetSessionInfo, request)

    async def list_sessions(self, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        request = pb.ListSessionsRequest(limit=limit, cursor=cursor)
        return await self._get(SessionPage, self._channel.chat.ListSessions, request)

    async def message_page(self, session_id: str, limit: int | None = None, cursor: str | None = None) -> MessagePage:
        request = pb.ListMessagesRequest(session_id=session_id, limit=limit, cursor=cursor)
        return await self._get(MessagePage, self._channel.chat.ListMessages, request)

    async def clear_session(self, session_id: str) -> None:
        await self._ask(self._channel.chat.ClearSession, pb.ClearSessionRequest(session_id=session_id))

    async def delete_session(self, session_id: str) -> None:
        await self._ask(self._channel.chat.DeleteSession, pb.DeleteSessionRequest(session_id=session_id))

    async def start(self, ask: Ask) -> Snapshot:
        if ask.kind == "image":
            request = pb.StartTurnRequest(image=image_request(ask))
        else:
            request = pb.StartTurnRequest(chat=chat_request(ask))
        return await self._get(Snapshot, self._channel.chat.StartTurn, request)

    async def get_turn(self, turn_id: str) -> Snapshot:
        return await self._get(Snapshot, self._channel.chat.GetTurn, pb.GetTurnRequest(turn_id=turn_id))

    async def cancel(self, turn_id: str) -> Snapshot:
        return await self._get(Snapshot, self._channel.chat.CancelTurn, pb.CancelTurnRequest(turn_id=turn_id))

    async def get_image(self, image_id: str) -> bytes:
        call = self._channel.chat.GetImage(pb.GetImageRequest(image_id=image_id), metadata=self._metadata)
        async with self._failures():
            return b"".join([piece.data async for piece in call])

    async def list_models(self) -> list[ModelInfo]:
        answer = await self._ask(self._channel.chat.ListModels, pb.ListModelsRequest())
        return [from_message(model, ModelInfo) for model in answer.models]

    async def stats(self) -> ServerStats:
        return await self._get(ServerStats, self._channel.chat.GetServerStats, pb.GetServerStatsRequest())

    async def health(self) -> dict[str, Any]:
        check = health_pb2_grpc.HealthStub(self._channel.channel).Check
        answer = await self._ask(check, health_pb2.HealthCheckRequest())
        return {"status": _HEALTH.get(answer.status, "unknown"), "transport": self.transport}

    async def services(self) -> list[str]:
        stub = reflection_pb2_grpc.ServerReflectionStub(self._channel.channel)
        asked = (reflection_pb2.ServerReflectionRequest(list_services=""),)
        async with self._failures():
            answers = stub.ServerReflectionInfo(iter(asked), metadata=self._metadata, timeout=self._silence_s)
            return [service.name async for answer in answers for service in answer.list_services_response.service]

    async def ping(self) -> float:
        begun = time.perf_counter()
        await self.health()
        return (time.perf_counter() - begun) * 1000


def chat_request(ask: Ask) -> pb.SendMessageRequest:
    """The request of a chat."""
    return pb.SendMessageRequest(
        message=ask.text, session_id=ask.session_id, model_id=ask.model_id, request_id=ask.request_id
    )


def image_request(ask: Ask) -> pb.GenerateImageRequest:
    """The request of a picture."""
    return pb.GenerateImageRequest(prompt=ask.text, size=ask.size, session_id=ask.session_id, request_id=ask.request_id)


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
