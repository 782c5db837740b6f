"""Events as a client reads them: those of ``shared/events.py``, and types that are newer than the client."""

from __future__ import annotations

import msgspec

from shared.errors import ConnectionLost
from shared.events import EVENT_TYPES, AnyEvent, from_json

_KNOWN = frozenset(str(kind.__struct_config__.tag) for kind in EVENT_TYPES)


class UnknownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a type that this client does not know. Its seq counts, and nothing of it is shown."""

    type: str
    turn_id: str
    seq: int


def read_event(data: bytes) -> AnyEvent | UnknownEvent:
    """Decode one event of a JSON transport. Raises ConnectionLost when it is malformed."""
    try:
        return from_json(data)
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
