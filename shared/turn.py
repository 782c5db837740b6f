"""A turn, its append-only log of events, and reading that log from a cursor.

Live and replay are one code path: a reader takes ``records[after:]`` of a log and waits for more until the terminal event is there.
Nothing is queued for a reader, so a slow one costs nobody anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Self

import msgspec

from shared.errors import ChatError
from shared.events import (
    TERMINAL,
    TERMINAL_STATUS,
    AnyEvent,
    Chunk,
    FinishReason,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    Kind,
    Status,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    TurnStarted,
    Usage,
    event_type,
    from_json,
    to_json,
)
from shared.logger import Log, short
from shared.stats import Counters

_IMAGE_CHUNK = "image_chunk"
_BATCH = 256
_IMAGE_BATCH = 4


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Where a turn stands now; ``text`` is the reply so far."""

    turn_id: str
    kind: Kind
    session_id: str | None
    status: Status
    last_seq: int
    text: str


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole turn in one object: what plain REST answers with, and what the other transports' events add up to."""

    turn_id: str
    session_id: str | None
    model: str
    status: Status
    text: str
    finish_reason: FinishReason | None
    usage: Usage
    message_count: int | None
    elapsed_ms: float
    sha256: str | None


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A whole picture in one object; ``image`` is base64 (RFC 4648) in JSON, ``sha256`` is of its bytes."""

    turn_id: str
    image_id: str
    mime_type: str
    width: int
    height: int
    image: bytes
    sha256: str
    revised_prompt: str | None


class _ImageChunkRef(msgspec.Struct, frozen=True, kw_only=True, tag=_IMAGE_CHUNK, tag_field="type"):
    """An ``image_chunk`` as the log keeps it: the count of its bytes instead of the bytes, which stand with the image."""

    turn_id: str
    seq: int
    at: float
    image_id: str
    offset: int
    bytes: int


_ref_decoder = msgspec.json.Decoder(_ImageChunkRef)


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
        self._framer: Callable[[Record], bytes] | None = None
        self._frame = b""

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
        """A record read back from a store; ``image`` gives the bytes of an image by its id."""
        tag = stored[9 : stored.index(b'"', 9)].decode()
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
        return self.stored if self.data is None else to_json(self.event)

    @property
    def terminal(self) -> bool:
        """Whether this event ends the turn."""
        return self.type in TERMINAL_STATUS

    def framed(self, frame: Callable[[Record], bytes]) -> bytes:
        """The event's bytes in a wire's framing, made once however many readers there are."""
        if self.data is not None:
            return frame(self)
        if self._framer is not frame:
            self._frame = frame(self)
            self._framer = frame
        return self._frame


class TurnLog:
    """The part of a log that this process holds: all of a turn's committed records so far."""

    def __init__(self, turn_id: str, kind: Kind) -> None:
        self.turn_id = turn_id
        self.kind = kind
        self.records: list[Record] = []
        self.ended = False
        self.closing = False
        self.cuts = 0
        self.readers = 0
        self.last_read = time.monotonic()
        self._waiters: dict[asyncio.Future[bool], float] = {}

    @property
    def over(self) -> bool:
        """Whether nothing more will come, the terminal event or not."""
        return self.ended or self.closing

    def publish(self, records: Iterable[Record]) -> None:
        """Show committed records to every reader."""
        self.records.extend(records)
        self.ended = bool(self.records) and self.records[-1].terminal
        self._wake()

    def close(self) -> None:
        """Send the readers away without a terminal event: they resume elsewhere."""
        self.closing = True
        self._wake()

    def cut(self) -> None:
        """End every stream that is open now as a broken line would: a demonstration, the readers come back at once."""
        self.cuts += 1
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(True)

    def tick(self, now: float) -> None:
        """Give readers that have waited their heartbeat time an empty batch; ``now`` is time.monotonic()."""
        for waiter, deadline in list(self._waiters.items()):
            if deadline <= now:
                del self._waiters[waiter]
                if not waiter.done():
                    waiter.set_result(False)

    async def wait(self, deadline: float) -> bool:
        """Wait for a publish or a close; False when the deadline passed first."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = deadline
        try:
            return await waiter
        finally:
            self._waiters.pop(waiter, None)


class Reader:
    """Reads a log from a cursor: ``with reader: async for records in reader``.

    Each step is what has been committed since the last one (never more than a few hundred records), or an empty list after
    ``heartbeat_s`` of silence. The iteration ends after the terminal event, or without one when the server is closing
    (``complete`` tells which).
    """

    def __init__(self, log: TurnLog, after: int, heartbeat_s: float, counters: Counters, terminal: Log) -> None:
        if after > len(log.records):
            raise ChatError("cursor_out_of_range")
        self.turn_id = log.turn_id
        self.after = after
        self.last_seq = len(log.records)
        self._log = log
        self._cuts = log.cuts
        self._heartbeat_s = heartbeat_s
        self._counters = counters
        self._terminal = terminal
        self._streaming = False
        self._batch = _BATCH if log.kind == "chat" else _IMAGE_BATCH

    @property
    def status(self) -> Status:
        """The turn's status as far as this process knows."""
        records = self._log.records
        return TERMINAL_STATUS[records[-1].type] if self._log.ended else "running"

    @property
    def complete(self) -> bool:
        """Whether the terminal event has been read."""
        return self._log.ended and self.after >= len(self._log.records)

    @property
    def over(self) -> bool:
        """Whether nothing more will come, the terminal event or not."""
        return self._log.over

    def __enter__(self) -> Self:
        self._log.readers += 1
        self._counters.streams_active += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._log.readers -= 1
        self._counters.streams_active -= 1
        self._log.last_read = time.monotonic()
        if self._streaming and not (self.complete or self._log.closing):
            self._terminal.info("cut", turn=short(self.turn_id), after=self.after)

    def __aiter__(self) -> Self:
        self._streaming = True
        if self.after:
            self._terminal.info("resumed", turn=short(self.turn_id), after=self.after)
        return self

    async def __anext__(self) -> list[Record]:
        log = self._log
        while len(log.records) <= self.after:
            if self.over or self._cuts != log.cuts:
                raise StopAsyncIteration
            if not await log.wait(time.monotonic() + self._heartbeat_s):
                return []
        records = log.records[self.after : self.after + self._batch]
        self.after += len(records)
        return records

    async def wait(self, seconds: float) -> list[Record]:
        """All records after the cursor as soon as there is one, or none after ``seconds``: one long poll."""
        log = self._log
        deadline = time.monotonic() + seconds
        while len(log.records) <= self.after and not self.over and await log.wait(deadline):
            pass
        records = log.records[self.after :]
        self.after += len(records)
        return records

    async def whole(self) -> Fold:
        """The turn to its end, for who answers in one piece. Raises ``shutting_down`` when we close and it goes on elsewhere."""
        fold = Fold()
        with self:
            async for records in self:
                for record in records:
                    fold.add(record.event)
        if not self.complete:
            raise ChatError("shutting_down")
        return fold


def text_sha256(text: str) -> str:
    """SHA-256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


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


class Fold:
    """Adds a turn's events up to a Reply; the same for a server that answers at once and for a client that reads a stream."""

    def __init__(self) -> None:
        self.started: TurnStarted | None = None
        self.terminal: TurnCompleted | TurnFailed | TurnCancelled | TurnInterrupted | None = None
        self.pictures: dict[str, tuple[ImageStarted, bytearray]] = {}
        self.completed: ImageCompleted | None = None
        self._texts: list[str] = []

    def add(self, event: AnyEvent) -> None:
        """Take one event."""
        if isinstance(event, Chunk):
            self._texts.append(event.text)
        elif isinstance(event, ImageChunk):
            self.pictures[event.image_id][1].extend(event.data)
        elif isinstance(event, ImageStarted):
            self.pictures[event.image_id] = (event, bytearray())
        elif isinstance(event, ImageCompleted):
            self.completed = event
        elif isinstance(event, TurnStarted):
            self.started = event
        elif isinstance(event, TERMINAL):
            self.terminal = event

    @property
    def text(self) -> str:
        """The reply so far."""
        return "".join(self._texts)

    @property
    def sha256(self) -> str | None:
        """What the terminal event's ``sha256`` must be: of the text, or of the final picture; None without one."""
        if self.started is not None and self.started.kind == "image":
            done = self.completed
            return hashlib.sha256(self.pictures[done.image_id][1]).hexdigest() if done else None
        return text_sha256(self.text)

    def picture(self) -> Picture:
        """The final picture. Raises ChatError with the code of a failed turn, ``turn_not_completed`` without a picture."""
        self.reply()
        if self.completed is None or not isinstance(self.terminal, TurnCompleted):
            raise ChatError("turn_not_completed")
        started, data = self.pictures[self.completed.image_id]
        return Picture(
            turn_id=started.turn_id,
            image_id=started.image_id,
            mime_type=started.mime_type,
            width=started.width,
            height=started.height,
            image=bytes(data),
            sha256=self.completed.sha256,
            revised_prompt=self.completed.revised_prompt,
        )

    def reply(self) -> Reply:
        """The turn as one object. Raises ChatError with the code of a failed turn, ``internal`` for an incomplete log."""
        started, end = self.started, self.terminal
        if started is None or end is None:
            raise ChatError("internal", "The log of this turn is incomplete.")
        if isinstance(end, TurnFailed):
            raise ChatError(end.code, end.message)
        completed = end if isinstance(end, TurnCompleted) else None
        return Reply(
            turn_id=end.turn_id,
            session_id=started.session_id,
            model=started.model,
            status=TERMINAL_STATUS[event_type(end)],
            text=self.text,
            finish_reason=completed.finish_reason if completed else None,
            usage=Usage() if isinstance(end, TurnInterrupted) else end.usage,
            message_count=completed.message_count if completed else None,
            elapsed_ms=completed.elapsed_ms if completed else round(end.at - started.at, 3),
            sha256=end.sha256,
        )
