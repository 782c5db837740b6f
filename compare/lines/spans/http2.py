"""The spans of HTTP/2 frames (RFC 9113) and of gRPC messages, compared with hyperframe, hpack and protobuf."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame

from compare.lines.capture import HTTP2_PREFACE, Direction
from compare.lines.spans.span import ByteStream, Span, UnexpectedBytes, WireUnit
from protocols.grpc import chat_pb2


def http2_units(stream: ByteStream) -> Iterator[WireUnit]:
    """The frames of one direction."""
    data, at = stream.data, 0
    hpack = Decoder()
    if stream.direction == "up":
        at = len(HTTP2_PREFACE)
        yield stream.unit(at, "HTTP/2 connection preface", [Span(HTTP2_PREFACE, "framing", "preface")])
    messages = b""
    while at < len(data):
        frame, length = Frame.parse_frame_header(memoryview(data[at : at + 9]))
        body = data[at + 9 : at + 9 + length]
        frame.parse_body(memoryview(body))
        name = type(frame).__name__.removesuffix("Frame").upper()
        flags = f", {'+'.join(sorted(frame.flags))}" if frame.flags else ""
        spans = [Span(data[at : at + 9], "framing", f"{name} frame, {length} bytes, stream {frame.stream_id}{flags}")]
        if isinstance(frame, DataFrame) and body:
            whole, messages = _message_spans(stream.direction, messages + body)
            spans += whole
            if messages:
                raise UnexpectedBytes("a gRPC message in several DATA frames; ask for fewer tokens")
        elif isinstance(frame, HeadersFrame):
            fields = ", ".join(f"{key!s}: {value!s}" for key, value in hpack.decode(frame.data, raw=False))
            spans.append(Span(body, "framing", f"HPACK: {fields}"))
        elif body:
            spans.append(Span(body, "framing", "payload"))
        at += 9 + length
        yield stream.unit(at, f"HTTP/2 {name}", spans)


def _message_spans(direction: Direction, data: bytes) -> tuple[list[Span], bytes]:
    """The spans of all whole length-prefixed messages (gRPC over HTTP/2), and the bytes behind them."""
    spans: list[Span] = []
    while len(data) >= 5:
        length = int.from_bytes(data[1:5], "big")
        if len(data) < 5 + length:
            break
        message = data[5 : 5 + length]
        compressed = "compressed" if data[0] else "not compressed"
        spans.append(Span(data[:5], "framing", f"gRPC prefix: {compressed}, message of {length} bytes"))
        message_type = chat_pb2.Event if direction == "down" else chat_pb2.SendMessageRequest
        fields = list(_field_spans(message, message_type.DESCRIPTOR))
        again = message_type.FromString(message).SerializeToString()
        if again != message or b"".join(span.data for span in fields) != message:
            raise UnexpectedBytes("protobuf reads another message")
        spans += fields
        data = data[5 + length :]
    return spans, data


def _field_spans(data: bytes, descriptor: Descriptor, prefix: str = "") -> Iterator[Span]:
    """Tag by tag (protobuf.dev, Encoding), nested messages field by field; ``prefix`` names the message around them."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        field: FieldDescriptor = descriptor.fields_by_number[tag >> 3]
        name = f"{prefix}{field.name}"
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield Span(data[start:at], "event", f"field {tag >> 3} {name} = {value}, tag and varint")
            case 1:
                at += 8
                yield Span(data[start:at], "event", f"field {tag >> 3} {name}, tag and 8 bytes")
            case 2:
                length, at = _varint(data, at)
                yield Span(data[start:at], "event", f"field {tag >> 3} {name}, tag and length {length}")
                body = data[at : at + length]
                at += length
                if field.message_type is not None:
                    yield from _field_spans(body, field.message_type, f"{name}.")
                elif name == "chunk.text":
                    yield Span(body, "text", "the token, UTF-8")
                else:
                    yield Span(body, "event", "value")
            case wire_type:
                raise UnexpectedBytes(f"protobuf wire type {wire_type}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
