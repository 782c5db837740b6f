"""Events, sessions, messages, snapshots and statistics to protobuf and back.

A struct and its protobuf message have the same field names (a test compares them), so one pair of functions serves every
type. A field that may be None is ``optional`` in protobuf (protobuf.dev, "Application Note: Field Presence"), so that
None and "" stay different.
"""

from __future__ import annotations

from typing import Any, TypeVar, get_args

import msgspec
from google.protobuf.message import Message

from protocols.grpc import chat_pb2
from shared.duplex_messages import ClientMessage, ServerMessage
from shared.errors import ChatError
from shared.events import AnyEvent, Chunk, Event

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=msgspec.Struct)

BODIES: dict[str, type[AnyEvent]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyEvent)}

REQUESTS: dict[str, type[ClientMessage]] = {str(kind.__struct_config__.tag): kind for kind in get_args(ClientMessage)}


def to_event_bytes(event: Event) -> bytes:
    """One event as a serialised ``chat.Event``.

    A chunk takes 0.7 µs, because in protobuf's C runtime assigning fields is cheaper than the constructor's keywords.
    """
    if type(event) is not Chunk:
        return to_event_message(event).SerializeToString()
    message = chat_pb2.Event()
    message.turn_id = event.turn_id
    message.seq = event.seq
    message.at = event.at
    message.chunk.text = event.text
    return message.SerializeToString()


def to_event_message(event: Event) -> chat_pb2.Event:
    """One event as ``chat.Event``; its ``type`` is the name of the body that is set."""
    body = msgspec.to_builtins(event, builtin_types=(bytes,))
    head = {name: body.pop(name) for name in ("turn_id", "seq", "at")}
    return chat_pb2.Event(**head, **{body.pop("type"): body})


def from_event_message(message: chat_pb2.Event) -> AnyEvent:
    """The event in a ``chat.Event``.

    Raises msgspec.ValidationError when the message has no body that this code knows, or a word that the chat does not
    use.
    """
    name = message.WhichOneof("body")
    if name == "chunk":
        return Chunk(turn_id=message.turn_id, seq=message.seq, at=message.at, text=message.chunk.text)
    if name is None:
        raise msgspec.ValidationError("A chat.Event without a body, or with one that is newer than this code.")
    head = {"turn_id": message.turn_id, "seq": message.seq, "at": message.at}
    return msgspec.convert(head | to_fields(getattr(message, name)), BODIES[name])


def from_chat_request(message: chat_pb2.ChatRequest) -> ClientMessage:
    """A request on ``Chat`` as the message of the WebSocket. Raises ``invalid_request`` for a body this code lacks."""
    name = message.WhichOneof("body")
    if name is None:
        raise ChatError(
            "invalid_request", "The chat.ChatRequest has no body that this server knows; set one that chat.proto names."
        )
    return msgspec.convert(to_fields(getattr(message, name)), REQUESTS[name])


def to_chat_response(message: ServerMessage) -> bytes:
    """An answer on ``Chat`` that is no event, serialised. The message's ``type`` is the name of the body that is set."""
    body = msgspec.to_builtins(message)
    return chat_pb2.ChatResponse(**{body.pop("type"): body}).SerializeToString()


def to_message(value: msgspec.Struct, kind: type[M]) -> M:
    """A struct as the protobuf message with the same field names, with nested structs and lists.

    The field ``type`` of the JSON is left out. Raises ValueError when ``kind`` lacks one of the fields.
    """
    body = msgspec.to_builtins(value, builtin_types=(bytes,))
    body.pop(value.__struct_config__.tag_field, None)
    return kind(**body)


def from_message(message: Message, kind: type[S]) -> S:
    """The struct with the field names of ``message``. Raises msgspec.ValidationError where a value is not allowed."""
    return msgspec.convert(to_fields(message), kind)


def to_fields(message: Message) -> dict[str, Any]:
    """A message's fields by name. An absent ``optional`` field is None, and a nested message is a dict.

    An absent nested message becomes a dict of defaults. Convert the member of a ``oneof`` that is set, and not the
    message around the ``oneof``.
    """
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            fields[field.name] = [to_fields(item) for item in value]
        elif field.message_type is not None:
            fields[field.name] = to_fields(value)
        else:
            fields[field.name] = None if field.has_presence and not message.HasField(field.name) else value
    return fields
