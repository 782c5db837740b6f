"""One turn on one lane, written down as it arrives: a ``TurnRecord``.

Times are wall-clock times (``time.time_ns``), because an event's ``at`` is one. Server and client share a machine and its clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from compare.measuring.lanes import RecordedLane, RunningLane, generated_tokens
from compare.measuring.turns import Arrival, TurnRecord
from shared.client.protocol import ChatClient, Item, Lost, Reconnected, Rewound
from shared.errors import ChatError, ConnectionLost
from shared.events import AnyEvent, Chunk, ImageChunk, TurnCompleted, event_type
from shared.reply import Picture, Reply

Watch = Callable[[Arrival], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSpec:
    """A turn that every lane is asked for in the same way.

    ``tokens`` is the length of the reply; 0 leaves it to the model. ``rate`` and ``first_ms`` are the model's. The line is cut
    after ``cut_after`` tokens have been shown. ``size`` asks for a picture of this size instead of a reply.
    """

    experiment: str
    message: str = "Tell me how this answer reached me."
    tokens: int = 0
    rate: float = 0.0
    first_ms: float = 0.0
    cut_after: int | None = None
    resume: bool = True
    size: str | None = None
    request_id: str | None = None

    @property
    def prompt(self) -> str:
        """The message, with its length as a stage direction of the offline model."""
        return f"/tokens {self.tokens} {self.message}" if self.tokens and self.size is None else self.message


def now_ms() -> float:
    """The wall-clock time in epoch ms."""
    return time.time_ns() / 1e6


async def record_turn(
    lane: RecordedLane,
    client: ChatClient,
    spec: TurnSpec,
    *,
    number: int = 0,
    stream: int = 0,
    watch: Watch | None = None,
    count_bytes: bool = False,
) -> TurnRecord:
    """Ask once, and record what arrives and when. A failure becomes the record's ``error``; no exception is raised for it.

    ``number`` is the round. ``watch`` is called for every arrival. ``count_bytes`` takes the bytes from the lane's relay, which
    must carry nothing else meanwhile.
    """
    record = TurnRecord(
        experiment=spec.experiment,
        lane=lane.lane.name,
        round=number,
        stream=stream,
        asked_at=now_ms(),
        tokens=spec.tokens,
        arrivals=[],
        resume=spec.resume,
    )
    relay = lane.relay
    before = (relay.up_bytes, relay.down_bytes) if relay is not None and count_bytes else None
    cutting = None
    if spec.cut_after is not None and not lane.lane.tokens:
        # A whole reply shows nothing before its end, so the line is cut when the model has generated as many tokens.
        after_s = (spec.first_ms + spec.cut_after * 1000 / spec.rate) / 1000
        cutting = asyncio.create_task(_cut_later(record, lane, after_s))
    try:
        await _read(record, lane, _ask(client, spec), spec, watch)
    except ConnectionLost as error:
        if spec.resume or spec.cut_after is None:
            record.error = error.message
        else:
            await _ask_again(record, lane, client, spec, watch)
    except ChatError as error:
        record.error = f"{error.code}: {error.message}"
    finally:
        if cutting is not None:
            cutting.cancel()
    if relay is not None and before is not None:
        record.up_bytes, record.down_bytes = relay.up_bytes - before[0], relay.down_bytes - before[1]
    if not record.tokens:
        record.tokens = len(record.of("chunk"))
    return record


async def count_generated(lane: RunningLane, record: TurnRecord) -> None:
    """Add to a record how many tokens the model generated for the turn, as far as the server can say.

    The server is asked directly, not through the relay.
    """
    with contextlib.suppress(ChatError, ConnectionLost):
        async with lane.server.client() as client:
            record.generated = await generated_tokens(client, record.asked_at)


async def warm_up(lane: RecordedLane, client: ChatClient) -> None:
    """A short turn that no figure counts. It opens the connection and fills caches."""
    await record_turn(lane, client, TurnSpec(experiment="warm-up", tokens=3))


def _ask(client: ChatClient, spec: TurnSpec) -> AsyncGenerator[Item, None]:
    if spec.size is not None:
        return client.image(spec.prompt, size=spec.size, request_id=spec.request_id)
    return client.chat(spec.prompt, request_id=spec.request_id)


async def _ask_again(
    record: TurnRecord, lane: RecordedLane, client: ChatClient, spec: TurnSpec, watch: Watch | None
) -> None:
    """Send the same message as a new question, as an application without a cursor does."""
    _note(record, "asked")
    try:
        await _read(record, lane, _ask(client, spec), None, watch)
    except (ConnectionLost, ChatError) as error:
        record.error = str(error)


async def _read(
    record: TurnRecord,
    lane: RecordedLane,
    items: AsyncGenerator[Item, None],
    spec: TurnSpec | None,
    watch: Watch | None,
) -> None:
    shown = 0
    async with aclosing(items):
        async for item in items:
            arrival = _arrival(record, item)
            record.arrivals.append(arrival)
            if isinstance(item, TurnCompleted):
                record.output_tokens = item.usage.output_tokens
            if watch is not None:
                watch(arrival)
            if arrival.type == "chunk" and spec is not None:
                shown += 1
                if shown == spec.cut_after:
                    _cut(record, lane)


def _arrival(record: TurnRecord, item: Item) -> Arrival:
    ms = now_ms() - record.asked_at
    match item:
        case Chunk():
            return Arrival(ms, "chunk", item.seq, item.at - record.asked_at, len(item.text.encode()), item.text)
        case ImageChunk():
            return Arrival(ms, "image_chunk", item.seq, item.at - record.asked_at, len(item.data))
        case Reply():
            return Arrival(ms, "reply", 0, None, len(item.text.encode()), item.text)
        case Picture():
            return Arrival(ms, "picture", 0, None, len(item.image))
        case Lost():
            return Arrival(ms, "lost", item.after, None, 0)
        case Reconnected():
            return Arrival(ms, "resumed", item.after, None, 0)
        case Rewound():
            return Arrival(ms, "rewound", item.after, None, 0)
    event: AnyEvent = item
    return Arrival(ms, event_type(event), event.seq, event.at - record.asked_at, 0)


def _note(record: TurnRecord, type: str) -> None:
    """Record an action of this process, such as a cut, as an arrival."""
    record.arrivals.append(Arrival(now_ms() - record.asked_at, type, 0, None, 0))


def _cut(record: TurnRecord, lane: RecordedLane) -> None:
    if lane.relay is not None and lane.relay.cut():
        _note(record, "cut")


async def _cut_later(record: TurnRecord, lane: RecordedLane, seconds: float) -> None:
    await asyncio.sleep(seconds)
    _cut(record, lane)
