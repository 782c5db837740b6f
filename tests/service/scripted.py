"""The models and the store that the tests drive step by step.

Times are compared with each other, never with a number of seconds, because the machine may be busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.chat.service import ChatService
from shared.errors import ChatError
from shared.events import (
    AnyEvent,
    Chunk,
    Usage,
)
from shared.images.model import ImagePart
from shared.llm.model import ContextMessage, Delta
from shared.store.protocol import Append, Appended, NewTurn, Started, Store
from shared.store.record import Record

SECRET = "sk-very-secret-0123"
Play = Callable[[Sequence[ContextMessage]], AsyncGenerator[Delta, None]]


@dataclass
class Scripted:
    """A ChatModel that plays the given script and notes when it was opened and closed."""

    play: Play
    provider: str = "scripted"
    default_model: str = "scripted-1"
    models: tuple[str, ...] = ("scripted-1",)
    hint: str = ""
    histories: list[list[ContextMessage]] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    async def stream(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        self.histories.append(list(history))
        self.opened += 1
        try:
            async with contextlib.aclosing(self.play(history)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        pass


@dataclass
class Drawn:
    """An ImageModel that gives these parts, waiting before each for its turn."""

    parts: Sequence[ImagePart]
    go: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1000))
    provider: str = "scripted"
    default_model: str = "scripted-image"
    hint: str = ""
    closed: int = 0

    def check_size(self, width: int, height: int) -> None:
        if (width, height) == (13, 13):
            raise ChatError("invalid_request", "Not thirteen.")

    async def generate(self, prompt: str, width: int, height: int) -> AsyncGenerator[ImagePart, None]:
        try:
            for part in self.parts:
                await self.go.acquire()
                yield part
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        pass


class Stepwise:
    """A reply in steps: every ``say`` is one delta, ``end`` is the last. Between the steps the model waits."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[Delta | Exception | None] = asyncio.Queue()

    def say(self, *texts: str) -> None:
        for text in texts:
            self.steps.put_nowait(Delta(text))

    def end(self, usage: Usage | None = None) -> None:
        self.steps.put_nowait(Delta("", "stop", usage))
        self.steps.put_nowait(None)

    async def __call__(self, history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        while (step := await self.steps.get()) is not None:
            if isinstance(step, Exception):
                raise step
            yield step


def saying(*texts: str) -> Play:
    """All texts at once, without waiting."""

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        for text in texts:
            yield Delta(text)
        yield Delta("", "stop", Usage(1, len(texts)))

    return play


async def silent(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
    await asyncio.Event().wait()
    yield Delta("never")


class SlowStore:
    """A store whose commits wait at a gate and whose starts wait at another. It notes the entries of each commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.starts = asyncio.Event()
        self.starts.set()
        self.starting = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[list[Append]] = []
        self.failures = 0

    async def start_turn(self, new: NewTurn) -> Started:
        self.starting += 1
        await self.starts.wait()
        self.starting -= 1
        return await self._store.start_turn(new)

    async def append(self, batch: Sequence[Append]) -> list[Appended]:
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise ChatError("storage_unavailable")
        self.batches.append(list(batch))
        return await self._store.append(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@dataclass
class Here:
    """A running service, its store and the lines of its log."""

    service: ChatService
    store: SlowStore
    out: io.StringIO

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


Serve = Callable[..., AbstractAsyncContextManager[Here]]


async def follow(service: ChatService, turn_id: str, after: int = 0) -> list[AnyEvent]:
    """Every event after a cursor, to the end."""
    events: list[AnyEvent] = []
    with await service.open(turn_id, after) as reader:
        async for records in reader:
            events += [record.event for record in records]
    return events


def text_of(events: Sequence[AnyEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Chunk))


async def reply(service: ChatService, message: str, **given: Any) -> list[AnyEvent]:
    turn = await service.start_chat(message, **given)
    return await follow(service, turn.turn_id)


async def refused(work: Awaitable[Any]) -> str:
    with pytest.raises(ChatError) as refusal:
        await work
    return refusal.value.code


async def last_seq(service: ChatService, turn_id: str) -> int:
    return (await service.get_turn(turn_id)).last_seq


async def seq_is(service: ChatService, turn_id: str, seq: int) -> bool:
    return await last_seq(service, turn_id) == seq


async def ended(service: ChatService, turn_id: str) -> bool:
    return (await service.get_turn(turn_id)).status != "running"


class Room:
    """A line that has room for ``room`` more events."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent: list[int] = []

    def send_now(self, records: Sequence[Record]) -> int:
        taken = records[: self.room]
        self.room -= len(taken)
        self.sent += [record.seq for record in taken]
        return len(taken)
