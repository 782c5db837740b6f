"""Steps of HTTP/2 (RFC 9113), read by hyperframe and hpack, and of the gRPC messages in its DATA frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from hpack import Decoder
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from compare.lines.capture import HTTP2_PREFACE, CapturedBytes, Direction
from compare.lines.steps.step import Step, StepKind
from protocols.grpc import chat_pb2, image_generation_pb2

_SERVICES = {
    service.full_name: service
    for file in (chat_pb2.DESCRIPTOR, image_generation_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
}


class Http2Reader:
    """The frames of one connection, and the messages in them, each behind a flag and its length."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._buffers = {"up": b"", "down": b""}
        self._preface_bytes = len(HTTP2_PREFACE)
        self._hpack = {"up": Decoder(), "down": Decoder()}
        self._blocks: dict[str, tuple[HeadersFrame, bytes, int]] = {}
        self._methods: dict[int, MethodDescriptor | None] = {}
        self._data: dict[tuple[int, Direction], bytes] = {}
        self._sizes: dict[tuple[int, Direction], int] = {}
        self._answered: set[int] = set()

    def read(self, piece: CapturedBytes) -> Iterator[Step]:
        """The steps that this piece completes."""
        direction = piece.direction
        buffer = self._buffers[direction] + piece.data
        if direction == "up" and self._preface_bytes:
            if len(buffer) < self._preface_bytes:
                self._buffers[direction] = buffer
                return
            yield self._step(piece.at, direction, 0, "frame", "preface", self._preface_bytes)
            buffer, self._preface_bytes = buffer[self._preface_bytes :], 0
        while len(buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(buffer[:9]))
            if len(buffer) < 9 + length:
                break
            frame.parse_body(memoryview(buffer[9 : 9 + length]))
            buffer = buffer[9 + length :]
            yield from self._steps(piece.at, direction, frame, 9 + length)
        self._buffers[direction] = buffer

    def _steps(self, at: float, direction: Direction, frame: Frame, size: int) -> Iterator[Step]:
        stream = frame.stream_id
        match frame:
            case HeadersFrame():
                self._blocks[direction] = (frame, frame.data, size)
                if "END_HEADERS" in frame.flags:
                    yield self._headers(at, direction)
            case ContinuationFrame():
                first, block, so_far = self._blocks[direction]
                self._blocks[direction] = (first, block + frame.data, so_far + size)
                if "END_HEADERS" in frame.flags:
                    yield self._headers(at, direction)
            case DataFrame():
                key = (stream, direction)
                self._data[key] = self._data.get(key, b"") + frame.data
                self._sizes[key] = self._sizes.get(key, 0) + size
                yield from self._messages(at, direction, stream)
                if self._sizes.get(key) and not self._data[key]:
                    yield self._step(at, direction, stream, "frame", "DATA, empty", self._sizes.pop(key))
            case RstStreamFrame():
                yield self._step(at, direction, stream, "close", f"RST_STREAM {frame.error_code}", size)
            case GoAwayFrame():
                yield self._step(at, direction, stream, "close", "GOAWAY", size)
            case _:
                name = type(frame).__name__.removesuffix("Frame")
                name = {"WindowUpdate": "WINDOW_UPDATE"}.get(name, name.upper())
                name += " ack" if "ACK" in frame.flags else ""
                yield self._step(at, direction, stream, "frame", name, size, raw=frame.serialize())

    def _headers(self, at: float, direction: Direction) -> Step:
        frame, block, size = self._blocks.pop(direction)
        headers = tuple((str(name), str(value)) for name, value in self._hpack[direction].decode(block))
        fields, stream = dict(headers), frame.stream_id
        if direction == "up":
            path = fields[":path"]
            service, _, method = path.strip("/").partition("/")
            known = _SERVICES.get(service)
            self._methods[stream] = known.methods_by_name.get(method) if known else None
            return self._step(at, direction, stream, "request", path, size, headers=headers)
        if "grpc-status" in fields:
            kind: StepKind = "end" if stream in self._answered else "response"
            return self._step(
                at, direction, stream, kind, f"grpc-status {fields['grpc-status']}", size, headers=headers
            )
        self._answered.add(stream)
        return self._step(at, direction, stream, "response", f":status {fields[':status']}", size, headers=headers)

    def _messages(self, at: float, direction: Direction, stream: int) -> Iterator[Step]:
        key = (stream, direction)
        while len(self._data[key]) >= 5:
            length = int.from_bytes(self._data[key][1:5], "big")
            if len(self._data[key]) < 5 + length:
                return
            compressed, raw = self._data[key][0], self._data[key][5 : 5 + length]
            self._data[key] = self._data[key][5 + length :]
            # The head of a DATA frame with several messages is counted with the first message.
            size, self._sizes[key] = self._sizes[key] - len(self._data[key]), len(self._data[key])
            message = None if compressed else self._parse(stream, direction, raw)
            name = "a message" if message is None else _name(message)
            payload = None if message is None else json_format.MessageToDict(message, preserving_proto_field_name=True)
            yield self._step(at, direction, stream, "event", name, size, payload=payload, raw=raw)

    def _parse(self, stream: int, direction: Direction, raw: bytes) -> Message | None:
        method = self._methods.get(stream)
        if method is None:
            return None
        message_type = method.input_type if direction == "up" else method.output_type
        return message_factory.GetMessageClass(message_type).FromString(raw)

    def _step(
        self, at: float, direction: Direction, stream: int, kind: StepKind, name: str, size: int, **more: Any
    ) -> Step:
        return Step(
            at=at, connection=self._number, stream=stream, direction=direction, kind=kind, name=name, size=size, **more
        )


def _name(message: Message) -> str:
    """The field that is set in the message's ``body``, else the name of the message's type."""
    if "body" not in message.DESCRIPTOR.oneofs_by_name:
        return str(message.DESCRIPTOR.name)
    name = str(message.WhichOneof("body") or "nothing")
    return _name(message.event) if name == "event" else name  # type: ignore[attr-defined]
