"""What a client reads from a stream: the events of ``shared/events.py``, newer types, and ``cursor_lost``."""

from __future__ import annotations

import msgspec

from shared.errors import ConnectionLost
from shared.events import EVENT_TYPES, AnyEvent, CursorLost

_KNOWN = {*(str(kind.__struct_config__.tag) for kind in EVENT_TYPES), str(CursorLost.__struct_config__.tag)}
_decoder: msgspec.json.Decoder[AnyEvent | CursorLost] = msgspec.json.Decoder(AnyEvent | CursorLost)


class UnknownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a type that this client does not know. Its seq counts, and nothing of it is shown."""

    type: str
    turn_id: str
    seq: int


def read_event(data: bytes) -> AnyEvent | UnknownEvent:
    """Decode one event of a JSON transport. Raises ConnectionLost when it is malformed."""
    item = read_item(data)
    if isinstance(item, CursorLost):
        raise ConnectionLost("the server sent an event that is malformed")
    return item


def read_item(data: bytes) -> AnyEvent | UnknownEvent | CursorLost:
    """Decode one object of a JSON stream. Raises ConnectionLost when it is malformed."""
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError as error:
        try:
            event = msgspec.json.decode(data, type=UnknownEvent)
        except msgspec.MsgspecError:
            event = None
        if event is None or event.type in _KNOWN:
            raise ConnectionLost("the server sent an event that is malformed") from error
        return event
    except msgspec.DecodeError as error:
        raise ConnectionLost("the server sent something that is not JSON") from error
