"""docs/models.md: every block of settings answers through the real SDK, and every setting that is named exists."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.config import Settings
from shared.images.open import open_image_model
from shared.llm.open import open_chat_model
from tests.emulators import Emulator
from tests.provider_models import TEXT, said, text_of

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## (.+?)\n\n```sh\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
SERVERS = ["Gemini", "OpenAI", "Ollama", "llama.cpp", "vLLM", "LiteLLM", "OpenRouter"]


def settings_of(name: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, str]:
    """The block's settings with the emulator for the server's host, and the path of the server's address."""
    given = dict(line.split("=", 1) for line in BLOCKS[name].splitlines())
    path = urlsplit(given.get("OPENAI_BASE_URL", "https://api.openai.com/v1")).path
    given |= {"OPENAI_BASE_URL": emulator.base_url + path, "GOOGLE_GEMINI_BASE_URL": emulator.base_url}
    for setting, value in given.items():
        monkeypatch.setenv(setting, value)
    return Settings(_env_file=None), path


def test_the_page_has_every_server() -> None:
    assert list(BLOCKS) == [*SERVERS, "Pictures from another server"]


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async with Emulator() as emulator:
        settings, path = settings_of(name, emulator, monkeypatch)
        model = open_chat_model(settings)
        try:
            deltas = await said(model, "hi")
        finally:
            await model.aclose()
        assert text_of(deltas) == f"{TEXT}1 messages"
        assert deltas[-1].finish_reason == "stop"
        assert model.provider == ("gemini" if name == "Gemini" else "openai")
        (seen,) = emulator.seen
        if name != "Gemini":
            assert seen.path == f"{path}/chat/completions"
            assert seen.body["model"] == settings.genai_model_id
            key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
            assert seen.headers["authorization"] == f"Bearer {key}"


async def test_a_server_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Emulator() as emulator:
        settings, _ = settings_of("Pictures from another server", emulator, monkeypatch)
        images = open_image_model(settings)
        try:
            parts = [part async for part in images.generate("a fox", 64, 64)]
        finally:
            await images.aclose()
        assert [part.preview for part in parts] == [False]
        assert emulator.seen[0].body["model"] == settings.openai_image_model
        assert open_chat_model(settings).provider == "offline"


def test_the_settings_that_it_names_exist_with_their_defaults() -> None:
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    ours = r"\b((?:GENAI|PROVIDER|IMAGE|OPENAI|GEMINI|GOOGLE|MAX)_[A-Z_]+)\b"
    assert set(re.findall(ours, PAGE)) <= fields.keys()
    for name, value in re.findall(r"`([A-Z_]+)` \| (\d+) s", PAGE):
        assert fields[name].default == int(value)
