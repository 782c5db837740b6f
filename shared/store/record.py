"""One event as the log keeps it: its stored JSON, and the bytes that each transport makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar, cast

import msgspec
import pybase64

from shared.events import (
    TERMINAL_STATUS,
    AnyEvent,
    Chunk,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    Kind,
    TurnInterrupted,
    TurnStarted,
    event_type,
    from_json,
    to_json,
)
from shared.reply import text_sha256

# Bytes, or text where the wire's library takes text.
Frame = TypeVar("Frame", bytes, str)
_IMAGE_CHUNK = "image_chunk"
# The encoder writes the type before every other field.
_START = b'{"type":"'


class _ImageChunkRef(msgspec.Struct, frozen=True, kw_only=True, tag=_IMAGE_CHUNK, tag_field="type"):
    """An ``image_chunk`` as the log keeps it: the count of its bytes instead of the bytes, which stand with the image."""

    turn_id: str
    seq: int
    at: float
    image_id: str
    offset: int
    bytes: int


_ref_decoder = msgspec.json.Decoder(_ImageChunkRef)


def image_of(stored: bytes) -> str | None:
    """The image that the stored JSON of an ``image_chunk`` refers to; None for every other event."""
    return _ref_decoder.decode(stored).image_id if stored.startswith(b'{"type":"image_chunk"') else None


class Record:
    """One event as it stands in the log: ``stored`` is its JSON, for an ``image_chunk`` with ``bytes`` (the count) for ``data``."""

    __slots__ = ("_event", "_frame", "_framer", "data", "seq", "stored", "turn_id", "type")

    def __init__(
        self,
        turn_id: str,
        seq: int,
        type: str,
        stored: bytes,
        event: AnyEvent | None = None,
        data: memoryview | None = None,
    ) -> None:
        self.turn_id = turn_id
        self.seq = seq
        self.type = type
        self.stored = stored
        self.data = data
        self._event = event
        self._framer: Callable[[Record], bytes | str] | None = None
        self._frame: bytes | str = b""

    @classmethod
    def of(cls, event: AnyEvent) -> Record:
        """The record of an event that is about to be appended."""
        if type(event) is ImageChunk:
            ref = _ImageChunkRef(
                turn_id=event.turn_id,
                seq=event.seq,
                at=event.at,
                image_id=event.image_id,
                offset=event.offset,
                bytes=len(event.data),
            )
            return cls(event.turn_id, event.seq, _IMAGE_CHUNK, to_json(ref), data=memoryview(event.data))
        return cls(event.turn_id, event.seq, event_type(event), to_json(event), event)

    @classmethod
    def load(cls, turn_id: str, seq: int, stored: bytes, image: Callable[[str], memoryview]) -> Record:
        """A record read back from a store; ``image`` gives the bytes of an image by its id.

        Raises ValueError or msgspec.MsgspecError for what is no event.
        """
        if not stored.startswith(_START) or not stored.endswith(b"}"):
            raise ValueError("This is no event.")
        tag = stored[len(_START) : stored.index(b'"', len(_START))].decode()
        if tag != _IMAGE_CHUNK:
            return cls(turn_id, seq, tag, stored)
        ref = _ref_decoder.decode(stored)
        return cls(turn_id, seq, tag, stored, data=image(ref.image_id)[ref.offset : ref.offset + ref.bytes])

    @property
    def event(self) -> AnyEvent:
        """The event itself; built once, when first asked for."""
        if self._event is None:
            if self.data is not None:
                ref = _ref_decoder.decode(self.stored)
                return ImageChunk(
                    turn_id=ref.turn_id,
                    seq=ref.seq,
                    at=ref.at,
                    image_id=ref.image_id,
                    offset=ref.offset,
                    data=bytes(self.data),
                )
            self._event = from_json(self.stored)
        return self._event

    @property
    def json(self) -> bytes:
        """The event's JSON object on the wire."""
        if self.data is None:
            return self.stored
        # The bytes stand last in an ``image_chunk``. pybase64 encodes them in a tenth of the time of the JSON encoder.
        head, _, _ = self.stored.rpartition(b',"bytes":')
        return b'%b,"data":"%b"}' % (head, pybase64.b64encode(self.data))

    @property
    def image_id(self) -> str | None:
        """The image of an ``image_started``; None for every other event. With that event the image is stored."""
        event = self._event
        return event.image_id if type(event) is ImageStarted else None

    @property
    def epoch(self) -> int:
        """1 for the terminal event that another process wrote for the turn's owner, else 0."""
        event = self.event if self.type == "turn_interrupted" else None
        return (event.epoch or 0) if isinstance(event, TurnInterrupted) else 0

    @property
    def terminal(self) -> bool:
        """Whether this event ends the turn."""
        return self.type in TERMINAL_STATUS

    def framed(self, frame: Callable[[Record], Frame]) -> Frame:
        """The event in a wire's framing, made once for all readers."""
        if self._framer is not frame:
            self._frame = frame(self)
            self._framer = frame
        return cast(Frame, self._frame)


def partial(events: Iterable[AnyEvent]) -> tuple[str, int, str | None]:
    """Text, number of chunks and sha256 of an unfinished turn (of the text, or of a final picture that is whole)."""
    texts: list[str] = []
    kind: Kind = "chat"
    image_sha256: str | None = None
    for event in events:
        match event:
            case TurnStarted():
                kind = event.kind
            case Chunk():
                texts.append(event.text)
            case ImageCompleted():
                image_sha256 = event.sha256
    text = "".join(texts)
    return text, len(texts), text_sha256(text) if kind == "chat" else image_sha256
