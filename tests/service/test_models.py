"""What the model is given, what it says, and how it fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import pytest

from shared.errors import ChatError, ErrorCode
from shared.events import (
    Chunk,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Usage,
    event_type,
)
from shared.llm.model import ContextMessage, Delta
from shared.reply import text_sha256
from tests.service.scripted import (
    SECRET,
    Scripted,
    Serve,
    Stepwise,
    follow,
    refused,
    reply,
    saying,
)


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
    """The text of the deltas stays as it is, except for lone surrogates. Empty deltas are no events."""
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
        statuses = [message.status for message in (await here.service.list_messages(started.session_id or "")).messages]
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
    """A turn that was recorded is generated, though the caller is gone before the answer."""
    async with serve(saying("x")) as here:
        asking = asyncio.create_task(here.service.start_chat("Hi", request_id="k"))
        await asyncio.sleep(0)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        events = await reply(here.service, "Hi", request_id="k")
        assert event_type(events[-1]) == "turn_completed"
