"""A turn as one object: its state now, its whole reply or picture, and the sum of its events."""

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


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A turn as it is now; ``text`` is the reply so far.

    ``truncated``, which is absent in JSON when it is false: the text was cut at 3 MiB, and the turn's log has all of it.
    """

    turn_id: str
    kind: Kind
    session_id: str | None
    status: Status
    last_seq: int
    text: str
    truncated: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole turn: plain REST answers with it, and the events of the other transports add up to it."""

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
    """A whole picture; ``image`` is base64 (RFC 4648) in JSON, and ``sha256`` is of the picture's bytes."""

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
    """Adds the events of a turn up to a Reply or a Picture, for servers that answer in one piece and for clients."""

    def __init__(self) -> None:
        self.started: TurnStarted | None = None
        self.terminal: TurnCompleted | TurnFailed | TurnCancelled | TurnInterrupted | None = None
        self.pictures: dict[str, tuple[ImageStarted, bytearray]] = {}
        self.completed: ImageCompleted | None = None
        self._texts: list[str] = []

    def add(self, event: AnyEvent) -> None:
        """Add the next event."""
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
        """The ``sha256`` that the terminal event must have: of the text, or of the final picture, which may be missing (None)."""
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
            raise ChatError("internal", "The log of this turn is incomplete; send the message again, with a new key.")
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
