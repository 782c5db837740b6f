"""A turn as one object: where it stands, its whole reply, its picture, and the sum of its events."""

from __future__ import annotations

import hashlib

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
)


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


def text_sha256(text: str) -> str:
    """SHA-256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


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
            raise ChatError.received(end.code, end.message)
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
