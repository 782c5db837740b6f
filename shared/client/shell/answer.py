"""One turn as the shell sees it: what has come, when, over which transports, and what a reader is told at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise

from shared.client.protocol import Ask, Item, Lost, Resumed
from shared.client.shell import text
from shared.client.shell.markdown import Blocks
from shared.client.shell.tally import Tally
from shared.events import (
    TERMINAL,
    AnyEvent,
    Chunk,
    ImageChunk,
    ImageStarted,
    Kind,
    Thinking,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    TurnStarted,
    Usage,
)
from shared.reply import Fold, Picture, Reply, text_sha256


@dataclass(frozen=True, slots=True)
class Leg:
    """From this event on the turn came over this transport."""

    word: str
    first_seq: int


@dataclass(slots=True)
class Answer:
    """A turn that is being shown. ``ask`` is None for a turn that someone else began."""

    word: str
    ask: Ask | None = None
    kind: Kind = "chat"
    turn_id: str | None = None
    began: float = field(default_factory=time.perf_counter)
    started: TurnStarted | None = None
    end: TurnCompleted | TurnFailed | TurnCancelled | TurnInterrupted | None = None
    reply: Reply | None = None
    picture: Picture | None = None
    after: int = 0
    chunks: int = 0
    thinking: float | None = None
    first: float | None = None
    last: float | None = None
    lost: Lost | None = None
    lost_at: float = 0.0
    seams: int = 0
    sent: bool = False
    stopping: bool = False
    legs: list[Leg] = field(default_factory=list)
    fold: Fold = field(default_factory=Fold)
    blocks: Blocks = field(default_factory=Blocks)
    preview: list[str] = field(default_factory=list)
    _gap_from: float | None = None

    def __post_init__(self) -> None:
        if self.ask is not None:
            self.kind = self.ask.kind
        self.legs.append(Leg(self.word, 1))

    @property
    def ours(self) -> bool:
        """Whether this shell asked."""
        return self.ask is not None

    @property
    def waited_ms(self) -> float:
        """Since the request was sent."""
        return (time.perf_counter() - self.began) * 1000

    @property
    def text(self) -> str:
        """What was said so far."""
        return self.reply.text if self.reply is not None else self.fold.text

    def send(self) -> None:
        """The request goes out now: the clock starts."""
        self.sent, self.began = True, time.perf_counter()

    def take(self, item: Item, tally: Tally) -> None:
        """Take in what the client gave; our own turns are counted."""
        if isinstance(item, Lost):
            self.lost, self.lost_at, self._gap_from = item, time.perf_counter(), None
            self.seams += 1
        elif isinstance(item, Resumed):
            self.lost = None
        elif isinstance(item, Reply):
            self._take_reply(item, tally)
        elif isinstance(item, Picture):
            self.picture, self.turn_id = item, item.turn_id
        else:
            self._take_event(item, tally)

    def _take_reply(self, reply: Reply, tally: Tally) -> None:
        self.reply, self.turn_id = reply, reply.turn_id
        self.first = self.last = time.perf_counter()
        self.blocks.feed(reply.text)
        if self.ours:
            tally.first_ms.append(self.waited_ms)

    def _take_event(self, event: AnyEvent, tally: Tally) -> None:
        self.turn_id, self.after, self.lost = event.turn_id, event.seq, None
        self.fold.add(event)
        if isinstance(event, Chunk):
            self._take_chunk(event, tally)
        elif isinstance(event, Thinking):
            self.thinking = time.perf_counter()
        elif isinstance(event, TurnStarted):
            self.started, self.kind = event, event.kind
        elif isinstance(event, TERMINAL):
            self.end = event

    def _take_chunk(self, chunk: Chunk, tally: Tally) -> None:
        now = time.perf_counter()
        if self.ours:
            tally.chunks += 1
            if self.first is None:
                tally.streamed += 1
                tally.first_ms.append((now - self.began) * 1000)
            if self._gap_from is not None:
                tally.gaps_ms.append((now - self._gap_from) * 1000)
        self.chunks += 1
        self.first = now if self.first is None else self.first
        self.last = self._gap_from = now
        self.blocks.feed(chunk.text)

    def go_over_to(self, word: str) -> None:
        """From the next event on it comes over another transport."""
        self.word, self._gap_from = word, None
        self.seams += 1
        self.legs.append(Leg(word, self.after + 1))

    def count(self, tally: Tally) -> None:
        """Add the finished turn to the numbers of the transport it ended on."""
        ended = self.status
        tally.done += ended == "completed"
        tally.cancelled += ended == "cancelled"
        tally.failed += ended not in ("completed", "cancelled")
        if ended == "completed":
            tally.response_ms.append(self.waited_ms)

    @property
    def status(self) -> str:
        """How it ended; ``incomplete`` when it did not."""
        if self.reply is not None:
            return self.reply.status
        if self.picture is not None:
            return "completed"
        return next((word for kind, word in _STATUS if isinstance(self.end, kind)), "incomplete")

    @property
    def progress(self) -> tuple[str, int, int] | None:
        """Of a picture: which (``preview 1``, ``picture``), its bytes so far, and all of them."""
        if not self.fold.pictures:
            return None
        started, data = list(self.fold.pictures.values())[-1]
        previews = sum(image.preview for image, _ in self.fold.pictures.values())
        return f"preview {previews}" if started.preview else "picture", len(data), started.size_bytes

    def whole(self, event: AnyEvent) -> bytes | None:
        """The bytes of a preview or picture that this event made whole."""
        if not isinstance(event, ImageChunk | ImageStarted):
            return None
        started, data = self.fold.pictures[event.image_id]
        return bytes(data) if len(data) == started.size_bytes else None

    def final_picture(self) -> Picture | None:
        """The picture, when it came to its end."""
        if self.picture is None and self.kind == "image" and isinstance(self.end, TurnCompleted):
            self.picture = self.fold.picture()
        return self.picture

    @property
    def summary(self) -> str:
        """The quiet line: first token, tokens a second, total, chunks; over which transport."""
        words = " → ".join(dict.fromkeys(leg.word for leg in self.legs))
        total = text.duration(self.waited_ms)
        parts = [_ENDED.get(self.status, ""), words]
        if self.reply is not None:
            whole = self.reply.status == "completed"
            parts += [f"whole reply after {total}" if whole else total, *_rate(self.reply.usage, self.waited_ms)]
        elif self.first is not None and self.last is not None:
            parts += [f"first token {text.duration((self.first - self.began) * 1000)}"] * self.ours
            # What was read again after a seam came faster than it was said.
            rate = _rate(self._usage, (self.last - self.first) * 1000) if not self.seams else []
            parts += [*rate, total, text.plural(self.chunks, "chunk")]
        else:
            parts.append(total)
        return " · ".join(part for part in parts if part)

    @property
    def _usage(self) -> Usage:
        usage = getattr(self.end, "usage", None)
        return usage if isinstance(usage, Usage) and usage.output_tokens else Usage(None, self.chunks)

    @property
    def proof(self) -> str | None:
        """What was checked, when something happened on the way: the numbers of the events, and the hash of what they say."""
        if self.seams and self.reply is not None:
            return "one reply: nothing lost, nothing twice (sha256 compared)"
        if not self.seams or self.end is None or isinstance(self.end, TurnFailed) or self.status == "incomplete":
            return None
        legs = [*self.legs, Leg("", self.after + 1)]
        ways = ", ".join(
            f"{a.word} {a.first_seq}–{b.first_seq - 1}" for a, b in pairwise(legs) if a.first_seq < b.first_seq
        )
        same = self.end.sha256 == (self.fold.sha256 if self.kind == "image" else text_sha256(self.fold.text))
        verdict = "nothing lost, nothing twice" if same else "but the text does not have the server's sha256"
        return f"events {ways}: {verdict}{' (sha256 compared)' if same else ''}"


# A rate over less is the network's, not the model's.
_MIN_SPAN_MS = 50


def _rate(usage: Usage, ms: float) -> list[str]:
    tokens = usage.output_tokens
    return [f"{tokens * 1000 / ms:.0f} tokens/s"] if tokens and tokens > 1 and ms > _MIN_SPAN_MS else []


_STATUS = (
    (TurnCompleted, "completed"),
    (TurnFailed, "failed"),
    (TurnCancelled, "cancelled"),
    (TurnInterrupted, "interrupted"),
)
_ENDED = {
    "cancelled": "stopped, what was said stays",
    "interrupted": "interrupted by the server, what was said stays",
    "failed": "failed",
    "incomplete": "not complete",
}
