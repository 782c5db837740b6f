"""The messages of the port for pages as bytes: protobuf, protobuf's JSON, and gzip around either."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from google.protobuf.message import Message

from protocols.grpc.web_status import refused_by_table
from shared.errors import ChatError


@dataclass(frozen=True, slots=True)
class Answer:
    """A serialised message and its type, which JSON needs."""

    data: bytes
    kind: type[Message]


class Binary:
    """Messages as the handlers write them."""

    def name(self) -> str:
        return "proto"

    def encode(self, message: Answer) -> bytes:
        return message.data

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> bytes:
        return bytes(data)


class Json:
    """Messages as protobuf's JSON (protobuf.dev, "ProtoJSON format"): ``curl`` and people can write them."""

    def name(self) -> str:
        return "json"

    def encode(self, message: Answer) -> bytes:
        return MessageToJson(message.kind.FromString(message.data), indent=None).encode()

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> bytes:
        try:
            return Parse(bytes(data), message_class(), ignore_unknown_fields=True).SerializeToString()
        except (ParseError, ValueError, RecursionError):
            words = (
                f"This is not a {message_class.DESCRIPTOR.full_name} in JSON; send a message that chat.proto describes."
            )
            raise refused_by_table(ChatError("invalid_request", words)) from None


class Gzip(GzipCompression):
    """gzip (RFC 1952) with the error table's errors."""

    def decompress(self, data: bytes | bytearray | memoryview, read_max_bytes: int | None = None) -> bytes:
        try:
            return bytes(super().decompress(data, read_max_bytes))
        except ConnectError:
            error = ChatError("payload_too_large")
        except (EOFError, OSError, zlib.error):
            error = ChatError(
                "invalid_request", "This is not gzip; send the message with gzip, or without compression."
            )
        raise refused_by_table(error)
