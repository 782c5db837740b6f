"""The five wires without this project's clients: one request, and the answer in the wire's own terms."""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from protocols.grpc import chat_pb2 as pb
from protocols.processes import Server

TERMINAL = {"turn_completed", "turn_failed", "turn_cancelled", "turn_interrupted"}
TIMEOUT_S = 30.0
_EOF: Any = getattr(grpc.aio, "EOF")  # noqa: B009 - the stubs do not know it
_FRAMES = {"chat": "chat", "image": "image", "read": "resume", "cancel": "cancel", "create": "create_session"}
_RPCS: Mapping[str, tuple[str, type[Message]]] = {
    "chat": ("SendMessage", pb.SendMessageRequest),
    "image": ("GenerateImage", pb.GenerateImageRequest),
    "read": ("ResumeTurn", pb.ResumeTurnRequest),
    "cancel": ("CancelTurn", pb.CancelTurnRequest),
    "turn": ("GetTurn", pb.GetTurnRequest),
    "session": ("GetSessionInfo", pb.GetSessionInfoRequest),
    "messages": ("ListMessages", pb.ListMessagesRequest),
    "clear": ("ClearSession", pb.ClearSessionRequest),
    "delete": ("DeleteSession", pb.DeleteSessionRequest),
    "picture": ("GetImage", pb.GetImageRequest),
    "create": ("CreateSession", pb.CreateSessionRequest),
}
_STREAMS = {"/chat.ChatService/SendMessage", "/chat.ChatService/GenerateImage", "/chat.ChatService/ResumeTurn"}
_PICTURE = "/chat.ChatService/GetImage"


@dataclass
class Outcome:
    """What came back.

    ``status`` is HTTP's number, gRPC's word, or the code of a WebSocket that was closed (None when it is still open). ``code`` is
    the error's: of the refusal, or of the ``turn_failed`` that ended the events.
    """

    status: int | str | None = None
    code: str | None = None
    message: str = ""
    retryable: bool | None = None
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    answer: Any = None

    @property
    def failed(self) -> bool:
        """Whether a turn had begun before it failed."""
        return "turn_failed" in self.events


class Wire(ABC):
    """One wire to a server. ``headers`` are HTTP's, or gRPC's metadata."""

    def __init__(self, name: str, word: str) -> None:
        self.name = name
        self.word = word

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    async def ask(self, server: Server, what: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Outcome:
        """Ask for ``what``: ``chat``, ``image``, ``read``, ``cancel``, ``turn``, ``session``, ``messages``, ``clear``, ``delete``,
        ``picture`` or ``create``; ``fields`` are the contract's."""

    @abstractmethod
    async def raw(self, server: Server, data: bytes | str, headers: Mapping[str, str] | None = None) -> Outcome:
        """Send these bytes in place of a chat."""


class HttpWire(Wire):
    """The routes of an HTTP server; a chat and a picture in the way of REST, NDJSON or SSE."""

    async def ask(self, server: Server, what: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Outcome:
        given = {name: value for name, value in fields.items() if value is not None}
        key = {"Idempotency-Key": given.pop("request_id")} if "request_id" in given else {}
        method, path = self._route(what, given)
        params = {"after": given.pop("after")} if "after" in given else None
        return await self._send(
            server, method, path, {**(headers or {}), **key}, params=params, json=given if method == "POST" else None
        )

    def _route(self, what: str, given: dict[str, Any]) -> tuple[str, str]:
        stream = "" if self.word == "rest" else "/stream"
        events = "events" if self.word in ("rest", "websocket") else "stream"
        match what:
            case "chat" if self.word != "websocket":
                return "POST", f"/chat{stream}"
            case "image" if self.word != "websocket":
                return "POST", f"/images{stream}"
            case "chat" | "image":
                return "POST", "/turns"
            case "create":
                return "POST", "/sessions"
            case "read":
                return "GET", f"/turns/{given.pop('turn_id')}/{events}"
            case "cancel":
                return "POST", f"/turns/{given.pop('turn_id')}/cancel"
            case "turn":
                return "GET", f"/turns/{given.pop('turn_id')}"
            case "session":
                return "GET", f"/sessions/{given.pop('session_id')}"
            case "messages":
                return "GET", f"/sessions/{given.pop('session_id')}/messages"
            case "clear":
                return "POST", f"/sessions/{given.pop('session_id')}/clear"
            case "delete":
                return "DELETE", f"/sessions/{given.pop('session_id')}"
            case "picture":
                return "GET", f"/images/{given.pop('image_id')}"
        raise ValueError(what)

    async def raw(self, server: Server, data: bytes | str, headers: Mapping[str, str] | None = None) -> Outcome:
        _, path = self._route("chat", {})
        content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        return await self._send(
            server, "POST", path, {"Content-Type": "application/json", **(headers or {})}, content=content
        )

    async def _send(
        self, server: Server, method: str, path: str, headers: Mapping[str, str], **options: Any
    ) -> Outcome:
        async with httpx.AsyncClient(
            base_url=f"http://{server.address}", trust_env=False, verify=False, timeout=TIMEOUT_S
        ) as http:
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            response = await http.request(method, path, headers=raw, **options)
        outcome = Outcome(response.status_code, headers=response.headers)
        media_type = response.headers.get("content-type", "")
        if media_type == "application/problem+json":
            problem = response.json()
            outcome.code, outcome.message, outcome.retryable = problem["code"], problem["detail"], problem["retryable"]
            assert problem["status"] == response.status_code
            if "retry-after" in response.headers:
                outcome.retry_after_s = float(response.headers["retry-after"])
        elif response.is_error:
            outcome.message = response.text
        elif media_type == "application/json":
            outcome.answer = response.json()
            for event in outcome.answer.get("events", ()):
                _note(outcome, event)
        elif media_type.startswith("text/event-stream"):
            for line in response.text.split("\n"):
                if line.startswith("data: "):
                    _note(outcome, json.loads(line[6:]))
        elif media_type.startswith("application/x-ndjson"):
            for line in response.text.split("\n"):
                if line:
                    _note(outcome, json.loads(line))
        return outcome


def _note(outcome: Outcome, event: Mapping[str, Any]) -> None:
    outcome.events.append(event["type"])
    if event["type"] == "turn_failed":
        outcome.code, outcome.message, outcome.retryable = event["code"], event["message"], event["retryable"]


class SocketWire(Wire):
    """Frames on ``/ws``. Requests outside of the conversation go over the HTTP routes of the same server."""

    async def ask(self, server: Server, what: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Outcome:
        if what not in _FRAMES:
            return await HttpWire("websocket", "websocket").ask(server, what, headers, **fields)
        given = {name: value for name, value in fields.items() if value is not None}
        return await self.raw(server, json.dumps({"type": _FRAMES[what], **given}, ensure_ascii=False), headers)

    async def raw(self, server: Server, data: bytes | str, headers: Mapping[str, str] | None = None) -> Outcome:
        try:
            async with self.connected(server, headers) as socket:
                return await self.exchange(socket, data)
        except InvalidStatus as error:
            problem = json.loads(error.response.body or b"{}")
            return Outcome(
                error.response.status_code,
                problem.get("code"),
                problem.get("detail", ""),
                problem.get("retryable"),
                headers=error.response.headers,
            )

    @asynccontextmanager
    async def connected(
        self, server: Server, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[ClientConnection]:
        """A connection after its ``connected``; without one where the server waits for a ticket."""
        given = dict(headers or {})
        origin = given.pop("Origin", None)
        async with connect(
            f"ws://{server.address}/ws",
            subprotocols=[Subprotocol("genai.chat.v1")],
            additional_headers=given,
            origin=origin,  # type: ignore[arg-type]
            max_size=None,
            proxy=None,
            close_timeout=5,
        ) as socket:
            yield socket

    async def exchange(self, socket: ClientConnection, data: bytes | str) -> Outcome:
        """Send one frame and read what follows it: to an error, a terminal event, an answer or the close."""
        outcome = Outcome()
        with contextlib.suppress(ConnectionClosed):
            if isinstance(data, bytes):
                await socket.send(data)
            else:
                # The library does not check this text: bytes that are not UTF-8 are sent as they are.
                await socket.send(data.encode("utf-8", "surrogatepass"), text=True)
        return await self._answer(socket, outcome)

    async def _answer(self, socket: ClientConnection, outcome: Outcome) -> Outcome:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    frame = await socket.recv()
                    if isinstance(frame, bytes):
                        continue
                    message = json.loads(frame)
                    kind = message["type"]
                    if kind == "error":
                        outcome.code, outcome.message = message["code"], message["message"]
                        outcome.retryable = message["retryable"]
                        outcome.answer = message
                        break
                    if kind == "resumed":
                        outcome.answer = message
                        if message["status"] != "running" and message["after"] >= message["last_seq"]:
                            break
                    elif kind == "session_created":
                        outcome.answer = message
                        break
                    elif "seq" in message:
                        _note(outcome, message)
                        if kind in TERMINAL:
                            break
                # The connection is open if the server answers.
                await socket.send('{"type": "ping"}')
                while json.loads(await socket.recv())["type"] != "pong":
                    pass
        except ConnectionClosed as error:
            outcome.status = error.rcvd.code if error.rcvd else 1006
            outcome.message = error.rcvd.reason if error.rcvd else ""
            outcome.code = outcome.code or (outcome.message or None)
        return outcome


class GrpcWire(Wire):
    """The RPCs, each with a status at its end."""

    async def ask(self, server: Server, what: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Outcome:
        rpc, kind = _RPCS[what]
        given = {name: value for name, value in fields.items() if value is not None}
        return await self.call(server, f"/chat.ChatService/{rpc}", kind(**given).SerializeToString(), headers)

    async def raw(self, server: Server, data: bytes | str, headers: Mapping[str, str] | None = None) -> Outcome:
        content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        return await self.call(server, "/chat.ChatService/SendMessage", content, headers)

    async def call(self, server: Server, path: str, data: bytes, headers: Mapping[str, str] | None = None) -> Outcome:
        """Send these bytes to an RPC and read its answers and its status."""
        outcome = Outcome()
        async with channel(server) as line:
            metadata = tuple((name.lower(), value) for name, value in (headers or {}).items())
            streams = path in _STREAMS or path == _PICTURE
            call: Any = (line.unary_stream if streams else line.unary_unary)(path)(
                data, metadata=metadata, timeout=TIMEOUT_S
            )
            with contextlib.suppress(grpc.aio.AioRpcError):
                if streams:
                    async for message in call:
                        if path != _PICTURE:
                            note_event(outcome, pb.Event.FromString(message))
                else:
                    outcome.answer = await call
            await note_status(outcome, call)
        return outcome


class GrpcChatWire(Wire):
    """The conversation on one stream, ``Chat``; everything else by the other RPCs."""

    async def ask(self, server: Server, what: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Outcome:
        if what not in _FRAMES:
            return await GrpcWire("grpc", "grpc").ask(server, what, headers, **fields)
        given = {name: value for name, value in fields.items() if value is not None}
        body: Any = {_FRAMES[what]: given}
        request = pb.ChatRequest(**body)
        return await self.raw(server, request.SerializeToString(), headers)

    async def raw(self, server: Server, data: bytes | str, headers: Mapping[str, str] | None = None) -> Outcome:
        content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        async with channel(server) as line:
            metadata = tuple((name.lower(), value) for name, value in (headers or {}).items())
            call: Any = line.stream_stream("/chat.ChatService/Chat")(metadata=metadata, timeout=TIMEOUT_S)
            # A write on a call that the server has ended would hide the status, so the server's first message is read
            # before.
            with contextlib.suppress(grpc.aio.AioRpcError):
                if await call.read() is not _EOF:
                    return await self.exchange(call, content)
            outcome = Outcome()
            await note_status(outcome, call)
            return outcome

    async def exchange(self, call: Any, content: bytes) -> Outcome:
        """Send one message on an open call and read what follows."""
        outcome = Outcome()
        try:
            await call.write(content)
            while (data := await call.read()) is not _EOF:
                if self._note(outcome, pb.ChatResponse.FromString(data)):
                    # The call is open if the server answers.
                    await call.write(pb.ChatRequest(ping=pb.Ping()).SerializeToString())
                    while pb.ChatResponse.FromString(await call.read()).WhichOneof("body") != "pong":
                        pass
                    await call.done_writing()
                    return outcome
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        await note_status(outcome, call)
        return outcome

    def _note(self, outcome: Outcome, response: pb.ChatResponse) -> bool:
        match response.WhichOneof("body"):
            case "error":
                error = response.error
                outcome.code, outcome.message, outcome.retryable = error.code, error.message, error.retryable
                outcome.answer = error
                return True
            case "resumed":
                outcome.answer = response.resumed
                return response.resumed.status != "running" and response.resumed.after >= response.resumed.last_seq
            case "session_created":
                outcome.answer = response.session_created
                return True
            case "event":
                note_event(outcome, response.event)
                return outcome.events[-1] in TERMINAL
        return False


@asynccontextmanager
async def channel(server: Server) -> AsyncIterator[Any]:
    """A channel with the library's options, except for the size limit of an answer."""
    async with grpc.aio.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as line:
        yield line


def note_event(outcome: Outcome, event: pb.Event) -> None:
    """Add one event of a stream to the outcome."""
    kind = event.WhichOneof("body") or ""
    outcome.events.append(kind)
    if kind == "turn_failed":
        failed = event.turn_failed
        outcome.code, outcome.message, outcome.retryable = failed.code, failed.message, failed.retryable


async def note_status(outcome: Outcome, call: Any) -> None:
    """Add a call's status and its details (google.rpc.Status in the trailing metadata) to the outcome."""
    outcome.status = (await call.code()).name
    info, retry = ErrorInfo(), RetryInfo()
    trailing: Mapping[str, Any] = {}
    with contextlib.suppress(grpc.aio.AioRpcError):
        trailing = dict(await call.trailing_metadata() or ())
    outcome.headers = {name: str(value) for name, value in trailing.items()}
    if outcome.status != "OK":
        outcome.message = await call.details() or ""
    for detail in Status.FromString(trailing.get("grpc-status-details-bin", b"")).details:
        if detail.Unpack(info):
            assert outcome.code in (None, info.reason.lower())
            outcome.code = info.reason.lower()
            assert info.reason == info.reason.upper()
        elif detail.Unpack(retry):
            outcome.retry_after_s = retry.retry_delay.ToMilliseconds() / 1000


WIRES: tuple[Wire, ...] = (
    HttpWire("rest", "rest"),
    HttpWire("ndjson", "ndjson"),
    HttpWire("sse", "sse"),
    SocketWire("websocket", "websocket"),
    GrpcWire("grpc", "grpc"),
    GrpcChatWire("grpc-chat", "grpc"),
)
