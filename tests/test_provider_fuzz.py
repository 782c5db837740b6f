"""Any bytes that a provider sends end the turn with a terminal event of the table, never ``internal``.

The frames are valid ones in which parts are replaced by JSON of any type; the SDKs, the service and the store are the real ones.
"""

from __future__ import annotations

import asyncio
import copy
import io
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.grpc.chat_pb2 import Event
from protocols.grpc.convert import from_event_message, to_event_bytes
from shared.chat.service import ChatService, open_service
from shared.errors import ERRORS
from shared.events import TERMINAL, AnyEvent, TurnFailed, from_json, to_json
from shared.logger import open_logger
from tests.emulators import Emulator
from tests.provider_models import PROVIDERS, provider_settings

CODES = {code for code in ERRORS if code.startswith("model_")} | {"content_refused", "invalid_request"}
EXAMPLES = 150


@dataclass
class Stage:
    """A service whose model is an emulator's script."""

    provider: str
    runner: asyncio.Runner
    service: ChatService
    emulator: Emulator

    def play(self, script: list[bytes]) -> list[AnyEvent]:
        """Every event of a turn whose provider sends these bytes."""
        self.emulator.script = script
        self.emulator.seen.clear()
        return self.runner.run(self._events())

    async def _events(self) -> list[AnyEvent]:
        events: list[AnyEvent] = []
        async with asyncio.timeout(60):
            reader = await self.service.start_chat("emulate:scripted")
            with reader:
                async for records in reader:
                    events += [record.event for record in records]
        return events


@pytest.fixture(scope="module", params=PROVIDERS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    async def opened(stack: AsyncExitStack) -> tuple[ChatService, Emulator]:
        emulator = await stack.enter_async_context(Emulator())
        conf = provider_settings(request.param, emulator, store_url="sqlite://")
        service = await stack.enter_async_context(open_service(conf, logger=open_logger("fuzz", io.StringIO())))
        return service, emulator

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        service, emulator = runner.run(opened(stack))
        yield Stage(request.param, runner, service, emulator)
        runner.run(stack.aclose())


GEMINI: tuple[Any, ...] = (
    {"candidates": [{"content": {"parts": [{"text": "Hi "}], "role": "model"}, "index": 0}]},
    {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}, {"text": "x"}]}}]},
    {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {}}}]}, "finishReason": "STOP"}]},
    {"candidates": [{"finishReason": "MAX_TOKENS"}], "usageMetadata": {"promptTokenCount": 3}},
    {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "thoughtsTokenCount": 5}},
    {"promptFeedback": {"blockReason": "SAFETY"}},
    {"error": {"code": 503, "status": "UNAVAILABLE", "message": "m", "details": [{"reason": "r", "retryDelay": "1s"}]}},
)
OPENAI: tuple[Any, ...] = (
    {"choices": [{"index": 0, "delta": {"content": "Hi "}, "finish_reason": None}]},
    {"choices": [{"delta": {"content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": []}]}}]},
    {"choices": [{"delta": {"reasoning_content": "hm", "tool_calls": [{"index": 0}]}, "finish_reason": "tool_calls"}]},
    {"choices": [{"message": {"content": "x", "refusal": None}, "finish_reason": "length"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"error": {"message": "m", "type": "server_error", "param": None, "code": 503}},
)
FRAMES = {"gemini": GEMINI, "openai": OPENAI}

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(
        ["", "stop", "STOP", "error", "SAFETY", "\ud83d", "\ude00", "\u2028", "0", "503", "data: {}", "[DONE]"]
    )
    | st.text(max_size=20)
)
names = st.sampled_from(
    ["text", "type", "content", "parts", "error", "code", "finish_reason", "finishReason"]
) | st.text(max_size=5)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all parts of a JSON value, the empty path to the value itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, one in inner for deeper in paths(one, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, frames: tuple[Any, ...]) -> Any:
    """A valid frame, mostly with one or two of its parts replaced."""
    frame: Any = copy.deepcopy(draw(st.sampled_from(frames)))
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from(paths(frame)))
        if not path:
            frame = draw(values)
            continue
        place = frame
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = draw(values)
    return frame


def scripts(provider: str) -> st.SearchStrategy[list[bytes]]:
    """The bytes that a provider sends, in pieces."""
    frame = changed(FRAMES[provider]).map(lambda value: f"data: {json.dumps(value)}\n\n".encode())
    other = st.sampled_from(
        [b"data: [DONE]\n\n", b": ping\n\n", b"event: error\n", b"\n", b"data: \n\n", b"data: nope\n\n"]
    )
    bare = changed(FRAMES[provider]).map(lambda value: json.dumps(value).encode())
    streams = st.lists(frame | frame | frame | other | st.binary(min_size=1, max_size=20), min_size=1, max_size=6)
    return streams | st.lists(bare, min_size=1, max_size=2)


@given(data=st.data())
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_every_answer_ends_the_turn(stage: Stage, data: st.DataObject) -> None:
    script = data.draw(scripts(stage.provider))
    events = stage.play(script)
    assert [isinstance(event, TERMINAL) for event in events] == [False] * (len(events) - 1) + [True]
    end = events[-1]
    if isinstance(end, TurnFailed):
        assert end.code in CODES
    assert len(stage.emulator.seen) == 1
    for event in events:
        assert from_json(to_json(event)) == event
        assert from_event_message(Event.FromString(to_event_bytes(event))) == event
