"""The five wires and gRPC-Web as the probe uses them: a turn, a resume, and the few questions that the checks ask."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, get_args

from compare.probing.frames import Answer, Frames, Lines, Messages, ServerSentEvents, Whole
from compare.probing.heard import Heard
from compare.probing.http1 import Headers, Http1Stream, as_json, fetch
from compare.probing.http2 import GrpcStream, Http2
from compare.probing.stream import Stream, read_whole
from compare.probing.target import Target
from compare.probing.websocket import Socket
from protocols.grpc import chat_pb2 as pb
from shared.errors import ErrorCode

_JSON = ("Content-Type", "application/json")
_ANSWER_S = 10.0
_UPLOAD_S = 20.0
_CHAT = "chat.ChatService"
# A hop may replace the media type of an error; the server's own codes in its body tell that the server wrote it.
_CODES = frozenset(get_args(ErrorCode))


class Wire(ABC):
    """One of the wires. Each method that opens a connection raises ServerAbsent when nothing answers."""

    word: str
    tokens: bool = True

    @abstractmethod
    async def turn(self, target: Target, message: str, *, gzip: bool = False) -> Stream:
        """Start a turn on a connection of its own."""

    async def turns(self, target: Target, message: str, count: int) -> list[Stream]:
        """Start ``count`` turns at once, as one user's client would: HTTP/1.1 and WebSocket on as many connections."""
        return list(await asyncio.gather(*(self.turn(target, message) for _ in range(count))))

    @abstractmethod
    async def resume(self, target: Target, turn_id: str, after: int) -> Stream:
        """Go on with a turn after a cursor."""

    @abstractmethod
    async def authorized(self, target: Target) -> Heard:
        """Ask for something that needs the key."""

    @abstractmethod
    async def streams_active(self, target: Target) -> int | None:
        """How many streams the server has open; None when it does not say."""

    @abstractmethod
    async def cancel(self, target: Target, turn_id: str) -> None:
        """Stop a turn."""

    @abstractmethod
    async def upload(self, target: Target, size: int) -> Heard:
        """Send a body of this size to a route that starts no turn, and read the refusal."""

    @abstractmethod
    def refused_by_server(self, heard: Heard) -> str | None:
        """The code of the chat server's refusal; None when another hop has refused."""

    @abstractmethod
    async def idle(self, target: Target, seconds: float) -> float | None:
        """After how many idle seconds the path closes a connection that has been used once; None: it stays open."""


class HttpWire(Wire):
    """What the four HTTP servers share."""

    async def authorized(self, target: Target) -> Heard:
        return await fetch(target, "GET", "/sessions?limit=1")

    async def streams_active(self, target: Target) -> int | None:
        count = as_json(await fetch(target, "GET", "/stats")).get("streams_active")
        return count if isinstance(count, int) else None

    async def cancel(self, target: Target, turn_id: str) -> None:
        await fetch(target, "POST", f"/turns/{turn_id}/cancel", {})

    async def upload(self, target: Target, size: int) -> Heard:
        body = b'{"padding":"%b"}' % (b"x" * (size - 14))
        stream = await Http1Stream.open(target)
        stream.send(target, "POST", "/turns", (_JSON,), body)
        return await read_whole(stream, _UPLOAD_S)

    def refused_by_server(self, heard: Heard) -> str | None:
        code = as_json(heard).get("code")
        return code if code in _CODES else None

    async def idle(self, target: Target, seconds: float) -> float | None:
        stream = await Http1Stream.open(target)
        try:
            stream.send(target, "GET", "/health")
            await stream.read(_ANSWER_S)
            return await stream.closed_within(seconds)
        finally:
            await stream.leave()

    async def _post(
        self, target: Target, path: str, value: Any, headers: Headers, frames: Callable[[Heard], Frames]
    ) -> Http1Stream:
        stream = await Http1Stream.open(target)
        stream.send(target, "POST", path, (_JSON, *headers), json.dumps(value).encode(), frames)
        return stream


class Rest(HttpWire):
    """One request, one whole reply."""

    word = "rest"
    tokens = False

    async def turn(
        self, target: Target, message: str, *, gzip: bool = False, session_id: str | None = None
    ) -> Http1Stream:
        body = {"message": message, "session_id": session_id}
        return await self._post(target, "/chat", body, _encoding(gzip), Whole)

    async def resume(self, target: Target, turn_id: str, after: int) -> Stream:
        """A long poll: its answer is whole."""
        stream = await Http1Stream.open(target)
        stream.send(target, "GET", f"/turns/{turn_id}/events?after={after}&wait=1")
        return stream


class Ndjson(HttpWire):
    """JSON lines in one chunked answer."""

    word = "ndjson"
    media_type = "application/x-ndjson"
    frames: type[Frames] = Lines

    async def turn(self, target: Target, message: str, *, gzip: bool = False) -> Stream:
        headers = (("Accept", self.media_type), *_encoding(gzip))
        return await self._post(target, "/chat/stream", {"message": message}, headers, self.frames)

    async def resume(self, target: Target, turn_id: str, after: int) -> Stream:
        stream = await Http1Stream.open(target)
        path, headers = self._cursor(turn_id, after)
        stream.send(target, "GET", path, (("Accept", self.media_type), *headers), frames=self.frames)
        return stream

    def _cursor(self, turn_id: str, after: int) -> tuple[str, Headers]:
        return f"/turns/{turn_id}/stream?after={after}", ()


class Sse(Ndjson):
    """Server-Sent Events; the cursor is a header."""

    word = "sse"
    media_type = "text/event-stream"
    frames = ServerSentEvents

    def _cursor(self, turn_id: str, after: int) -> tuple[str, Headers]:
        return f"/turns/{turn_id}/stream", (("Last-Event-ID", f"{turn_id}/{after}"),)


class WebSocket(HttpWire):
    """One held connection."""

    word = "websocket"

    async def turn(self, target: Target, message: str, *, gzip: bool = False) -> Socket:
        return await self._say(target, {"type": "chat", "message": message})

    async def resume(self, target: Target, turn_id: str, after: int) -> Stream:
        return await self._say(target, {"type": "resume", "turn_id": turn_id, "after": after})

    async def _say(self, target: Target, message: dict[str, Any]) -> Socket:
        socket = await Socket.open(target)
        if socket.heard.end == "open":
            socket.send(message)
        return socket


class Grpc(Wire):
    """gRPC on a raw HTTP/2 connection."""

    word = "grpc"

    async def turn(self, target: Target, message: str, *, gzip: bool = False) -> GrpcStream:
        return await self._begin(await Http2.open(target), message)

    async def turns(self, target: Target, message: str, count: int) -> list[Stream]:
        connection = await Http2.open(target)
        await connection.settled()
        return [await self._begin(connection, message) for _ in range(count)]

    async def _begin(self, connection: Http2, message: str) -> GrpcStream:
        request = pb.SendMessageRequest(message=message).SerializeToString()
        return await connection.call(f"{_CHAT}/SendMessage", request)

    async def resume(self, target: Target, turn_id: str, after: int) -> GrpcStream:
        request = pb.ResumeTurnRequest(turn_id=turn_id, after=after).SerializeToString()
        return await (await Http2.open(target)).call(f"{_CHAT}/ResumeTurn", request)

    async def authorized(self, target: Target) -> Heard:
        return await self._unary(target, "ListModels", b"")

    async def streams_active(self, target: Target) -> int | None:
        heard = await self._unary(target, "GetServerStats", b"")
        return pb.ServerStats.FromString(heard.body).streams_active if heard.rpc_status == 0 else None

    async def cancel(self, target: Target, turn_id: str) -> None:
        await self._unary(target, "CancelTurn", pb.CancelTurnRequest(turn_id=turn_id).SerializeToString())

    async def upload(self, target: Target, size: int) -> Heard:
        return await self._unary(target, "StartTurn", _padding(size), _UPLOAD_S)

    def refused_by_server(self, heard: Heard) -> str | None:
        details = heard.headers.get("grpc-status-details-bin")
        return f"gRPC status {heard.rpc_status}" if details else None

    async def idle(self, target: Target, seconds: float) -> float | None:
        connection = await Http2.open(target)
        try:
            stream = await connection.call(f"{_CHAT}/ListModels", b"", frames=Answer)
            begun = (await stream.read(_ANSWER_S)).ended_s
            loop = asyncio.get_running_loop()
            while connection.closed_s is None and loop.time() < begun + seconds:
                await connection.change(0.1)
            return None if connection.closed_s is None else connection.closed_s - begun
        finally:
            await connection.close()

    async def _unary(self, target: Target, name: str, request: bytes, seconds: float = _ANSWER_S) -> Heard:
        connection = await Http2.open(target)
        stream = await connection.call(f"{_CHAT}/{name}", request, frames=Answer)
        return await read_whole(stream, seconds)


class GrpcWeb(Wire):
    """gRPC-Web over HTTP/1.1, as a page speaks it: on a port of its own, the trailers in the last message."""

    word = "grpc-web"
    _HEADERS = (("Content-Type", "application/grpc-web+proto"), ("X-Grpc-Web", "1"))

    async def turn(self, target: Target, message: str, *, gzip: bool = False) -> Http1Stream:
        request = pb.SendMessageRequest(message=message).SerializeToString()
        return await self._call(target, "SendMessage", request, Messages)

    async def resume(self, target: Target, turn_id: str, after: int) -> Http1Stream:
        request = pb.ResumeTurnRequest(turn_id=turn_id, after=after).SerializeToString()
        return await self._call(target, "ResumeTurn", request, Messages)

    async def authorized(self, target: Target) -> Heard:
        return await self._unary(target, "ListModels", b"")

    async def streams_active(self, target: Target) -> int | None:
        stats = await self.stats(target)
        return None if stats is None else stats.streams_active

    async def stats(self, target: Target) -> pb.ServerStats | None:
        """What the server has counted; None where it does not say."""
        heard = await self._unary(target, "GetServerStats", b"")
        return pb.ServerStats.FromString(heard.body) if heard.rpc_status == 0 else None

    async def cancel(self, target: Target, turn_id: str) -> None:
        await self._unary(target, "CancelTurn", pb.CancelTurnRequest(turn_id=turn_id).SerializeToString())

    async def upload(self, target: Target, size: int) -> Heard:
        return await self._unary(target, "StartTurn", _padding(size), _UPLOAD_S)

    def refused_by_server(self, heard: Heard) -> str | None:
        return f"gRPC status {heard.rpc_status}" if "grpc-status-details-bin" in heard.headers else None

    async def idle(self, target: Target, seconds: float) -> float | None:
        stream = await self._call(target, "ListModels", b"", Answer)
        try:
            await stream.read(_ANSWER_S)
            return await stream.closed_within(seconds)
        finally:
            await stream.leave()

    async def _call(self, target: Target, name: str, request: bytes, frames: Callable[[Heard], Frames]) -> Http1Stream:
        stream = await Http1Stream.open(target)
        body = b"\0" + len(request).to_bytes(4) + request
        stream.send(target, "POST", f"/{_CHAT}/{name}", self._HEADERS, body, frames)
        return stream

    async def _unary(self, target: Target, name: str, request: bytes, seconds: float = _ANSWER_S) -> Heard:
        return await read_whole(await self._call(target, name, request, Answer), seconds)


def _padding(size: int) -> bytes:
    """A request of this size in field 1000, which the server does not know: it parses past it and then misses the input."""
    length = size - 7
    return b"\xc2\x3e" + _varint(length) + b"x" * length


def _encoding(gzip: bool) -> Headers:
    return (("Accept-Encoding", "gzip" if gzip else "identity"),)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


WIRES: dict[str, Wire] = {wire.word: wire for wire in (Rest(), Ndjson(), Sse(), WebSocket(), Grpc(), GrpcWeb())}
