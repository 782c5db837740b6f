"""Both chat models with their real SDKs, pointed at an emulator, and the questions that tests ask them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.config import Settings
from shared.errors import ChatError
from shared.events import Usage
from shared.llm.model import ChatModel, ContextMessage, Delta
from shared.llm.open import open_chat_model
from tests.emulators import PROVIDER_TEXT, WRONG_KEY, Emulator
from tests.emulators.chat import GEMINI_MODELS
from tests.emulators.wire import TOKENS

PROVIDERS = ("gemini", "openai")
KEY = "secret-key-0123456789"
TEXT = "".join(TOKENS)


def provider_settings(provider: str, emulator: Emulator, **given: Any) -> Settings:
    """Settings for one provider at the emulator, without further attempts."""
    conf: dict[str, Any] = {
        "genai_provider": provider,
        "genai_model_id": GEMINI_MODELS[0],
        "gemini_api_key": KEY,
        "openai_api_key": KEY,
        "google_gemini_base_url": emulator.base_url,
        "openai_base_url": emulator.openai_url,
        "provider_retries": 0,
    }
    return Settings(_env_file=None, **{**conf, **given})


@asynccontextmanager
async def provider_model(provider: str, **given: Any) -> AsyncIterator[tuple[ChatModel, Emulator]]:
    """A chat model and the emulator that it talks to."""
    async with Emulator() as emulator:
        model = open_chat_model(provider_settings(provider, emulator, **given))
        try:
            yield model, emulator
        finally:
            await model.aclose()


async def said(model: ChatModel, text: str, model_id: str | None = None) -> list[Delta]:
    """The deltas of one answer."""
    return [delta async for delta in model.stream([ContextMessage("user", text)], model_id or model.default_model)]


def text_of(deltas: list[Delta]) -> str:
    """The text of an answer."""
    return "".join(delta.text for delta in deltas)


def usage_of(deltas: list[Delta]) -> Usage | None:
    """The last counts of an answer."""
    return next((delta.usage for delta in reversed(deltas) if delta.usage), None)


async def failed(model: ChatModel, text: str, model_id: str | None = None) -> tuple[ChatError, str]:
    """The error, and the text that came before it. Fails when the error has the provider's words or the key in it."""
    heard = ""
    with pytest.raises(ChatError) as caught:
        async for delta in model.stream([ContextMessage("user", text)], model_id or model.default_model):
            heard += delta.text
    error = caught.value
    for one in (error, error.cause, error.__cause__, error.__context__):
        for secret in (PROVIDER_TEXT, KEY, WRONG_KEY):
            assert secret not in repr(one)
    return error, heard
