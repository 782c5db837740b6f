"""Captured bytes as protocol steps: what a relay saw, read by parsers that are not ours (h11, wsproto, hyperframe and hpack).

Which protocol a connection speaks is seen in its first bytes. Nothing is rebuilt from events: a step has the size and the time of
its bytes, and its payload is what the parser found in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import h11
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from hpack import Decoder
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame
from wsproto.frame_protocol import FrameDecoder, Opcode

from compare.relay import Piece, Way
from protocols.grpc import chat_pb2, image_generation_pb2

# request and response: a head (with its body, where that is one JSON); event: one of ours, or a message on a held connection;
# heartbeat: said only to say something; end: of a stream; close: of a connection; frame: HTTP/2's own.
Kind = Literal["request", "response", "event", "heartbeat", "end", "close", "frame"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SERVICES = {
    service.full_name: service
    for file in (chat_pb2.DESCRIPTOR, image_generation_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One protocol step. ``at`` is when its last byte passed, ``size`` all its bytes, framing included.

    ``name`` says what it is in the protocol's words (``POST /chat``, ``200 OK``, ``chunk``). ``stream`` is HTTP/2's,
    or how many requests came before on an HTTP/1.1 connection. ``raw`` is the payload as it was on the wire; ``payload`` as read.
    """

    at: float
    connection: int
    stream: int
    way: Way
    kind: Kind
    name: str
    size: int
    headers: tuple[tuple[str, str], ...] = ()
    payload: Any = None
    raw: bytes = b""


def steps(pieces: Iterable[Piece]) -> list[Step]:
    """Every step of every connection, in the order in which their last bytes passed."""
    lines: dict[int, Line] = {}
    found: list[Step] = []
    for piece in pieces:
        line = lines.setdefault(piece.connection, Line(piece.connection))
        found += line.take(piece)
    return found


class Line:
    """One connection: feed it pieces in order, get the steps that are whole."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._reader: _Http1 | _Http2 | None = None

    def take(self, piece: Piece) -> Iterator[Step]:
        """The steps that this piece completes. Raises the parsers' own errors for what is not the protocol."""
        if self._reader is None:
            # In HTTP/1.1 a server never speaks first; in HTTP/2 it may.
            second = piece.way == "down" or _PREFACE.startswith(piece.data[: len(_PREFACE)])
            self._reader = _Http2(self._number) if second else _Http1(self._number)
        yield from self._reader.take(piece)


# -- HTTP/1.1, and what it becomes ----------------------------------------------------------------------------------------


class _Http1:
    """Requests and responses (RFC 9112); after 101 the frames of a WebSocket (RFC 6455)."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._ends = {"up": h11.Connection(h11.SERVER), "down": h11.Connection(h11.CLIENT)}
        self._fed = {"up": 0, "down": 0}
        self._used = {"up": 0, "down": 0}
        self._frames: dict[str, _Frames] = {}
        self._stream = 0
        self._heads: dict[str, h11.Request | h11.Response] = {}
        self._bodies = {"up": b"", "down": b""}
        self._sizes = {"up": 0, "down": 0}

    def take(self, piece: Piece) -> Iterator[Step]:
        if self._frames:
            yield from self._frames[piece.way].take(piece.at, piece.data)
            return
        end = self._ends[piece.way]
        end.receive_data(piece.data)
        self._fed[piece.way] += len(piece.data)
        found: list[Step] = []
        while (event := end.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            found += self._step(piece.at, piece.way, event)
        self._count(piece.way)
        if found and not self._bodies[piece.way]:
            # The line end after an HTTP chunk belongs to the chunk, though no event comes of it.
            found[-1] = replace(found[-1], size=found[-1].size + self._sizes[piece.way])
            self._sizes[piece.way] = 0
        yield from found
        if self._frames:
            rest, _ = end.trailing_data
            yield from self._frames[piece.way].take(piece.at, rest)
        elif all(it.our_state is h11.DONE and it.their_state is h11.DONE for it in self._ends.values()):
            self._stream += 1
            for it in self._ends.values():
                it.start_next_cycle()

    def _step(self, at: float, way: Way, event: Any) -> Iterator[Step]:
        other = self._ends["down" if way == "up" else "up"]
        self._count(way)
        # What one end has received the other has sent: so both know where the exchange stands.
        if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage):
            other.send(event)
        if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
            self._frames = {it: _Frames(self._number, it) for it in ("up", "down")}
            yield self._made(at, way, "response", "101 Switching Protocols", _pairs(event.headers))
        elif isinstance(event, h11.Request | h11.Response):
            self._heads[way], self._bodies[way] = event, b""
            if _streams(event) or (isinstance(event, h11.Request) and _upgrades(event)):
                yield self._whole(at, way)
        elif isinstance(event, h11.Data):
            self._bodies[way] += bytes(event.data)
            if _streams(self._heads[way]):
                yield from self._events(at, way)
        elif isinstance(event, h11.EndOfMessage) and not _upgrades(self._heads[way]):
            yield self._made(at, way, "end", "end of body") if _streams(self._heads[way]) else self._whole(at, way)

    def _count(self, way: Way) -> None:
        used = self._fed[way] - len(self._ends[way].trailing_data[0])
        self._sizes[way] += used - self._used[way]
        self._used[way] = used

    def _whole(self, at: float, way: Way) -> Step:
        """A head, and its body where it is not a stream."""
        head, body = self._heads[way], self._bodies[way]
        if isinstance(head, h11.Request):
            kind: Kind = "request"
            name = f"{head.method.decode()} {head.target.decode()}"
        else:
            kind, name = "response", f"{head.status_code} {head.reason.decode()}"
        return self._made(at, way, kind, name, _pairs(head.headers), _json(body), body)

    def _events(self, at: float, way: Way) -> Iterator[Step]:
        sse = _media_type(self._heads[way]) == "text/event-stream"
        border = b"\n\n" if sse else b"\n"
        *items, self._bodies[way] = self._bodies[way].split(border)
        framing = self._sizes[way] - sum(len(item) + len(border) for item in items) - len(self._bodies[way])
        for item in items:
            # HTTP's chunk around it is counted with the first of the events in it.
            self._sizes[way], framing = len(item) + len(border) + framing, 0
            name, payload = _sse(item) if sse else _ndjson(item)
            kind: Kind = "event" if payload is not None else "heartbeat"
            yield self._made(at, way, kind, name, payload=payload, raw=item + border)
        self._sizes[way] = len(self._bodies[way]) + framing

    def _made(
        self,
        at: float,
        way: Way,
        kind: Kind,
        name: str,
        headers: tuple[tuple[str, str], ...] = (),
        payload: Any = None,
        raw: bytes = b"",
    ) -> Step:
        size, self._sizes[way] = self._sizes[way], 0
        return Step(
            at=at,
            connection=self._number,
            stream=self._stream,
            way=way,
            kind=kind,
            name=name,
            size=size,
            headers=headers,
            payload=payload,
            raw=raw,
        )


def _pairs(headers: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode(), value.decode("latin-1")) for name, value in headers.raw_items())


def _media_type(head: h11.Request | h11.Response) -> str:
    given = dict(head.headers).get(b"content-type", b"")
    return given.partition(b";")[0].decode()


def _streams(head: h11.Request | h11.Response) -> bool:
    return _media_type(head) in ("application/x-ndjson", "text/event-stream")


def _upgrades(head: h11.Request | h11.Response) -> bool:
    return b"upgrade" in dict(head.headers)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _ndjson(line: bytes) -> tuple[str, Any]:
    if not line:
        return "blank line", None
    event = json.loads(line)
    return event["type"], event


def _sse(block: bytes) -> tuple[str, Any]:
    """The fields of one event (WHATWG HTML, section 9.2.6), as far as we send them."""
    fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n") if not line.startswith(":"))
    if "data" not in fields:
        return ("retry" if "retry" in fields else "comment"), None
    return fields.get("event", "message"), json.loads(fields["data"])


class _Frames:
    """One way of a WebSocket."""

    def __init__(self, number: int, way: Way) -> None:
        self._number = number
        self._way: Way = way
        # An endpoint that is a server gets masked frames.
        self._decoder = FrameDecoder(client=way == "down")
        self._part = b""
        self._opcode: Opcode | None = None

    def take(self, at: float, data: bytes) -> Iterator[Step]:
        if data:
            self._decoder.receive_bytes(data)
        while (frame := self._decoder.process_buffer()) is not None:
            # A frame that came in several pieces is given in several parts.
            self._opcode = self._opcode or frame.opcode
            self._part += bytes(frame.payload)  # type: ignore[arg-type]
            if not frame.frame_finished:
                continue
            opcode, payload, self._opcode, self._part = self._opcode, self._part, None, b""
            kind: Kind = "event"
            read: Any = None
            match opcode:
                case Opcode.TEXT:
                    read = json.loads(payload)
                    name = read["type"]
                case Opcode.CLOSE:
                    kind, name = "close", f"close {int.from_bytes(payload[:2], 'big') if payload else ''}".strip()
                case Opcode.PING | Opcode.PONG:
                    kind, name = "heartbeat", opcode.name.lower()
                case _:
                    name = f"binary, {len(payload)} bytes"
            # RFC 6455, section 5.2: two bytes, the longer lengths, the mask of what a client sends.
            head = 2 + (0 if len(payload) < 126 else 2 if len(payload) < 65536 else 8) + 4 * (self._way == "up")
            yield Step(
                at=at,
                connection=self._number,
                stream=0,
                way=self._way,
                kind=kind,
                name=name,
                size=head + len(payload),
                payload=read,
                raw=payload,
            )


# -- HTTP/2 and gRPC on it --------------------------------------------------------------------------------------------------


class _Http2:
    """Frames (RFC 9113), and in DATA the messages of gRPC, each behind a flag and its length."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._buffers = {"up": b"", "down": b""}
        self._preface = len(_PREFACE)
        self._hpack = {"up": Decoder(), "down": Decoder()}
        self._blocks: dict[str, tuple[HeadersFrame, bytes, int]] = {}
        self._methods: dict[int, MethodDescriptor | None] = {}
        self._data: dict[tuple[int, Way], bytes] = {}
        self._sizes: dict[tuple[int, Way], int] = {}
        self._answered: set[int] = set()

    def take(self, piece: Piece) -> Iterator[Step]:
        way = piece.way
        buffer = self._buffers[way] + piece.data
        if way == "up" and self._preface:
            if len(buffer) < self._preface:
                self._buffers[way] = buffer
                return
            yield self._made(piece.at, way, 0, "frame", "preface", self._preface)
            buffer, self._preface = buffer[self._preface :], 0
        while len(buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(buffer[:9]))
            if len(buffer) < 9 + length:
                break
            frame.parse_body(memoryview(buffer[9 : 9 + length]))
            buffer = buffer[9 + length :]
            yield from self._step(piece.at, way, frame, 9 + length)
        self._buffers[way] = buffer

    def _step(self, at: float, way: Way, frame: Frame, size: int) -> Iterator[Step]:
        stream = frame.stream_id
        match frame:
            case HeadersFrame():
                self._blocks[way] = (frame, frame.data, size)
                if "END_HEADERS" in frame.flags:
                    yield self._headers(at, way)
            case ContinuationFrame():
                first, block, so_far = self._blocks[way]
                self._blocks[way] = (first, block + frame.data, so_far + size)
                if "END_HEADERS" in frame.flags:
                    yield self._headers(at, way)
            case DataFrame():
                key = (stream, way)
                self._data[key] = self._data.get(key, b"") + frame.data
                self._sizes[key] = self._sizes.get(key, 0) + size
                yield from self._messages(at, way, stream)
                if self._sizes.get(key) and not self._data[key]:
                    yield self._made(at, way, stream, "frame", "DATA, empty", self._sizes.pop(key))
            case RstStreamFrame():
                yield self._made(at, way, stream, "close", f"RST_STREAM {frame.error_code}", size)
            case GoAwayFrame():
                yield self._made(at, way, stream, "close", "GOAWAY", size)
            case _:
                name = type(frame).__name__.removesuffix("Frame")
                name = {"WindowUpdate": "WINDOW_UPDATE"}.get(name, name.upper())
                yield self._made(
                    at,
                    way,
                    stream,
                    "frame",
                    name + (" ack" if "ACK" in frame.flags else ""),
                    size,
                    raw=frame.serialize(),
                )

    def _headers(self, at: float, way: Way) -> Step:
        frame, block, size = self._blocks.pop(way)
        pairs = tuple((str(name), str(value)) for name, value in self._hpack[way].decode(block))
        fields, stream = dict(pairs), frame.stream_id
        if way == "up":
            path = fields[":path"]
            service, _, method = path.strip("/").partition("/")
            known = _SERVICES.get(service)
            self._methods[stream] = known.methods_by_name.get(method) if known else None
            return self._made(at, way, stream, "request", path, size, pairs)
        if "grpc-status" in fields:
            kind: Kind = "end" if stream in self._answered else "response"
            return self._made(at, way, stream, kind, f"grpc-status {fields['grpc-status']}", size, pairs)
        self._answered.add(stream)
        return self._made(at, way, stream, "response", f":status {fields[':status']}", size, pairs)

    def _messages(self, at: float, way: Way, stream: int) -> Iterator[Step]:
        key = (stream, way)
        while len(self._data[key]) >= 5:
            length = int.from_bytes(self._data[key][1:5], "big")
            if len(self._data[key]) < 5 + length:
                return
            compressed, raw = self._data[key][0], self._data[key][5 : 5 + length]
            self._data[key] = self._data[key][5 + length :]
            # The head of a DATA frame that holds several is counted with the first of them.
            size, self._sizes[key] = self._sizes[key] - len(self._data[key]), len(self._data[key])
            message = None if compressed else self._read(stream, way, raw)
            name = "a message" if message is None else _name(message)
            payload = None if message is None else json_format.MessageToDict(message, preserving_proto_field_name=True)
            yield self._made(at, way, stream, "event", name, size, payload=payload, raw=raw)

    def _read(self, stream: int, way: Way, raw: bytes) -> Message | None:
        method = self._methods.get(stream)
        if method is None:
            return None
        kind = message_factory.GetMessageClass(method.input_type if way == "up" else method.output_type)
        return kind.FromString(raw)

    def _made(
        self,
        at: float,
        way: Way,
        stream: int,
        kind: Kind,
        name: str,
        size: int,
        headers: tuple[tuple[str, str], ...] = (),
        payload: Any = None,
        raw: bytes = b"",
    ) -> Step:
        return Step(
            at=at,
            connection=self._number,
            stream=stream,
            way=way,
            kind=kind,
            name=name,
            size=size,
            headers=headers,
            payload=payload,
            raw=raw,
        )


def _name(message: Message) -> str:
    """What a message is: the member of its ``body`` that is set, else its type."""
    if "body" not in message.DESCRIPTOR.oneofs_by_name:
        return str(message.DESCRIPTOR.name)
    name = str(message.WhichOneof("body") or "nothing")
    return _name(message.event) if name == "event" else name  # type: ignore[attr-defined]
