"""The gRPC client over gRPC-Web, on the server's port for pages: the same requests, events and errors over HTTP/1.1.

Only the channel differs: connectrpc's client in place of grpcio's. ``Chat`` does not exist there, so nothing is watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import protocols.grpc.library_log  # noqa: F401 - before grpcio, which reads the level of its log when it is imported

import grpc
import msgspec
from connectrpc.client import ConnectClient
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc.aio import Metadata
from pyqwest import Client as Sender
from pyqwest import HTTPTransport, HTTPVersion, ReadError, RemoteProtocolError, WriteError

from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.grpc import client
from protocols.grpc.status import DETAILS
from shared.client.protocol import ChatClient, ClientCounts
from shared.client.strangers import stranger_at
from shared.client.tls import trusted_certificates
from shared.client.transport import Watched
from shared.errors import NotOurServer

WORD = TRANSPORTS["grpc"].page_word
_CHAT = pb.DESCRIPTOR.services_by_name["ChatService"]
_STREAMS = {False: StreamType.UNARY, True: StreamType.SERVER_STREAM}
Given = Iterable[tuple[str, str]]


class _Health(msgspec.Struct):
    status: str
    transport: str


class Client(client.Client):
    """See ChatClient; ``address``: the host and port for pages."""

    holds_connection = False

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        host_port = self.address.rpartition("://")[2]
        self.address = f"{'https' if self._uses_tls else 'http'}://{host_port}"
        roots = trusted_certificates(self._ca) if self._uses_tls else None
        self._web = WebChannel(self.address, self._silence_s, self.counts, roots)
        self._channel = self._web  # type: ignore[assignment]

    async def connect(self) -> None:
        """Nothing to open: each call connects, or uses a connection that is still open."""

    async def health(self) -> dict[str, Any]:
        async with self._failures():
            answer = await self._web.get("/health")
            try:
                health = msgspec.json.decode(answer, type=_Health)
            except msgspec.MsgspecError:
                health = None
            if health is None or health.transport != WORD:
                stranger = await self._stranger()
                raise NotOurServer(stranger or f"{self.address} is not the port for pages of a gRPC server")
        return {"status": health.status, "transport": self.transport}

    async def _stranger(self) -> str | None:
        return await stranger_at(self.address, WORD or "", http2_word=self.transport, hidden=True, tls=self._tls)

    async def services(self) -> list[str]:
        return [_CHAT.full_name]

    def watch(self, session_id: str) -> AsyncGenerator[Watched, None]:
        return ChatClient.watch(self, session_id)

    async def typing(self, session_id: str, typing: bool) -> None:
        await ChatClient.typing(self, session_id, typing)


class WebChannel:
    """The methods of ChatService over gRPC-Web, called as those of grpcio's stub are. ``roots``: PEM certificates for TLS."""

    def __init__(self, address: str, silence_s: float, counts: ClientCounts, roots: bytes | None) -> None:
        self._address = address
        self._silence_s = silence_s
        self._counts = counts
        self._roots = roots
        self._calls: set[asyncio.Task[None]] = set()
        self._sender: Sender | None = None
        self._connections: HTTPTransport | None = None
        self.chat = _Methods({method.name: _method(self, method) for method in _CHAT.methods})

    @property
    def sender(self) -> Sender:
        """The HTTP client, made at the first use and anew after ``aclose``."""
        if self._sender is None:
            transport = HTTPTransport(
                tls_ca_cert=self._roots,
                http_version=HTTPVersion.HTTP1,
                read_timeout=self._silence_s,
                connect_timeout=5.0,
                follow_redirects=False,
                enable_otel=False,
            )
            self._sender, self._connections = Sender(transport=transport), transport
            self._counts.connections += 1
        return self._sender

    def connect_client(self) -> ConnectClient:
        """connectrpc's client on the open sender."""
        return ConnectClient(
            self._address,
            codec=google_protobuf_binary_codec(),
            protocol=ProtocolType.GRPC_WEB,
            accept_compression=(),
            send_compression=None,
            http_client=self.sender,
        )

    async def get(self, path: str) -> bytes:
        """The body of a small answer. Raises the error that grpcio raises for a server that is not there."""
        try:
            async with asyncio.timeout(self._silence_s):
                answer = await self.sender.get(f"{self._address}{path}")
        except (OSError, ReadError, RemoteProtocolError, WriteError) as error:
            _fail(ConnectError(Code.UNAVAILABLE, str(error)))
        return bytes(answer.content)

    def run(self, work: Any) -> asyncio.Task[None]:
        """A call as a task, which ``aclose`` cancels."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def aclose(self) -> None:
        """Cancel the calls that run, whose readers fail as those of a lost connection, and close the connections."""
        calls, connections = tuple(self._calls), self._connections
        self._sender = self._connections = None
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        if connections is not None:
            # Without this the library keeps an idle connection open for 90 s.
            await connections.aclose()


@dataclass(frozen=True, slots=True)
class _Methods:
    """The methods by name, as attributes."""

    by_name: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.by_name[name]


def _method(channel: WebChannel, method: MethodDescriptor) -> Callable[..., Any]:
    about: MethodInfo[Any, Any] = MethodInfo(
        name=method.name,
        service_name=_CHAT.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=_STREAMS[method.server_streaming],
    )

    async def unary(request: Any, *, metadata: Given = (), timeout: float | None = None) -> Any:
        milliseconds = None if timeout is None else int(timeout * 1000)
        try:
            return await channel.connect_client().execute_unary(
                request=request, method=about, headers=dict(metadata), timeout_ms=milliseconds
            )
        except ConnectError as error:
            _fail(error)

    def stream(request: Any, *, metadata: Given = ()) -> _StreamCall:
        return _StreamCall(channel, about, request, dict(metadata))

    return stream if method.server_streaming else unary


class _StreamCall:
    """A server-streaming call, read as grpcio's is. Its task reads ahead, so that ``cancel`` reaches a reader that waits."""

    def __init__(self, channel: WebChannel, about: MethodInfo[Any, Any], request: Any, headers: dict[str, str]) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue(64)
        self._begun = False
        self._task = channel.run(self._read(channel, about, request, headers))

    async def _read(
        self, channel: WebChannel, about: MethodInfo[Any, Any], request: Any, headers: dict[str, str]
    ) -> None:
        end: Any = None
        try:
            messages = channel.connect_client().execute_server_stream(request=request, method=about, headers=headers)
            async for message in messages:
                self._begun = True
                await self._messages.put(message)
        except ConnectError as error:
            end = error
        except asyncio.CancelledError:
            # The reader may have stopped, so the end takes the place of a message in the full queue.
            if self._messages.full():
                self._messages.get_nowait()
            self._messages.put_nowait(ConnectError(Code.CANCELED, "the call was cancelled"))
            raise
        await self._messages.put(end)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while not isinstance(message := await self._messages.get(), ConnectError | None):
            yield message
        if message is not None:
            _fail(message)

    def done(self) -> bool:
        return self._task.done()

    def cancel(self) -> bool:
        return self._task.cancel()

    async def code(self) -> None:
        """Wait for the end of the call."""
        await asyncio.wait((self._task,))

    async def initial_metadata(self) -> dict[str, str]:
        return {"turn_id": ""} if self._begun else {}


def _fail(error: ConnectError) -> NoReturn:
    """Raise grpcio's exception for a status, so that one mapping serves both channels."""
    code = grpc.StatusCode["CANCELLED" if error.code is Code.CANCELED else error.code.name]
    status = Status(code=code.value[0], message=error.message)
    for detail in error.details:
        status.details.add(type_url=f"type.googleapis.com/{detail.type_name}", value=detail.message_bytes)
    trailing = Metadata((DETAILS, status.SerializeToString())) if status.details else Metadata()
    words = "failed to connect" if code is grpc.StatusCode.UNAVAILABLE and "connect" in error.message else error.message
    raise grpc.aio.AioRpcError(code, Metadata(), trailing, words, None) from error
