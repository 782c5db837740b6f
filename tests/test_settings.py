"""Settings: keys, empty values, renamed names, and the message for a wrong value at the start."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.config import Settings
from shared.llm.gemini import GeminiChat
from shared.llm.offline import OfflineChat
from shared.llm.open import open_chat_model

ROOT = Path(__file__).parent.parent
KEYS = ("API_SECRET_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY")


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


def value_of(conf: Settings, name: str) -> Any:
    secret = getattr(conf, name.lower())
    return secret.get_secret_value() if secret is not None else None


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("around", ["{}", "{}\n", " {}\t", "\r\n{}\r\n", "\u00a0{}\u2003"])
def test_white_space_around_a_key_is_dropped(monkeypatch: pytest.MonkeyPatch, name: str, around: str) -> None:
    assert value_of(settings(monkeypatch, **{name: around.format("k-0_~!")}), name) == "k-0_~!"


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize(
    "key", ["a b", "a\nb", "a\tb", "clé", "k\u200b", "\ufeffk", "\u201ck\u201d", "a\x7fb", "a\x01b"]
)
def test_a_key_of_other_characters_is_a_startup_error(monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
    with pytest.raises(ValidationError, match="visible ASCII") as caught:
        settings(monkeypatch, **{name: key})
    assert key not in "".join(error["msg"] for error in caught.value.errors())


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_provider_key_is_unset(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    conf = settings(monkeypatch, **dict.fromkeys(KEYS[1:], empty))
    assert [value_of(conf, name) for name in KEYS[1:]] == [None] * 3
    assert isinstance(open_chat_model(conf), OfflineChat)
    other = settings(monkeypatch, GOOGLE_API_KEY="the-other-name")
    assert isinstance(open_chat_model(other), GeminiChat)
    with pytest.raises(ValidationError, match="API_SECRET_KEY is set but empty"):
        settings(monkeypatch, API_SECRET_KEY=empty)


def test_empty_text_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("GENAI_MODEL_ID", "GENAI_SYSTEM_INSTRUCTION", "OPENAI_BASE_URL", "GOOGLE_GEMINI_BASE_URL")
    conf = settings(monkeypatch, **dict.fromkeys(names, " "))
    assert [getattr(conf, name.lower()) for name in names] == [None] * 4
    assert settings(monkeypatch, GENAI_MODEL_ID=" m\n").genai_model_id == "m"


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"])
@pytest.mark.parametrize("address", ["localhost:11434/v1", "ftp://host/v1", "http://", "https:///v1", "http://a b/v1"])
def test_an_address_that_is_none_is_a_startup_error(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    with pytest.raises(ValidationError, match="begin with http"):
        settings(monkeypatch, **{name: address})
    assert settings(monkeypatch, **{name: " http://[::1]:1/v1\n"}).model_dump()[name.lower()] == "http://[::1]:1/v1"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PROVIDER_FIRST_TOKEN_TIMEOUT_S", "PROVIDER_FIRST_FRAME_TIMEOUT_S"),
        ("PROVIDER_BETWEEN_TOKENS_TIMEOUT_S", "PROVIDER_BETWEEN_FRAMES_TIMEOUT_S"),
    ],
)
def test_a_renamed_setting_still_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"{old}=3\n")
    assert getattr(Settings(_env_file=file), new.lower()) == 3
    assert getattr(settings(monkeypatch, **{old: "4"}), new.lower()) == 4
    assert getattr(settings(monkeypatch, **{new: "5"}), new.lower()) == 5


def test_a_model_may_think_for_an_hour() -> None:
    conf = Settings(_env_file=None)
    assert (conf.provider_first_frame_timeout_s, conf.provider_total_timeout_s) == (600, 3600)


async def test_a_server_says_which_key_is_wrong_and_not_the_key() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "protocols", "serve", "ndjson", "--port", "0",
        cwd=ROOT, env={"OPENAI_API_KEY": "top\nsecret"}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    assert process.returncode
    assert b"OPENAI_API_KEY" in said
    assert b"visible ASCII" in said
    assert b"secret" not in said
    assert b"Traceback" not in said
