"""An event as a client receives it: known, newer than the client, or a heartbeat."""

from __future__ import annotations

from protocols.grpc import chat_pb2
from protocols.grpc.convert import BODIES, from_event_message
from shared.client.events import UnknownEvent
from shared.events import AnyEvent


def received_event(message: chat_pb2.Event) -> AnyEvent | UnknownEvent | None:
    """The event in a ``chat.Event``. None for a heartbeat, which has no seq.

    Raises msgspec.ValidationError when an event of a known type is malformed.
    """
    if not message.seq:
        return None
    if message.WhichOneof("body") not in BODIES:
        return UnknownEvent(type="", turn_id=message.turn_id, seq=message.seq)
    return from_event_message(message)
