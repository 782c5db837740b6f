"""One turn as the shell shows it: what has arrived, when, over which transports, and the lines at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise

from shared.client import text
from shared.client.printed import PrintedReply
from shared.client.protocol import Ask, Item, Lost, Reconnected, Rewound
from shared.client.shell.client_stats import ClientStats
from shared.client.shell.markdown import MarkdownStream
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
class Stretch:
    """From seq ``first_seq`` on, the turn's events came over the transport ``word``."""

    word: str
    first_seq: int


@dataclass(slots=True)
class ShownTurn:
    """A turn that is being shown. ``ask`` is None for a turn that this shell did not ask for.

    ``word``: the transport in use. ``streams``: it brings the reply token by token. ``first``, ``last``, ``thinking``: when
    the first chunk, the last chunk and the event ``thinking`` arrived, by ``time.perf_counter``. ``seams``: how often the
    connection was lost or the transport changed.
    ``stopping``: this shell has asked for its end; ``stopped``: it has ended so, without an event that says it.
    ``lost_events``: how many events that were shown the store has lost. ``printed``: the reply where nothing can be taken back.
    """

    word: str
    ask: Ask | None = None
    streams: bool = True
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
    lost_events: int = 0
    sent: bool = False
    stopping: bool = False
    stopped: bool = False
    stretches: list[Stretch] = field(default_factory=list)
    fold: Fold = field(default_factory=Fold)
    reply_text: MarkdownStream = field(default_factory=MarkdownStream)
    printed: PrintedReply = field(default_factory=PrintedReply)
    preview: list[str] = field(default_factory=list)
    _gap_from: float | None = None

    def __post_init__(self) -> None:
        if self.ask is not None:
            self.kind = self.ask.kind
        self.stretches.append(Stretch(self.word, 1))

    @property
    def ours(self) -> bool:
        """Whether this shell asked for the turn."""
        return self.ask is not None

    @property
    def waited_ms(self) -> float:
        """The time since the request was sent."""
        return (time.perf_counter() - self.began) * 1000

    @property
    def text(self) -> str:
        """The reply so far."""
        return self.reply.text if self.reply is not None else self.fold.text

    def send(self) -> None:
        """Start the clock: the request is sent now."""
        self.sent, self.began = True, time.perf_counter()

    def add(self, item: Item, stats: ClientStats) -> None:
        """Add what the client yielded. ``stats`` counts the turns that this shell asked for."""
        if isinstance(item, Lost):
            self.lost, self.lost_at, self._gap_from = item, time.perf_counter(), None
            self.seams += 1
        elif isinstance(item, Reconnected):
            self.lost = None
        elif isinstance(item, Rewound):
            self._rewind(item)
        elif isinstance(item, Reply):
            self._add_reply(item, stats)
        elif isinstance(item, Picture):
            self.picture, self.turn_id = item, item.turn_id
        else:
            self._add_event(item, stats)

    def _rewind(self, item: Rewound) -> None:
        """Drop what has arrived of the turn: its events come again from seq 1, as the store has them now."""
        self.fold, self.reply_text = Fold(), MarkdownStream(plain=self.reply_text.plain)
        self.after, self.chunks, self.preview = 0, 0, []
        self.last = self._gap_from = None
        self.stretches = [Stretch(self.word, 1)]
        self.seams += 1
        self.lost_events += item.lost_events
        self.printed.rewind()

    def _add_reply(self, reply: Reply, stats: ClientStats) -> None:
        self.reply, self.turn_id = reply, reply.turn_id
        self.first = self.last = time.perf_counter()
        self.reply_text.feed(reply.text)
        if self.ours:
            stats.first_ms.append(self.waited_ms)

    def _add_event(self, event: AnyEvent, stats: ClientStats) -> None:
        self.turn_id, self.after, self.lost = event.turn_id, event.seq, None
        self.fold.add(event)
        if isinstance(event, Chunk):
            self._add_chunk(event, stats)
        elif isinstance(event, Thinking):
            self.thinking = time.perf_counter()
        elif isinstance(event, TurnStarted):
            self.started, self.kind = event, event.kind
        elif isinstance(event, TERMINAL):
            self.end = event

    def _add_chunk(self, chunk: Chunk, stats: ClientStats) -> None:
        now = time.perf_counter()
        if self.ours:
            stats.chunks += 1
            if self.first is None:
                stats.streamed += 1
                stats.first_ms.append((now - self.began) * 1000)
            if self._gap_from is not None:
                stats.gaps_ms.append((now - self._gap_from) * 1000)
        self.chunks += 1
        self.first = now if self.first is None else self.first
        self.last = self._gap_from = now
        self.reply_text.feed(chunk.text)

    def go_over_to(self, word: str) -> None:
        """The next events come over another transport."""
        self.word, self._gap_from = word, None
        self.seams += 1
        self.stretches.append(Stretch(word, self.after + 1))

    def count(self, stats: ClientStats) -> None:
        """Count the ended turn for the transport on which it ended."""
        ended = self.status
        stats.done += ended == "completed"
        stats.cancelled += ended == "cancelled"
        stats.failed += ended not in ("completed", "cancelled")
        if ended == "completed":
            stats.response_ms.append(self.waited_ms)

    @property
    def status(self) -> str:
        """How the turn ended; ``incomplete`` without a terminal event."""
        if self.reply is not None:
            return self.reply.status
        if self.picture is not None:
            return "completed"
        if self.stopped:
            return "cancelled"
        return next((word for kind, word in _STATUS if isinstance(self.end, kind)), "incomplete")

    @property
    def progress(self) -> tuple[str, int, int] | None:
        """Of an image turn: the newest picture (``preview 1``, ``picture``), its bytes so far and its size in bytes."""
        if not self.fold.pictures:
            return None
        started, data = list(self.fold.pictures.values())[-1]
        previews = sum(image.preview for image, _ in self.fold.pictures.values())
        return f"preview {previews}" if started.preview else "picture", len(data), started.size_bytes

    def completed_by(self, event: AnyEvent) -> bytes | None:
        """The bytes of the preview or picture whose last piece this event is; None for any other event."""
        if not isinstance(event, ImageChunk | ImageStarted):
            return None
        started, data = self.fold.pictures[event.image_id]
        return bytes(data) if len(data) == started.size_bytes else None

    def final_picture(self) -> Picture | None:
        """The final picture; None while it is not whole."""
        if self.picture is None and self.kind == "image" and isinstance(self.end, TurnCompleted):
            self.picture = self.fold.picture()
        return self.picture

    @property
    def summary(self) -> str:
        """The line of numbers: transports, first token, tokens a second, total, chunks."""
        words = " → ".join(dict.fromkeys(stretch.word for stretch in self.stretches))
        total = text.duration(self.waited_ms)
        parts = [ended_as(self.status, bool(self.text)), words]
        if self.reply is not None:
            whole = self.reply.status == "completed"
            parts += [f"whole reply after {total}" if whole else total, *_rate(self.reply.usage, self.waited_ms)]
        elif self.first is not None and self.last is not None:
            parts += [f"first token {text.duration((self.first - self.began) * 1000)}"] * self.ours
            # After a seam stored events arrive faster than the model made them, so a rate would be wrong.
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
        """What was checked when the turn came over several connections: which events came where, and the sha256; else None."""
        good = "all that was generated is here" if self.status == "interrupted" else "nothing lost, nothing twice"
        if self.seams and self.reply is not None:
            return f"one reply: {good} (sha256 compared)"
        if not self.seams or self.end is None or isinstance(self.end, TurnFailed) or self.status == "incomplete":
            return None
        stretches = [*self.stretches, Stretch("", self.after + 1)]
        parts = ", ".join(
            f"{a.word} {a.first_seq}–{b.first_seq - 1}" for a, b in pairwise(stretches) if a.first_seq < b.first_seq
        )
        if self.lost_events:
            return f"events {parts}: the store lost {text.plural(self.lost_events, 'event')} that had been shown"
        same = self.end.sha256 == (self.fold.sha256 if self.kind == "image" else text_sha256(self.fold.text))
        verdict = good if same else "but the text does not have the server's sha256"
        return f"events {parts}: {verdict}{' (sha256 compared)' if same else ''}"


# Over a shorter time the rate would be the network's, not the model's.
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
    "cancelled": "stopped{kept}",
    "interrupted": "interrupted by the server{kept}; the rest was not generated; /retry asks again",
    "failed": "failed",
    "incomplete": "not complete",
}


def ended_as(status: str, some: bool) -> str:
    """The words below a turn that did not complete; empty for one that did. ``some``: some of the answer has arrived."""
    return _ENDED.get(status, "").format(kept=", partial answer kept" if some else "")
