"""The core without a wire: the service in this process with a model that does exactly what a test says.

Times are compared with each other, never with a number of seconds, because the machine may be busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.chat.service import ChatService, open_service
from shared.chat.turn_log import Reader
from shared.config import Settings
from shared.errors import ChatError, ErrorCode
from shared.events import (
    AnyEvent,
    Chunk,
    ImageCompleted,
    ImageStarted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    TurnStarted,
    Usage,
    event_type,
)
from shared.images.model import ImagePart
from shared.llm.model import ContextMessage, Delta
from shared.logger import open_logger
from shared.reply import text_sha256
from shared.session import SessionUpdate, TurnBegan
from shared.store.open import open_store
from shared.store.protocol import Append, NewTurn, Started, Store
from tests.conftest import until

SECRET = "sk-very-secret-0123"
Play = Callable[[Sequence[ContextMessage]], AsyncGenerator[Delta, None]]


@dataclass
class Scripted:
    """A ChatModel that plays what it is given and notes when it was opened and closed."""

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
    """A play in steps: every ``say`` is one delta, ``end`` the last; it waits for as long as the test says nothing."""

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
    """All of it at once, without ever waiting."""

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        for text in texts:
            yield Delta(text)
        yield Delta("", "stop", Usage(1, len(texts)))

    return play


async def silent(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
    await asyncio.Event().wait()
    yield Delta("never")


class SlowStore:
    """A store whose commits wait at a gate, starts at another, and which notes what each commit held."""

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

    async def append(self, batch: Sequence[Append]) -> list[bool]:
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


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    """``async with serve(model, …) as here``: a service on ``tmp_path``'s store (``store_url`` for another)."""

    @asynccontextmanager
    async def start(
        model: Scripted | Play, *, images: Drawn | None = None, store_url: str | None = None, **given: Any
    ) -> AsyncIterator[Here]:
        url = store_url or f"sqlite:///{tmp_path}/chat.db"
        store, out = SlowStore(open_store(url)), io.StringIO()
        chat = model if isinstance(model, Scripted) else Scripted(model)
        monkeypatch.setattr("shared.chat.service.open_store", lambda _: store)
        monkeypatch.setattr("shared.chat.service.open_chat_model", lambda _: chat)
        monkeypatch.setattr("shared.chat.service.open_image_model", lambda _: images or Drawn([]))
        settings = Settings(_env_file=None, store_url=url, **given)
        async with open_service(settings, log=open_logger("test", out)) as service:
            yield Here(service, store, out)

    return start


@pytest.fixture(autouse=True)
async def not_for_ever() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield


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


# -- committing --------------------------------------------------------------------------------------------------------


async def test_nothing_is_read_before_it_is_committed(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here:
        turn = await here.service.start_chat("Hi")
        with await here.service.open(turn.turn_id, 0) as reader:
            assert [record.type for record in await anext(reader)] == ["turn_started"]
            here.store.gate.clear()
            play.say("a", "b", "c")
            await until(lambda: play.steps.empty())
            waiting = asyncio.ensure_future(anext(reader))
            done, _ = await asyncio.wait((waiting,), timeout=0.1)
            assert not done
            assert await last_seq(here.service, turn.turn_id) == 1
            here.store.gate.set()
            texts = [record.event.text for record in await waiting if isinstance(record.event, Chunk)]
            assert "".join(texts) == "abc"[: len(texts)]
            stored = await here.store.read(turn.turn_id, 1)
            assert len(stored[1]) >= len(texts)
            play.end()


async def test_what_waits_is_committed_together(serve: Serve) -> None:
    """While one commit runs, everything that arrives, of all turns, goes into the next one."""
    plays: dict[str, Stepwise] = {f"chat {n}": Stepwise() for n in range(8)}

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        async for delta in plays[history[-1].text](history):
            yield delta

    async with serve(play) as here:
        turns = [await here.service.start_chat(name) for name in plays]
        here.store.gate.clear()
        plays["chat 0"].say("first")
        await until(lambda: plays["chat 0"].steps.empty())
        for one in plays.values():
            one.say(*"twenty deltas of each")
        await until(lambda: all(one.steps.empty() for one in plays.values()))
        here.store.batches.clear()
        here.store.gate.set()
        await until(lambda: len(here.store.batches) > 1)
        for one in plays.values():
            one.end()
        for turn in turns:
            assert text_of(await follow(here.service, turn.turn_id)).endswith("twenty deltas of each")
        first, second, *others = here.store.batches
        assert len(first) == 1
        assert len(second) == len(plays)
        assert {len(entry.records) for entry in second} == {21}
        assert len(others) <= 2 * len(plays)


async def test_a_store_that_is_busy_for_a_moment_costs_nothing(serve: Serve) -> None:
    async with serve(saying("a", "b")) as here:
        here.store.failures = 5
        events = await reply(here.service, "Hi")
        assert (text_of(events), event_type(events[-1])) == ("ab", "turn_completed")


async def test_a_lost_lease_ends_the_turn_here(serve: Serve, tmp_path: Path) -> None:
    """Another process took the turn away: what follows is refused, the model is closed, readers see how it ended."""
    play = Stepwise()
    model = Scripted(play)
    async with serve(model) as here:
        turn = await here.service.start_chat("Hi")
        play.say("kept")
        await until(lambda: seq_is(here.service, turn.turn_id, 2))
        reading = asyncio.create_task(follow(here.service, turn.turn_id))
        other = open_store(f"sqlite:///{tmp_path}/chat.db")
        assert await other.reap(time.time() * 1000 + 1e9) == [turn.turn_id]
        await other.close()
        play.say("refused")
        events = await reading
        assert [event_type(event) for event in events] == ["turn_started", "chunk", "turn_interrupted"]
        assert isinstance(events[-1], TurnInterrupted)
        assert events[-1].sha256 == text_sha256("kept")
        await until(lambda: model.closed == 1)
        play.end()
        assert text_of(await reply(here.service, "Again")) == ""


async def seq_is(service: ChatService, turn_id: str, seq: int) -> bool:
    return await last_seq(service, turn_id) == seq


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_readers_at_any_cursor_beside_the_producer(serve: Serve) -> None:
    """They come at any moment with any cursor, and each sees exactly what follows it, once."""
    play = Stepwise()
    texts = [f"{n} " for n in range(60)]
    async with serve(play) as here:
        turn = await here.service.start_chat("Count")
        reading: list[tuple[int, asyncio.Task[list[AnyEvent]]]] = []
        for n, text in enumerate(texts):
            play.say(text)
            await until(partial(seq_is, here.service, turn.turn_id, n + 2))
            for after in {0, n // 2, n, n + 2}:
                reading.append((after, asyncio.create_task(follow(here.service, turn.turn_id, after))))
        play.end()
        whole = await follow(here.service, turn.turn_id)
        assert [event.seq for event in whole] == list(range(1, len(texts) + 3))
        assert text_of(whole) == "".join(texts)
        for after, task in reading:
            assert await task == whole[after:]
        assert await follow(here.service, turn.turn_id, len(whole)) == []
        assert await refused(here.service.open(turn.turn_id, len(whole) + 1)) == "cursor_out_of_range"
        assert await refused(here.service.open(turn.turn_id, -1)) == "invalid_request"
        assert await refused(here.service.open("no such turn", 0)) == "turn_not_found"


async def test_a_cursor_beyond_a_running_turn(serve: Serve) -> None:
    async with serve(silent) as here:
        turn = await here.service.start_chat("Hi")
        assert await refused(here.service.open(turn.turn_id, 2)) == "cursor_out_of_range"


async def test_a_reader_that_takes_nothing_slows_nobody(serve: Serve) -> None:
    """It costs no queue either: what it has not taken stands in the log, and it gets all of it later."""
    texts = [f"{n} " for n in range(5000)]
    async with serve(saying(*texts)) as here:
        turn = await here.service.start_chat("Count")
        with await here.service.open(turn.turn_id, 0) as stalled:
            await anext(stalled)
            others = await asyncio.gather(*(follow(here.service, turn.turn_id) for _ in range(5)))
            assert {text_of(events) for events in others} == {"".join(texts)}
            assert here.service.counters.streams_active == 1
            late = [record.event async for records in stalled for record in records]
            assert text_of(late) in "".join(texts)
            assert late[-1] == others[0][-1]
            assert stalled.complete


async def test_heartbeats_in_silence(serve: Serve) -> None:
    """A reader of a silent turn gets empty batches, and the next event at once."""
    play = Stepwise()
    async with serve(play, heartbeat_s=0.05) as here:
        turn = await here.service.start_chat("Hi")
        with await here.service.open(turn.turn_id, 1) as reader:
            assert [await anext(reader) for _ in range(3)] == [[], [], []]
            play.say("a")
            records = await until_some(reader)
            assert [record.event.text for record in records if isinstance(record.event, Chunk)] == ["a"]
            play.end()


async def until_some(reader: Reader) -> list[Any]:
    async for records in reader:
        if records:
            return records
    raise AssertionError("the log ended")


async def test_a_long_poll(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here:
        turn = await here.service.start_chat("Hi")
        with await here.service.open(turn.turn_id, 1) as reader:
            assert await reader.wait(0.01) == []
            waiting = asyncio.create_task(reader.wait(50))
            play.say("a")
            assert len(await waiting) == 1
            play.end()
            await until(lambda: ended(here.service, turn.turn_id))
            assert [record.type for record in await reader.wait(50)] == ["turn_completed"]
            assert await reader.wait(50) == []


async def ended(service: ChatService, turn_id: str) -> bool:
    return (await service.get_turn(turn_id)).status != "running"


# -- many at once ------------------------------------------------------------------------------------------------------


async def test_sixteen_chats_take_as_long_as_one(serve: Serve) -> None:
    async def second_long(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        for n in range(10):
            await asyncio.sleep(0.1)
            yield Delta(f"{n} ")
        yield Delta("", "stop")

    async with serve(second_long) as here:
        begun = time.perf_counter()
        await reply(here.service, "One")
        one = time.perf_counter() - begun
        begun = time.perf_counter()
        many = await asyncio.gather(*(reply(here.service, f"Chat {n}") for n in range(16)))
        sixteen = time.perf_counter() - begun
        assert all(text_of(events) == "0 1 2 3 4 5 6 7 8 9 " for events in many)
        assert sixteen < 2 * one, f"16 chats took {sixteen:.2f} s, one took {one:.2f} s"


async def test_a_model_that_never_waits_keeps_nobody_waiting(serve: Serve) -> None:
    """100,000 deltas without one await: other chats begin and end while it talks."""

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        for n in range(100_000 if history[-1].text == "Talk" else 3):
            yield Delta(f"{n} ")
        yield Delta("", "stop")

    async with serve(play) as here:
        talking = await here.service.start_chat("Talk")
        for _ in range(5):
            assert text_of(await reply(here.service, "Short")) == "0 1 2 "
        assert not await ended(here.service, talking.turn_id)
        stopped = await here.service.cancel_turn(talking.turn_id)
        assert stopped.status == "cancelled"
        assert 1 < stopped.last_seq < 100_000


async def test_a_model_that_hangs_keeps_nobody_waiting(serve: Serve) -> None:
    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        if history[-1].text == "Hang":
            await asyncio.Event().wait()
        yield Delta("Hello", "stop")

    async with serve(play) as here:
        hanging = [await here.service.start_chat("Hang") for _ in range(20)]
        assert text_of(await reply(here.service, "Hi")) == "Hello"
        for turn in hanging:
            assert (await here.service.cancel_turn(turn.turn_id)).status == "cancelled"


async def test_limits_of_turns_and_streams(serve: Serve) -> None:
    async with serve(silent, max_running_turns=2, max_streams=1) as here:
        first = await here.service.start_chat("One")
        await here.service.start_chat("Two")
        assert await refused(here.service.start_chat("Three")) == "too_many_streams"
        assert len((await here.service.list_sessions()).sessions) == 2
        with await here.service.open(first.turn_id, 0):
            assert await refused(here.service.open(first.turn_id, 0)) == "too_many_streams"
        assert (await here.service.open(first.turn_id, 0)).after == 0


async def test_no_reader_no_turn(serve: Serve) -> None:
    """Where the answer could not be read, nothing is recorded, but for turns that nobody attends."""
    async with serve(silent, max_streams=1) as here:
        turn = await here.service.start_chat("One")
        with await here.service.open(turn.turn_id, 0):
            assert await refused(here.service.start_chat("Two")) == "too_many_streams"
            # A cancel waits for the end of its turn as a reader does, and is never refused for load.
            assert (await here.service.cancel_turn(turn.turn_id)).status == "cancelled"
            assert await refused(here.service.start_image("Two")) == "too_many_streams"
            assert len((await here.service.list_sessions()).sessions) == 1
            await here.service.start_chat("Two", attended=False)


async def test_a_deleted_turn_is_not_found_though_somebody_reads_it(serve: Serve) -> None:
    """Who has it in hand reads it to the end; who comes after that finds nothing."""
    async with serve(saying("a", "b")) as here:
        turn = await here.service.start_chat("Hi")
        assert turn.session_id is not None
        with await here.service.open(turn.turn_id, 0) as reader:
            await until(lambda: ended(here.service, turn.turn_id))
            await here.service.delete_session(turn.session_id)
            assert await refused(here.service.open(turn.turn_id, 0)) == "turn_not_found"
            assert await refused(here.service.cancel_turn(turn.turn_id)) == "turn_not_found"
            read = [record.event async for records in reader for record in records]
            assert event_type(read[-1]) == "turn_completed"


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
async def test_what_has_ended_is_in_the_store_and_nowhere_else(serve: Serve, ending: str) -> None:
    """No log stays in memory, and no garbage has to be collected for that."""
    play = Stepwise()
    async with serve(play) as here:
        gc.disable()
        try:
            # Only the id is kept: a reader would hold the log.
            turn_id = (await here.service.start_chat("Hi")).turn_id
            play.say("a")
            await until(lambda: seq_is(here.service, turn_id, 2))
            if ending == "cancelled":
                await here.service.cancel_turn(turn_id)
            elif ending == "failed":
                play.steps.put_nowait(ChatError("model_timeout"))
            else:
                play.end()
            assert event_type((await follow(here.service, turn_id))[-1]) == f"turn_{ending}"
            await until(lambda: not here.service._logs.held())
        finally:
            gc.enable()


# -- the model ---------------------------------------------------------------------------------------------------------


async def test_what_the_model_is_given(serve: Serve) -> None:
    model = Scripted(saying("Hello ", "you"))
    async with serve(model) as here:
        first = await reply(here.service, "One")
        assert isinstance(first[0], TurnStarted)
        session_id = first[0].session_id
        await reply(here.service, "Two", session_id=session_id)
        assert model.histories == [
            [ContextMessage("user", "One")],
            [ContextMessage("user", "One"), ContextMessage("model", "Hello you"), ContextMessage("user", "Two")],
        ]
        end = first[-1]
        assert isinstance(end, TurnCompleted)
        assert (end.finish_reason, end.usage, end.chunks, end.message_count) == ("stop", Usage(1, 2), 2, 2)
        assert end.sha256 == text_sha256("Hello you")
        assert model.opened == model.closed == 2


async def test_what_the_model_says_is_kept_as_it_is(serve: Serve) -> None:
    """But for what has no UTF-8; empty deltas are no events."""
    said = ["", " ", "\n\n", "", "\u2028\u0085", "e", "\u0301", "\ud83d\ude00", "x\ud800y", "\0"]
    async with serve(saying(*said)) as here:
        events = await reply(here.service, "Hi")
        texts = [event.text for event in events if isinstance(event, Chunk)]
        assert texts == [" ", "\n\n", "\u2028\u0085", "e", "\u0301", "😀", "x\ufffdy", "\0"]
        turn = events[0].turn_id
        assert (await here.service.get_turn(turn)).text == "".join(texts)
        end = events[-1]
        assert isinstance(end, TurnCompleted)
        assert end.sha256 == text_sha256("".join(texts))


@pytest.mark.parametrize("said", [0, 2])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ChatError("model_rate_limited"), "model_rate_limited"),
        (ChatError("content_refused", "Refused in our words."), "content_refused"),
        (ValueError(SECRET), "internal"),
        (TimeoutError(SECRET), "internal"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_a_model_that_raises(serve: Serve, said: int, error: Exception, code: ErrorCode) -> None:
    """``turn_failed`` with a code of the table; the exception's own text reaches neither the client nor the log."""

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        for n in range(said):
            yield Delta(f"{n} ")
        if history[-1].text == "Fail":
            raise error
        yield Delta("", "stop")

    model = Scripted(play)
    async with serve(model) as here:
        events = await reply(here.service, "Fail")
        assert [event_type(event) for event in events] == ["turn_started", *["chunk"] * said, "turn_failed"]
        end = events[-1]
        assert isinstance(end, TurnFailed)
        assert (end.code, end.retryable) == (code, ChatError(code).retryable)
        assert SECRET not in end.message
        assert SECRET not in here.out.getvalue()
        assert "Traceback" not in here.out.getvalue()
        assert model.closed == 1
        started = events[0]
        assert isinstance(started, TurnStarted)
        again = await reply(here.service, "Go on", session_id=started.session_id)
        assert event_type(again[-1]) == "turn_completed"
        assert model.histories[1] == [ContextMessage("user", "Go on")]
        statuses = [message.status for message in await here.service.list_messages(started.session_id or "")]
        assert statuses == ["failed"] * (1 + bool(said)) + ["completed", "completed"]


async def test_a_key_runs_the_model_once(serve: Serve) -> None:
    play = Stepwise()
    model = Scripted(play)
    async with serve(model) as here:
        turns = await asyncio.gather(*(here.service.start_chat("Hi", request_id="k") for _ in range(20)))
        assert len({turn.turn_id for turn in turns}) == 1
        play.say("x")
        play.end()
        events = await follow(here.service, turns[0].turn_id)
        assert await reply(here.service, "Hi", request_id="k") == events
        for other in (
            here.service.start_chat("Ho", request_id="k"),
            here.service.start_chat("Hi", request_id="k", model_id="scripted-1"),
            here.service.start_chat("Hi", request_id="k", session_id=turns[0].session_id),
            here.service.start_image("Hi", request_id="k"),
        ):
            assert await refused(other) == "idempotency_key_reused"
        assert model.opened == 1
        assert len((await here.service.list_sessions()).sessions) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\nb", "\x7f"])
async def test_keys_that_are_none(serve: Serve, key: str) -> None:
    async with serve(saying("x")) as here:
        assert await refused(here.service.start_chat("Hi", request_id=key)) == "invalid_request"
        assert (await here.service.list_sessions()).sessions == []


async def test_a_caller_that_leaves_while_it_starts(serve: Serve) -> None:
    """A turn that was recorded is generated, though whoever asked is gone before the answer."""
    async with serve(saying("x")) as here:
        asking = asyncio.create_task(here.service.start_chat("Hi", request_id="k"))
        await asyncio.sleep(0)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        events = await reply(here.service, "Hi", request_id="k")
        assert event_type(events[-1]) == "turn_completed"


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [0, 1, 5])
async def test_cancel(serve: Serve, said: int) -> None:
    """Before the first token or in the middle: the model is closed by the time the cancel is answered, the text stays."""
    play = Stepwise()
    model = Scripted(play)
    texts = [f"{n} " for n in range(said)]
    async with serve(model) as here:
        turn = await here.service.start_chat("Count")
        play.say(*texts)
        await until(lambda: seq_is(here.service, turn.turn_id, 1 + said))
        await until(lambda: model.opened)
        reading = asyncio.create_task(follow(here.service, turn.turn_id))
        stopped = await here.service.cancel_turn(turn.turn_id)
        assert model.closed == 1
        assert (stopped.status, stopped.text, stopped.last_seq) == ("cancelled", "".join(texts), said + 2)
        end = (await reading)[-1]
        assert isinstance(end, TurnCancelled)
        assert (end.chunks, end.sha256, end.usage) == (said, text_sha256("".join(texts)), Usage())
        assert await here.service.cancel_turn(turn.turn_id) == stopped
        assert turn.session_id is not None
        messages = await here.service.list_messages(turn.session_id)
        assert [message.status for message in messages] == ["cancelled"] * (1 + bool(said))


async def test_cancel_before_the_first_step(serve: Serve) -> None:
    model = Scripted(silent)
    async with serve(model) as here:
        turn = await here.service.start_chat("Hi")
        assert (await here.service.cancel_turn(turn.turn_id)).status == "cancelled"
        assert model.opened == model.closed


async def test_cancel_after_the_end_changes_nothing(serve: Serve) -> None:
    async with serve(saying("x")) as here:
        events = await reply(here.service, "Hi")
        assert (await here.service.cancel_turn(events[0].turn_id)).status == "completed"
        assert await follow(here.service, events[0].turn_id) == events
        assert await refused(here.service.cancel_turn("no such turn")) == "turn_not_found"


async def test_many_cancels_at_once_are_one(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here:
        turn = await here.service.start_chat("Count")
        play.say("a", "b")
        answers = await asyncio.gather(*(here.service.cancel_turn(turn.turn_id) for _ in range(20)))
        assert len(set(map(str, answers))) == 1
        events = await follow(here.service, turn.turn_id)
        assert [event_type(event) for event in events].count("turn_cancelled") == 1


async def test_cancel_races_with_the_end(serve: Serve) -> None:
    """Whoever comes first wins; the log has one end and says what really was said."""
    plays: list[Stepwise] = []

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        plays.append(Stepwise())
        plays[-1].say("a", "b")
        plays[-1].end()
        async for delta in plays[-1](history):
            await asyncio.sleep(0)
            yield delta

    # In memory, because a store on disk would answer the cancel when all is over.
    async with serve(play, store_url="sqlite://") as here:
        seen = set()
        for n in range(60):
            turn = await here.service.start_chat("Hi")
            for _ in range(n % 30):
                await asyncio.sleep(0)
            stopped = await here.service.cancel_turn(turn.turn_id)
            events = await follow(here.service, turn.turn_id)
            ends = [event for event in events if event_type(event).startswith("turn_c")]
            assert len(ends) == 1
            assert ends[0] is events[-1]
            assert isinstance(ends[0], TurnCompleted | TurnCancelled)
            assert ends[0].sha256 == text_sha256(text_of(events)) == text_sha256(stopped.text)
            seen.add(event_type(ends[0]))
        assert seen == {"turn_completed", "turn_cancelled"}


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_a_turn_that_nobody_reads_is_cancelled(serve: Serve) -> None:
    model = Scripted(silent)
    async with serve(model, disconnect_grace_s=0.2) as here:
        unread = await here.service.start_chat("Hi")
        detached = await here.service.start_chat("Hi", attended=False)
        left = await here.service.start_chat("Hi")
        with await here.service.open(left.turn_id, 0) as reader:
            await anext(reader)
        await until(lambda: ended(here.service, unread.turn_id))
        await until(lambda: ended(here.service, left.turn_id))
        assert (await here.service.get_turn(unread.turn_id)).status == "cancelled"
        assert (await here.service.get_turn(detached.turn_id)).status == "running"
        assert model.closed == 2


async def test_a_reader_keeps_its_turn_alive(serve: Serve) -> None:
    """As long as it reads, and counted anew from when it left; also when it reads in another process."""
    play = Stepwise()
    async with serve(play, disconnect_grace_s=0.3) as here, serve(silent, disconnect_grace_s=0.3) as there:
        turn = await here.service.start_chat("Hi")
        other = await here.service.start_chat("Hi too")
        reading = asyncio.create_task(follow(here.service, turn.turn_id))
        remote = asyncio.create_task(follow(there.service, other.turn_id))
        unread = await here.service.start_chat("Nobody")
        await until(lambda: ended(here.service, unread.turn_id))
        last = await here.service.start_chat("Nobody either")
        await until(lambda: ended(here.service, last.turn_id))
        for one in (turn, other):
            assert (await here.service.get_turn(one.turn_id)).status == "running"
        reading.cancel()
        await until(lambda: ended(here.service, turn.turn_id))
        assert (await here.service.get_turn(other.turn_id)).status == "running"
        await here.service.cancel_turn(other.turn_id)
        assert event_type((await remote)[-1]) == "turn_cancelled"


# -- two processes on one store ----------------------------------------------------------------------------------------


async def test_another_process_reads_cancels_and_goes_on(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here, serve(saying("Over there.")) as there:
        turn = await here.service.start_chat("Hi")
        assert turn.session_id is not None
        play.say("a", "b")
        reading = [asyncio.create_task(follow(there.service, turn.turn_id, after)) for after in (0, 1, 1)]
        await until(lambda: seq_is(there.service, turn.turn_id, 3))
        assert (await there.service.get_turn(turn.turn_id)).text == "ab"
        assert await refused(there.service.start_chat("Me too", session_id=turn.session_id)) == "turn_in_progress"
        play.say("c")
        await until(lambda: seq_is(there.service, turn.turn_id, 4))
        stopped = await there.service.cancel_turn(turn.turn_id)
        assert (stopped.status, stopped.text) == ("cancelled", "abc")
        whole = await follow(here.service, turn.turn_id)
        for after, task in zip((0, 1, 1), reading, strict=True):
            assert await task == whole[after:]
        events = await reply(there.service, "Go on", session_id=turn.session_id)
        assert isinstance(events[0], TurnStarted)
        assert events[0].context_messages == 2


async def test_what_members_of_a_session_are_told(serve: Serve) -> None:
    """Turns and messages reach the members in every process, typing those in this one; nobody is told twice."""
    async with serve(saying("x")) as here, serve(silent) as there:
        session = await here.service.create_session()
        with (
            here.service.join(session.session_id) as me,
            here.service.join(session.session_id) as you,
            there.service.join(session.session_id) as they,
        ):
            assert (await here.service.get_session(session.session_id)).connections == 2
            told: dict[str, list[SessionUpdate | TurnBegan]] = {"me": [], "you": [], "they": []}

            async def listen(name: str, member: Any) -> None:
                async for item in member:
                    told[name].append(item)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(listen(*one)) for one in (("me", me), ("you", you), ("they", they))]
                here.service.typing(me, True)
                turn = await here.service.start_chat("Hi", session_id=session.session_id, origin=me)
                await follow(here.service, turn.turn_id)
                await here.service.clear_session(session.session_id, origin=me)
                await until(lambda: any(getattr(item, "update_type", "") == "session_cleared" for item in told["they"]))
                for task in tasks:
                    task.cancel()
        began = TurnBegan(session.session_id, turn.turn_id)
        added = [
            SessionUpdate(session_id=session.session_id, update_type="message_added", message_count=n) for n in (1, 2)
        ]
        cleared = SessionUpdate(session_id=session.session_id, update_type="session_cleared")
        typing = SessionUpdate(session_id=session.session_id, update_type="user_typing", typing=True)
        assert told["me"] == [began]
        assert told["you"] == [typing, began, *added, cleared]
        assert told["they"] == [began, *added, cleared]
        assert (await here.service.get_session(session.session_id)).connections == 0


# -- draining ----------------------------------------------------------------------------------------------------------


async def test_drain(serve: Serve) -> None:
    """Refused: what is new. Finished: what is quick. Interrupted, and delivered so: what is not. Sent away: who reads elsewhere."""
    plays = {"quick": Stepwise(), "slow": Stepwise()}

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        async for delta in plays[history[-1].text](history):
            yield delta

    async with serve(Stepwise()) as there, serve(play) as here:
        quick, slow = [await here.service.start_chat(name) for name in plays]
        remote = await there.service.start_chat("Elsewhere")
        for one in plays.values():
            one.say("said ")
        reading = [asyncio.create_task(follow(here.service, turn.turn_id)) for turn in (quick, slow)]
        with await here.service.open(remote.turn_id, 0) as visitor:
            await anext(visitor)
            assert await here.service.ready()
            draining = asyncio.create_task(here.service.drain(0.5))
            with pytest.raises(StopAsyncIteration):
                await anext(visitor)
            assert not visitor.complete
        assert not await here.service.ready()
        for refusal in (here.service.start_chat("New"), here.service.start_image("New"), here.service.create_session()):
            assert await refused(refusal) == "shutting_down"
        plays["quick"].say("more")
        plays["quick"].end()
        await draining
        finished, interrupted = [await task for task in reading]
        assert (text_of(finished), event_type(finished[-1])) == ("said more", "turn_completed")
        assert (text_of(interrupted), event_type(interrupted[-1])) == ("said ", "turn_interrupted")
        # A log that has ended is still read, so that nobody loses the last words.
        assert await follow(here.service, slow.turn_id) == interrupted
        assert (await there.service.cancel_turn(remote.turn_id)).status == "cancelled"


@pytest.mark.parametrize("first", ["Quick", None])
async def test_what_is_being_let_in_is_drained_like_the_rest(serve: Serve, first: str | None) -> None:
    """The signal comes while the store records the turn: it has the whole grace period, also when all others have ended."""
    plays = {"Quick": Stepwise(), "Just in time": Stepwise()}

    async def play(history: Sequence[ContextMessage]) -> AsyncGenerator[Delta, None]:
        async for delta in plays[history[-1].text](history):
            yield delta

    async with serve(play) as here:
        before = await here.service.start_chat(first) if first else None
        here.store.starts.clear()
        asking = asyncio.create_task(here.service.start_chat("Just in time"))
        await until(lambda: here.store.starting)
        draining = asyncio.create_task(here.service.drain(5))
        await until(lambda: here.service.draining)
        assert await refused(here.service.start_chat("Too late")) == "shutting_down"
        here.store.starts.set()
        late = await asking
        plays["Quick"].end()
        if before is not None:
            await follow(here.service, before.turn_id)
        # With no turn but this one left, the drain still waits for it.
        assert not (await asyncio.wait({draining}, timeout=0.1))[0]
        assert (await here.service.get_turn(late.turn_id)).status == "running"
        plays["Just in time"].say("all of it")
        plays["Just in time"].end()
        events = await follow(here.service, late.turn_id)
        assert (text_of(events), event_type(events[-1])) == ("all of it", "turn_completed")
        await draining


async def test_a_service_that_closes_interrupts(serve: Serve) -> None:
    model = Scripted(silent)
    async with serve(model) as here:
        turn = await here.service.start_chat("Hi")
        await until(lambda: model.opened)
    assert model.closed == 1
    async with serve(saying("x")) as again:
        assert (await again.service.get_turn(turn.turn_id)).status == "interrupted"
        assert event_type((await follow(again.service, turn.turn_id))[-1]) == "turn_interrupted"
        assert await reply(again.service, "Go on", session_id=turn.session_id)


# -- pictures ----------------------------------------------------------------------------------------------------------


def picture(data: bytes, *, preview: bool) -> ImagePart:
    return ImagePart(data, "image/png", 8, 8, preview, None if preview else "As drawn", Usage(3, 4))


async def test_a_picture_is_a_turn(serve: Serve) -> None:
    parts = [picture(b"p" * 70_000, preview=True), picture(b"f" * 200_000, preview=False)]
    model = Drawn(parts)
    async with serve(saying("x"), images=model) as here:
        session = await here.service.create_session()
        turn = await here.service.start_image("A hill", size="8x8", session_id=session.session_id)
        events = await follow(here.service, turn.turn_id)
        kinds = ["image_started", *["image_chunk"] * 2, "image_started", *["image_chunk"] * 4, "image_completed"]
        assert [event_type(event) for event in events] == ["turn_started", *kinds, "turn_completed"]
        (done,) = [event for event in events if isinstance(event, ImageCompleted)]
        assert done.revised_prompt == "As drawn"
        assert (await here.service.get_image(done.image_id)).data == parts[1].data
        end = events[-1]
        assert isinstance(end, TurnCompleted)
        assert (end.chunks, end.message_count, end.usage) == (0, 2, Usage(3, 4))
        assert model.closed == 1
        for size in ("13x13", "0x8", "8", "8x8x8", "-8x8", "", "99999x99999"):
            assert await refused(here.service.start_image("A hill", size=size)) == "invalid_request"


async def test_a_picture_is_cancelled_before_it_is_whole(serve: Serve) -> None:
    model = Drawn([picture(b"p", preview=True), picture(b"f", preview=False)], go=asyncio.Semaphore(1))
    async with serve(saying("x"), images=model) as here:
        turn = await here.service.start_image("A hill")
        await until(lambda: seq_is(here.service, turn.turn_id, 3))
        assert (await here.service.cancel_turn(turn.turn_id)).status == "cancelled"
        events = await follow(here.service, turn.turn_id)
        assert model.closed == 1
        assert isinstance(events[1], ImageStarted)
        assert events[1].preview
        assert isinstance(events[-1], TurnCancelled)
        assert events[-1].sha256 is None


async def test_an_image_model_without_a_picture(serve: Serve) -> None:
    async with serve(saying("x"), images=Drawn([picture(b"p", preview=True)])) as here:
        turn = await here.service.start_image("A hill")
        end = (await follow(here.service, turn.turn_id))[-1]
        assert isinstance(end, TurnFailed)
        assert end.code == "model_unavailable"


# -- what it tells -----------------------------------------------------------------------------------------------------


async def test_the_log_tells_the_stages_and_no_text(serve: Serve) -> None:
    async with serve(saying("a secret answer")) as here:
        await reply(here.service, "a secret question")
        await until(lambda: len(here.lines) > 2)
        stages = [line["event"] for line in here.lines]
        assert stages == ["chat started", "first token", "chat completed"]
        assert here.lines[0]["context"] == 0
        assert here.lines[-1]["chunks"] == 1
        assert "secret" not in here.out.getvalue()


async def test_what_is_counted(serve: Serve) -> None:
    async with serve(saying("x")) as here:
        await reply(here.service, "One")
        turn = await here.service.start_chat("Two")
        await follow(here.service, turn.turn_id)
        stats = await here.service.stats()
        assert (stats.requests_total, stats.requests_succeeded, stats.requests_failed) == (2, 2, 0)
        assert (stats.sessions_created, stats.sessions_active, stats.streams_active) == (2, 2, 0)
        assert (stats.provider, stats.model) == ("scripted", "scripted-1")
        assert stats.average_response_ms > 0
