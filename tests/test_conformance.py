"""The five are the same chat: one script over each, through the real clients and servers, compared event by event.

What is expected comes from the model itself and from the rules of the contract written out here, never from a transport.
``LANES=all`` adds HTTP/2, gRPC-Web and gRPC without grpcio on the server; ``TLS=1`` encrypts the lines.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import pytest
from PIL import Image

from shared.client.protocol import Ask, ChatClient, Item, Lost, Reconnected, Rewound, collect, collect_picture
from shared.errors import ChatError
from shared.events import (
    AnyEvent,
    Chunk,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Usage,
    event_type,
)
from shared.llm.model import ContextMessage
from shared.llm.offline import MODEL_ID
from shared.llm.offline_reply import reply_tokens
from shared.llm.tokens import count_tokens
from shared.reply import Fold, Picture, Reply, text_sha256
from shared.session import Message
from tests.conftest import Connect, MakeServers, Servers, until
from tests.lanes import LANES, transport_of

T = TypeVar("T")
PAIRS = [(writer, reader) for writer in LANES for reader in LANES]
SIZE = (320, 200)


@dataclass(frozen=True)
class Step:
    """One turn of the script. ``says``: how many of the reply's tokens are said before it ends (None: all)."""

    text: str
    ends: str = "turn_completed"
    finish: str = "stop"
    says: int | None = None
    code: str = ""


SCRIPT = (
    Step("My name is Ada."),
    Step("What is my name?"),
    Step('Wie geht’s? नमस्ते 👩‍👩‍👧‍👦 e\u0301\ttab, CRLF\r\nand separators\u2028\u2029\u0085 are \\kept\\ "here".'),
    Step("/fail model_rate_limited Begin, then break.", "turn_failed", says=3, code="model_rate_limited"),
    Step("/fail-first content_refused Say nothing.", "turn_failed", says=0, code="content_refused"),
    Step("/tokens 700 Explain cursors at length."),
    Step("/tokens 5 Explain them in five tokens.", finish="length"),
    Step("/tokens 40 /stall 600 Explain them and stop half way.", "turn_cancelled", says=20),
    Step("What did I ask before?"),
)
PROMPT = "A red bridge over “the river”, at dawn 🌉"


@dataclass
class Told:
    """What one client received of one turn: the events (none on plain REST), and the whole turn as one object."""

    turn_id: str
    events: list[AnyEvent] = field(default_factory=list)
    reply: Reply | None = None
    picture: Picture | None = None
    error: ChatError | None = None


@dataclass
class Recording:
    """A script that one transport played."""

    session_id: str
    turns: list[Told]
    image: Told
    messages: list[Message]


Record = Callable[[str], Awaitable[Recording]]


@pytest.fixture(params=LANES)
def word(request: pytest.FixtureRequest) -> str:
    """The name of each lane in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def recordings() -> dict[str, Recording]:
    return {}


@pytest.fixture
def record(recordings: dict[str, Recording], client: Connect) -> Record:
    """``await record(word)``: the script as that transport plays it; it is played once."""

    async def play(word: str) -> Recording:
        if word not in recordings:
            recordings[word] = await play_script(await client(word))
        return recordings[word]

    return play


async def play_script(client: ChatClient) -> Recording:
    session_id = (await client.create_session()).session_id
    turns = [await play_step(client, session_id, step) for step in SCRIPT]
    size = "{}x{}".format(*SIZE)
    image = await told(client, session_id, client.image(PROMPT, size=size, session_id=session_id))
    return Recording(session_id, turns, image, await client.list_messages(session_id))


async def play_step(client: ChatClient, session_id: str, step: Step) -> Told:
    asking = asyncio.create_task(told(client, session_id, client.chat(step.text, session_id=session_id)))
    if step.ends == "turn_cancelled":
        turn_id = await until(lambda: running_turn(client, session_id))
        await until(lambda: has_said(client, turn_id, step.says or 0))
        assert (await client.cancel(turn_id)).status == "cancelled"
    return await asking


async def running_turn(client: ChatClient, session_id: str) -> str | None:
    return (await client.get_session(session_id)).running_turn_id


async def has_said(client: ChatClient, turn_id: str, tokens: int) -> bool:
    return (await client.get_turn(turn_id)).last_seq == 1 + tokens


async def told(client: ChatClient, session_id: str, items: AsyncGenerator[Item, None]) -> Told:
    """Read one turn to its end, as its transport gives it."""
    events: list[AnyEvent] = []
    reply: Reply | None = None
    picture: Picture | None = None
    error: ChatError | None = None
    try:
        async with aclosing(items):
            async for item in items:
                assert not isinstance(item, Lost | Reconnected | Rewound)
                if isinstance(item, Reply):
                    reply = item
                elif isinstance(item, Picture):
                    picture = item
                else:
                    events.append(item)
    except ChatError as refusal:
        error = refusal
    turn_id = (await client.get_session(session_id)).last_turn_id
    assert turn_id is not None
    if events:
        assert error is None
        fold = folded(events)
        try:
            if fold.started is not None and fold.started.kind == "image":
                picture = fold.picture()
            else:
                reply = fold.reply()
        except ChatError as refusal:
            error = refusal
    return Told(turn_id, events, reply, picture, error)


async def read(client: ChatClient, turn_id: str, after: int = 0) -> list[AnyEvent]:
    events: list[AnyEvent] = []
    async with aclosing(client.read(turn_id, after)) as items:
        async for item in items:
            assert not isinstance(item, Lost | Reconnected | Rewound | Reply | Picture)
            events.append(item)
    return events


def folded(events: Iterable[AnyEvent]) -> Fold:
    fold = Fold()
    for event in events:
        fold.add(event)
    return fold


def types(events: Iterable[AnyEvent]) -> list[str]:
    return [event_type(event) for event in events]


def only(kind: type[T], events: Iterable[AnyEvent]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]


def without_ids(events: Iterable[AnyEvent]) -> list[dict[str, Any]]:
    """The events without what must differ from run to run: ids and times. Images are numbered in their order."""
    images: dict[str, str] = {}
    plain = []
    for event in events:
        fields = msgspec.to_builtins(event, builtin_types=(bytes,))
        for name in ("turn_id", "session_id", "request_id", "at", "elapsed_ms"):
            fields.pop(name, None)
        if "image_id" in fields:
            fields["image_id"] = images.setdefault(fields["image_id"], f"image {len(images)}")
        plain.append(fields)
    return plain


async def test_the_log_is_what_the_model_said(word: str, record: Record, client: Connect) -> None:
    """Every turn is compared with the model's own output and the contract's rules of context and counting."""
    recording = await record(word)
    reader = await client(word)
    context: list[ContextMessage] = []
    messages = 0
    for step, turn in zip(SCRIPT, recording.turns, strict=True):
        events = await read(reader, turn.turn_id)
        history = [*context, ContextMessage("user", step.text)]
        tokens = reply_tokens(history)
        said = tokens if step.says is None else tokens[: step.says]
        text = "".join(said)
        assert types(events) == ["turn_started", *["chunk"] * len(said), step.ends]
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert all(before.at <= event.at for before, event in pairwise(events))
        assert {event.turn_id for event in events} == {turn.turn_id}
        start, *chunks, end = events
        assert isinstance(start, TurnStarted)
        assert (start.session_id, start.kind, start.input, start.model) == (
            recording.session_id,
            "chat",
            step.text,
            MODEL_ID,
        )
        assert start.context_messages == len(context)
        assert start.request_id is not None
        assert [chunk.text for chunk in only(Chunk, chunks)] == said
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        match end:
            case TurnCompleted():
                usage = Usage(count_tokens(one.text for one in history), len(tokens))
                assert (end.finish_reason, end.usage, end.chunks, end.sha256, end.message_count) == (
                    step.finish,
                    usage,
                    len(tokens),
                    sha256,
                    messages + 2,
                )
                assert 0 <= end.elapsed_ms <= end.at - start.at + 1000
            case TurnCancelled():
                assert (end.usage, end.chunks, end.sha256) == (Usage(), len(said), sha256)
            case TurnFailed():
                assert end.code == step.code
                assert end.message
        messages += 1 + bool(text)
        if step.ends != "turn_failed":
            context = [*history, ContextMessage("model", text)]


def test_the_script_covers_what_breaks() -> None:
    """The replies have characters that a transport could damage. Without them the comparison would prove little."""
    said: list[ContextMessage] = []
    texts = []
    for step in SCRIPT:
        texts.append("".join(reply_tokens([*said, ContextMessage("user", step.text)])))
        if step.ends == "turn_completed":
            said += [ContextMessage("user", step.text), ContextMessage("model", texts[-1])]
    everything = "".join(texts)
    for damaged in ("\u2028", "\u0085", "\n\n\n", "    ", "```python\n", "\u200d", "\u0301", "**", "\\", '"'):
        assert damaged in everything, repr(damaged)


async def test_a_client_sees_the_log_and_nothing_else(word: str, record: Record, client: Connect) -> None:
    """Live events are those of the log. A whole reply, a picture and an error are what the events add up to."""
    recording = await record(word)
    reader = await client(word)
    for turn in (*recording.turns, recording.image):
        log = await read(reader, turn.turn_id)
        if transport_of(word) == "rest":
            assert not turn.events
        else:
            assert turn.events == log
        fold = folded(log)
        if turn.error is not None:
            with pytest.raises(ChatError) as failed:
                fold.reply()
            assert (turn.error.code, turn.error.retryable) == (failed.value.code, failed.value.retryable)
        elif turn is recording.image:
            assert turn.picture == fold.picture()
        else:
            assert turn.reply == fold.reply()


async def test_the_five_logs_are_one(word: str, record: Record, client: Connect) -> None:
    """Event by event, the log that each transport made is the one that REST made."""
    mine, rests = await record(word), await record("rest")
    reader = await client(word)
    for turn, same in zip((*mine.turns, mine.image), (*rests.turns, rests.image), strict=True):
        assert without_ids(await read(reader, turn.turn_id)) == without_ids(await read(reader, same.turn_id))


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
async def test_replay_on_every_other_transport(writer: str, reader: str, record: Record, client: Connect) -> None:
    """A replay equals the log to the last digit of ``at``, from the start and from any cursor, on all 25 pairs."""
    recording = await record(writer)
    here, there = await client(writer), await client(reader)
    for turn in (*recording.turns, recording.image):
        live = turn.events or await read(here, turn.turn_id)
        assert await read(there, turn.turn_id) == live
        for after in {1, len(live) // 2, len(live) - 1, len(live)}:
            assert await read(there, turn.turn_id, after) == live[after:]


async def test_messages_are_the_same_everywhere(word: str, record: Record, client: Connect) -> None:
    recording = await record("rest")
    assert await (await client(word)).list_messages(recording.session_id) == recording.messages
    texts = [(message.role, message.text, message.status) for message in recording.messages]
    expected = []
    for step, turn in zip(SCRIPT, recording.turns, strict=True):
        said = folded(await read(await client(word), turn.turn_id)).text
        status = step.ends.removeprefix("turn_")
        expected.append(("user", step.text, status))
        if said:
            expected.append(("model", said, status))
    assert texts == [*expected, ("user", PROMPT, "completed"), ("model", "", "completed")]
    assert recording.image.picture is not None
    assert [message.image_id for message in recording.messages if message.image_id] == [
        recording.image.picture.image_id
    ]


async def test_a_picture_with_its_previews(word: str, record: Record, client: Connect) -> None:
    recording = await record(word)
    here = await client(word)
    events = await read(here, recording.image.turn_id)
    assert isinstance(events[0], TurnStarted)
    assert (events[0].kind, events[0].input, events[0].context_messages) == ("image", PROMPT, 0)
    starts = only(ImageStarted, events)
    assert [start.preview for start in starts] == [True, True, False]
    for start in starts:
        pieces = [event for event in only(ImageChunk, events) if event.image_id == start.image_id]
        assert [piece.offset for piece in pieces] == list(range(0, start.size_bytes, 46_080))
        assert all(0 < len(piece.data) <= 46_080 for piece in pieces)
        data = b"".join(piece.data for piece in pieces)
        assert (len(data), start.mime_type, start.width, start.height) == (start.size_bytes, "image/png", *SIZE)
        assert Image.open(BytesIO(data)).size == SIZE
        assert await here.get_image(start.image_id) == data
    (done,) = only(ImageCompleted, events)
    end = events[-1]
    assert isinstance(end, TurnCompleted)
    assert (done.image_id, done.sha256) == (starts[-1].image_id, hashlib.sha256(data).hexdigest())
    assert end.sha256 == done.sha256
    picture = recording.image.picture
    assert picture is not None
    assert (picture.image, picture.width, picture.height) == (data, *SIZE)


async def test_a_picture_of_16_megabytes_on_each(client: Connect) -> None:
    """The picture is drawn once. The same key gives the same turn on the other four, and each carries all bytes."""
    key = "sixteen-megabytes"
    sums = {}
    for word in LANES:
        here = await client(word)
        picture = await collect_picture(here.image("A very large field", size="4096x4096", request_id=key))
        assert len(picture.image) > 16 * 1024 * 1024
        sums[word] = (picture.turn_id, picture.sha256, hashlib.sha256(picture.image).hexdigest())
        assert hashlib.sha256(await here.get_image(picture.image_id)).hexdigest() == picture.sha256
    assert len(set(sums.values())) == 1, sums
    assert all(said == real for _, said, real in sums.values())


async def test_a_picture_outside_any_session(word: str, client: Connect) -> None:
    here = await client(word)
    picture = await collect_picture(here.image("A lonely tree", size="64x48"))
    assert (await here.get_turn(picture.turn_id)).session_id is None
    end = (await read(here, picture.turn_id))[-1]
    assert isinstance(end, TurnCompleted)
    assert end.message_count is None


async def test_a_conversation_goes_on_over_every_other(word: str, client: Connect) -> None:
    """A conversation begins on one transport and goes on over each of the five. The model knows all messages."""
    first = await collect((await client(word)).chat("My name is Grace."))
    assert first.session_id is not None
    history = [ContextMessage("user", "My name is Grace."), ContextMessage("model", first.text)]
    for other in LANES:
        here = await client(other)
        reply = await collect(here.chat("What is my name?", session_id=first.session_id))
        history.append(ContextMessage("user", "What is my name?"))
        assert reply.text == "".join(reply_tokens(history))
        assert "Your name is **Grace**" in reply.text
        history.append(ContextMessage("model", reply.text))
        messages = await here.list_messages(first.session_id)
        assert [(message.role, message.text) for message in messages] == [(said.role, said.text) for said in history]


async def test_a_running_answer_is_read_through_the_other_processes(word: str, client: Connect) -> None:
    """Readers on all five read a running turn from several cursors.

    Another process cancels it, and all see the same.
    """
    here = await client(word)
    session_id = (await here.create_session()).session_id
    asking = asyncio.create_task(
        told(here, session_id, here.chat("/tokens 30 /stall 600 Count.", session_id=session_id))
    )
    turn_id = await until(lambda: running_turn(here, session_id))
    clients = {other: await client(other) for other in LANES}

    async def reading_on(after: int) -> dict[tuple[str, int], asyncio.Task[list[AnyEvent]]]:
        # A client each: on a held connection a second resume of a turn takes the place of the first.
        return {(other, after): asyncio.create_task(read(await client(other), turn_id, after)) for other in LANES}

    reading = await reading_on(0) | await reading_on(1)
    await until(lambda: has_said(here, turn_id, 15))
    reading |= await reading_on(9)
    tokens = reply_tokens([ContextMessage("user", "/tokens 30 /stall 600 Count.")])
    for there in clients.values():
        snapshot = await there.get_turn(turn_id)
        assert (snapshot.status, snapshot.last_seq, snapshot.text) == ("running", 16, "".join(tokens[:15]))
        with pytest.raises(ChatError) as refused:
            await collect(there.chat("Me too?", session_id=session_id))
        assert refused.value.code == "turn_in_progress"
    elsewhere = next(clients[other] for other in reversed(LANES) if other != word)
    stopped = await elsewhere.cancel(turn_id)
    assert (stopped.status, stopped.last_seq) == ("cancelled", 17)
    log = await read(here, turn_id)
    assert types(log) == ["turn_started", *["chunk"] * 15, "turn_cancelled"]
    for (other, after), task in reading.items():
        assert await task == log[after:], (other, after)
    turn = await asking
    assert turn.reply == folded(log).reply()
    assert turn.reply is not None
    assert turn.reply.sha256 == text_sha256("".join(tokens[:15]))


async def test_all_is_there_after_a_restart(make_servers: MakeServers, client: Connect) -> None:
    """After a chat and a picture over each, every server is restarted. Everything is as before, on every transport."""
    five = make_servers()
    five.start()
    before = {}
    for word in LANES:
        here = await client(word, on=five)
        reply = await collect(here.chat(f"My transport is {word}."))
        assert reply.session_id is not None
        picture = await collect_picture(here.image(word, size="96x96", session_id=reply.session_id))
        before[word] = (reply, picture, await state(here, reply, picture))
    await asyncio.gather(*(five.signal(word) for word in five))
    five.start()
    for reader in LANES:
        here = await client(reader, on=five)
        for word, (reply, picture, was) in before.items():
            assert await state(here, reply, picture) == was, (reader, word)
    for word, (reply, _, _) in before.items():
        here = await client(word, on=five)
        again = await collect(here.chat("What is my transport?", session_id=reply.session_id))
        assert f"Your transport is **{word}**" in again.text
    assert len((await here.list_sessions()).sessions) == len(LANES)
    assert not five.errors()


async def state(client: ChatClient, reply: Reply, picture: Picture) -> Sequence[object]:
    """Everything there is to know about a session of one chat and one picture."""
    assert reply.session_id is not None
    session = await client.get_session(reply.session_id)
    return (
        msgspec.structs.replace(session, connections=0),
        await client.list_messages(reply.session_id),
        await client.get_turn(reply.turn_id),
        await read(client, reply.turn_id),
        await read(client, picture.turn_id),
        await client.get_image(picture.image_id),
    )


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
async def test_a_repeated_key_is_the_same_turn(writer: str, reader: str, client: Connect, servers: Servers) -> None:
    """The key of a request is in the store: a request that is repeated over any transport starts no second turn."""
    key = f"once from {writer} to {reader}"
    first = await collect((await client(writer)).chat("Only once, please.", request_id=key))
    again = await collect((await client(reader)).chat("Only once, please.", request_id=key))
    assert again == first
    with pytest.raises(ChatError) as reused:
        await collect((await client(reader)).chat("Something else.", request_id=key))
    assert reused.value.code == "idempotency_key_reused"


async def test_a_started_turn_is_read_like_any_other(word: str, client: Connect) -> None:
    """``POST /turns`` and StartTurn: the same log, though nobody reads it live."""
    here = await client(word)
    turn = await here.start(Ask(text="Go on without me."))
    events = await read(here, turn.turn_id)
    assert folded(events).text == "".join(reply_tokens([ContextMessage("user", "Go on without me.")]))
    drawn = await here.start(Ask(text="A hill", kind="image", size="64x64"))
    assert folded(await read(here, drawn.turn_id)).picture().image


async def test_the_end_of_a_log(word: str, client: Connect) -> None:
    """A cursor at the last event gives no event and no error. A cursor beyond it gives an error."""
    here = await client(word)
    reply = await collect(here.chat("Hello"))
    last = (await here.get_turn(reply.turn_id)).last_seq
    assert await read(here, reply.turn_id, last) == []
    for after in (last + 1, 10**9):
        with pytest.raises(ChatError) as refused:
            await read(here, reply.turn_id, after)
        assert refused.value.code == "cursor_out_of_range"
