"""Gemini's own requests and answers on the wire, and how the chat model is chosen."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.config import Settings
from shared.errors import ChatError
from shared.llm.gemini import DEFAULT_MODEL, GeminiChat
from shared.llm.model import ContextMessage
from shared.llm.offline import OfflineChat
from shared.llm.open import open_chat_model
from shared.llm.openai_chat import OpenAIChat
from tests.emulators import Emulator
from tests.emulators.wire import TOKENS

KEY = "secret-key-0123456789"


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def conf(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


async def test_the_request_on_the_wire(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sampling parameters, and no X-Server-Timeout, which Google refuses below 10 s.

    The SDK's own variables name the server.
    """
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", emulator.base_url)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    model = open_chat_model(conf(provider_first_frame_timeout_s=5))
    deltas = [delta async for delta in model.stream([ContextMessage("user", "hi")], model.default_model)]
    await model.aclose()
    assert "".join(delta.text for delta in deltas) == "".join(TOKENS) + "1 messages"
    seen = emulator.seen[0]
    assert seen.path == f"/v1/models/{DEFAULT_MODEL}:streamGenerateContent?alt=sse"
    assert seen.headers["x-goog-api-key"] == KEY
    assert KEY not in seen.path
    assert "x-server-timeout" not in seen.headers
    assert seen.body["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]
    assert seen.body["generationConfig"] == {"thinkingConfig": {"include_thoughts": True}}
    assert not any(seen.body.get(name) for name in ("tools", "systemInstruction"))


@pytest.mark.parametrize("model_id", ["../files", "x:countTokens?", "a/b", "", "a b", "models/../x"])
async def test_a_model_id_is_no_path(emulator: Emulator, model_id: str) -> None:
    model = GeminiChat(conf(gemini_api_key=KEY, google_gemini_base_url=emulator.base_url))
    with pytest.raises(ChatError, match="GENAI_MODEL_ID") as error:
        await anext(model.stream([ContextMessage("user", "hi")], model_id))
    assert error.value.code == "model_not_found"
    assert emulator.seen == []


async def test_two_streams_in_one_task_close_their_own(emulator: Emulator) -> None:
    model = GeminiChat(conf(gemini_api_key=KEY, google_gemini_base_url=emulator.base_url))
    streams = [model.stream([ContextMessage("user", f"{i} emulate:stall")], model.default_model) for i in range(2)]
    for _ in TOKENS:
        for stream in streams:
            await anext(stream)
    await streams[1].aclose()
    await emulator.until(lambda: emulator.seen[1].ended_by == "client")
    assert emulator.seen[0].ended_by is None
    await streams[0].aclose()
    await emulator.until(lambda: emulator.seen[0].ended_by == "client")
    await model.aclose()


async def test_one_client_serves_the_process(emulator: Emulator) -> None:
    model = GeminiChat(conf(gemini_api_key=KEY, google_gemini_base_url=emulator.base_url))
    clients = {id(await model._open()) for _ in range(3)}
    assert len(clients) == 1
    await model.aclose()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, OfflineChat),
        ({"gemini_api_key": KEY}, GeminiChat),
        ({"gemini_api_key": ""}, OfflineChat),
        ({"openai_api_key": KEY, "openai_base_url": "http://127.0.0.1:1/v1"}, OfflineChat),
        ({"gemini_api_key": KEY, "genai_provider": "offline"}, OfflineChat),
        ({"genai_provider": "openai", "openai_base_url": "http://127.0.0.1:1/v1", "genai_model_id": "m"}, OpenAIChat),
        ({"genai_provider": "openai", "openai_api_key": KEY, "genai_model_id": "m"}, OpenAIChat),
    ],
)
def test_the_model_is_chosen_by_what_keys_there_are(given: dict[str, Any], kind: type) -> None:
    model = open_chat_model(conf(**given))
    assert type(model) is kind
    assert bool(model.hint) is (kind is OfflineChat)


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"genai_provider": "gemini"}, "GEMINI_API_KEY"),
        ({"genai_provider": "openai", "genai_model_id": "m"}, "OPENAI_API_KEY"),
        ({"genai_provider": "openai", "openai_api_key": KEY}, "GENAI_MODEL_ID"),
    ],
)
def test_a_named_provider_says_what_it_lacks(given: dict[str, Any], variable: str) -> None:
    with pytest.raises(ValueError, match=variable):
        open_chat_model(conf(**given))


def test_the_default_model_comes_first() -> None:
    assert open_chat_model(conf(gemini_api_key=KEY)).models[0] == DEFAULT_MODEL
    other = open_chat_model(conf(gemini_api_key=KEY, genai_model_id="gemini-9"))
    assert other.models[:2] == ("gemini-9", DEFAULT_MODEL)
    assert other.default_model == "gemini-9"


def test_no_sdk_before_it_is_used() -> None:
    code = (
        "import sys; from shared.config import Settings; from shared.llm.open import open_chat_model;"
        "from shared.images.open import open_image_model;"
        "s = Settings(_env_file=None, gemini_api_key='k', openai_api_key='k', genai_model_id='m');"
        "open_chat_model(s); open_image_model(s); open_chat_model(s.model_copy(update={'genai_provider': 'openai'}));"
        "assert not {'google.genai', 'openai', 'httpx2', 'PIL'} & set(sys.modules)"
    )
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert time.monotonic() - start < 10
