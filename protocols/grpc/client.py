"""A client of the chat over gRPC: one HTTP/2 connection for everything, each call a stream of its own on it (RFC 9113).

The protocol has no resume of its own: ``ResumeTurn`` with the last seq goes on. Statuses become ChatError by the reason in their
details; a status without ours is the line's, not the chat's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, TypeVar

import grpc
import msgspec
from google.protobuf.message import Message as ProtobufMessage
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from protocols.grpc.convert import from_event_message, from_message
from protocols.grpc.status import from_details
from shared.client import cli
from shared.client.protocol import Ask, ChatClient, ServerAbsent
from shared.errors import ERRORS, ChatError, ConnectionLost
from shared.events import AnyEvent, TurnStarted
from shared.reply import Snapshot
from shared.session import Message, ModelInfo, Session, SessionPage, SessionUpdate
from shared.stats import ServerStats

A = TypeVar("A")
_CONNECT_S = 5.0
# The library waits longer after each failure, up to two minutes; ours waits in _follow.
_RECONNECT_MS = 200
_REMEMBERED = 256
# Statuses that the library or a proxy gives when the line breaks.
_LINE = frozenset({"UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED"})
_CODES = {row.grpc: row.code for row in reversed(ERRORS.values()) if row.grpc not in _LINE}
_UNREACHED = ("failed to connect", "errors resolving", "DNS resolution failed")
# Somebody took the connection and it broke before HTTP/2 had begun: lost, not absent.
_BROKE = ("Socket closed", "recvmsg")
_HEALTH = {health_pb2.HealthCheckResponse.SERVING: "ok", health_pb2.HealthCheckResponse.NOT_SERVING: "unavailable"}


class Client(ChatClient):
    """See ChatClient; ``gzip``: compress, both ways."""

    transport = "grpc"
    holds_connection = True

    def __init__(self, address: str, *, gzip: bool = False, **options: Any) -> None:
        super().__init__(address.rpartition("://")[2].rstrip("/"), **options)
        self._gzip = gzip
        given = {"authorization": f"Bearer {self._key}" if self._key else "", "accept-encoding": "gzip" if gzip else ""}
        self._metadata = tuple((name, value) for name, value in given.items() if value)
        self._channel: grpc.aio.Channel | None = None
        # The newest requests of this client: what it asked for is no news to itself, and may be heard of late.
        self._own: deque[str] = deque(maxlen=_REMEMBERED)
        self._watching: dict[str, grpc.aio.StreamStreamCall[pb.ChatRequest, pb.ChatResponse]] = {}

    async def connect(self) -> None:
        channel = self._dial()
        try:
            async with asyncio.timeout(_CONNECT_S):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        raise ServerAbsent("nothing answers there")
                    await channel.wait_for_state_change(state)
        except (ServerAbsent, TimeoutError):
            await self.aclose()
            raise ServerAbsent("nothing answers there") from None

    def _dial(self) -> grpc.aio.Channel:
        # Its lines about connections would stand in the middle of a conversation.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        half_ms = int(self._silence_s * 500)
        self._channel = grpc.aio.insecure_channel(
            self.address,
            options=(
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # Both together are the silence after which a half-open connection is given up.
                ("grpc.keepalive_time_ms", half_ms),
                ("grpc.keepalive_timeout_ms", half_ms),
                ("grpc.http2.ping_timeout_ms", half_ms),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
                # In spite of its name, how long one attempt may take: SETTINGS included, and a mobile line has 100 ms a round.
                ("grpc.min_reconnect_backoff_ms", int(_CONNECT_S * 1000)),
                ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
                # A connection of its own, not one that the process has already to the same address.
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_http_proxy", 0),
            ),
            compression=grpc.Compression.Gzip if self._gzip else None,
        )
        self.counts.connections += 1
        return self._channel

    async def aclose(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    async def cut(self) -> None:
        before = self._channel
        self._dial()
        if before is not None:
            await before.close(None)

    @property
    def _stub(self) -> Any:
        return ChatServiceStub(self._channel or self._dial())

    # -- turns

    async def _chat(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        self._own.append(ask.request_id)
        async for event in self._events(self._stub.SendMessage(chat_request(ask), metadata=self._metadata)):
            yield event

    async def _image(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        self._own.append(ask.request_id)
        async for event in self._events(self._stub.GenerateImage(image_request(ask), metadata=self._metadata)):
            yield event

    async def _read(self, turn_id: str, after: int) -> AsyncGenerator[AnyEvent, None]:
        request = pb.ResumeTurnRequest(turn_id=turn_id, after=after)
        async for event in self._events(self._stub.ResumeTurn(request, metadata=self._metadata)):
            yield event

    async def _events(self, call: Any) -> AsyncGenerator[AnyEvent, None]:
        """The events of a call. Who closes the iterator leaves the call: closing it alone would not end it."""
        try:
            with failures():
                async for message in call:
                    self.counts.bytes_received += message.ByteSize()
                    yield from_event_message(message)
        except ChatError as error:
            begun = call.done() and "turn_id" in dict(await call.initial_metadata() or ())
            if begun and error.code == "shutting_down":
                raise ConnectionLost("the server is shutting down, the turn goes on elsewhere") from error
            raise
        finally:
            call.cancel()

    # -- the joined session, on Chat

    async def watch(self, session_id: str) -> AsyncGenerator[AnyEvent | SessionUpdate, None]:
        call = self._stub.Chat(metadata=self._metadata)
        own: set[str] = set()
        try:
            with failures():
                async for response in call:
                    match response.WhichOneof("body"):
                        case "connected":
                            # Not before: a write into a call that is being refused hides the refusal.
                            await call.write(joining(session_id))
                        case "session_joined":
                            self._watching[session_id] = call
                        case "event":
                            event = from_event_message(response.event)
                            if isinstance(event, TurnStarted) and event.request_id in self._own:
                                own.add(event.turn_id)
                            if event.turn_id not in own:
                                yield event
                        case "session_update":
                            yield from_message(response.session_update, SessionUpdate)
                        case "error":
                            raise ChatError(response.error.code, response.error.message)
            raise ConnectionLost("the stream ended")
        finally:
            if self._watching.get(session_id) is call:
                del self._watching[session_id]
            call.cancel()

    async def typing(self, session_id: str, typing: bool) -> None:
        hint = pb.ChatRequest(typing_start=pb.TypingStart()) if typing else pb.ChatRequest(typing_stop=pb.TypingStop())
        with failures():
            if session_id in self._watching:
                await self._watching[session_id].write(hint)
                return
            call = self._stub.Chat(metadata=self._metadata, timeout=self._silence_s)
            async for response in call:
                match response.WhichOneof("body"):
                    case "connected":
                        await call.write(joining(session_id))
                        await call.write(hint)
                        await call.done_writing()
                    case "error":
                        call.cancel()
                        raise ChatError(response.error.code, response.error.message)

    # -- one request, one answer

    async def _ask(self, call: Any, request: ProtobufMessage) -> Any:
        with failures():
            return await call(request, metadata=self._metadata, timeout=self._silence_s)

    async def create_session(self, model_id: str | None = None) -> Session:
        return from_message(
            await self._ask(self._stub.CreateSession, pb.CreateSessionRequest(model_id=model_id)), Session
        )

    async def get_session(self, session_id: str) -> Session:
        request = pb.GetSessionInfoRequest(session_id=session_id)
        return from_message(await self._ask(self._stub.GetSessionInfo, request), Session)

    async def list_sessions(self, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        request = pb.ListSessionsRequest(limit=limit, cursor=cursor)
        return from_message(await self._ask(self._stub.ListSessions, request), SessionPage)

    async def list_messages(self, session_id: str) -> list[Message]:
        answer = await self._ask(self._stub.ListMessages, pb.ListMessagesRequest(session_id=session_id))
        return [from_message(message, Message) for message in answer.messages]

    async def clear_session(self, session_id: str) -> None:
        await self._ask(self._stub.ClearSession, pb.ClearSessionRequest(session_id=session_id))

    async def delete_session(self, session_id: str) -> None:
        await self._ask(self._stub.DeleteSession, pb.DeleteSessionRequest(session_id=session_id))

    async def start(self, ask: Ask) -> Snapshot:
        if ask.kind == "image":
            request = pb.StartTurnRequest(image=image_request(ask))
        else:
            request = pb.StartTurnRequest(chat=chat_request(ask))
        return from_message(await self._ask(self._stub.StartTurn, request), Snapshot)

    async def get_turn(self, turn_id: str) -> Snapshot:
        return from_message(await self._ask(self._stub.GetTurn, pb.GetTurnRequest(turn_id=turn_id)), Snapshot)

    async def cancel(self, turn_id: str) -> Snapshot:
        return from_message(await self._ask(self._stub.CancelTurn, pb.CancelTurnRequest(turn_id=turn_id)), Snapshot)

    async def get_image(self, image_id: str) -> bytes:
        call = self._stub.GetImage(pb.GetImageRequest(image_id=image_id), metadata=self._metadata)
        with failures():
            return b"".join([piece.data async for piece in call])

    async def list_models(self) -> list[ModelInfo]:
        answer = await self._ask(self._stub.ListModels, pb.ListModelsRequest())
        return [from_message(model, ModelInfo) for model in answer.models]

    async def stats(self) -> ServerStats:
        return from_message(await self._ask(self._stub.GetServerStats, pb.GetServerStatsRequest()), ServerStats)

    async def health(self) -> dict[str, Any]:
        check = health_pb2_grpc.HealthStub(self._channel or self._dial()).Check
        answer = await self._ask(check, health_pb2.HealthCheckRequest())
        return {"status": _HEALTH.get(answer.status, "unknown"), "transport": self.transport}

    async def services(self) -> list[str]:
        stub = reflection_pb2_grpc.ServerReflectionStub(self._channel or self._dial())
        asked = (reflection_pb2.ServerReflectionRequest(list_services=""),)
        with failures():
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


def joining(session_id: str) -> pb.ChatRequest:
    """The request to hear of a session."""
    return pb.ChatRequest(join_session=pb.JoinSession(session_id=session_id))


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """The library's failures as ours."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise failure(error) from error
    except asyncio.CancelledError:
        # A call that is cancelled, by cut or by the end of the channel, looks to its reader as if the reader were.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionLost("the connection was cut") from None
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        raise ConnectionLost("the connection is closed") from error
    except msgspec.ValidationError as error:
        raise ConnectionLost("the server answered something that is not ours") from error


def failure(error: grpc.aio.AioRpcError) -> Exception:
    """A status as ChatError, ServerAbsent or ConnectionLost."""
    words = error.details() or ""
    ours = from_details(error.trailing_metadata(), words)
    if ours is not None:
        return ours
    status = error.code().name
    if status == "UNAVAILABLE" and words.startswith(_UNREACHED) and not any(said in words for said in _BROKE):
        return ServerAbsent("nothing answers there")
    if status in _LINE:
        return ConnectionLost(f"the connection broke ({status})")
    return ChatError(_CODES.get(status, "internal"), f"The server answered {status}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
