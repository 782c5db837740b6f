"""The event ``thinking``: once, before the first chunk, the same on every transport and in every replay."""

from __future__ import annotations

import time

import pytest

from protocols import TRANSPORTS
from shared.client.protocol import Lost, Reconnected, collect
from shared.events import Chunk, Event, Thinking, TurnCompleted, TurnStarted, event_type
from tests.conftest import Connect

STREAMING = [word for word, transport in TRANSPORTS.items() if transport.tokens]


async def events(stream: object) -> list[Event]:
    return [item async for item in stream if not isinstance(item, Lost | Reconnected)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("word", STREAMING)
async def test_a_model_that_thinks_says_so_once(client: Connect, word: str) -> None:
    connected = await client(word)
    log = await events(connected.chat("/think 0.3 /tokens 3 Why?"))
    assert [event_type(event) for event in log] == [
        "turn_started",
        "thinking",
        "chunk",
        "chunk",
        "chunk",
        "turn_completed",
    ]
    started, thinking, first = log[0], log[1], log[2]
    assert isinstance(started, TurnStarted)
    assert isinstance(thinking, Thinking)
    assert isinstance(first, Chunk)
    assert (thinking.turn_id, thinking.seq) == (started.turn_id, 2)
    # A clock may tick a little early.
    assert first.at - thinking.at >= 290
    assert await events(connected.read(started.turn_id, 0)) == log
    assert await events(connected.read(started.turn_id, 1)) == log[1:]


async def test_a_whole_reply_is_the_same_with_and_without_thoughts(client: Connect) -> None:
    connected = await client("rest")
    begun = time.monotonic()
    reply = await collect(connected.chat("/think 0.2 /tokens 3 Why?"))
    assert time.monotonic() - begun >= 0.2
    assert (reply.status, reply.finish_reason) == ("completed", "length")
    assert reply.text == (await collect(connected.chat("/tokens 3 Why?"))).text


@pytest.mark.parametrize("word", STREAMING)
async def test_a_model_that_does_not_think_says_nothing(client: Connect, word: str) -> None:
    log = await events((await client(word)).chat("Why?"))
    assert not [event for event in log if isinstance(event, Thinking)]
    assert isinstance(log[-1], TurnCompleted)
