"""Answers of real servers and gateways that their APIs' pages do not name: both chat models, with the real SDKs."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import Any

import pytest
import trustme

from shared.chat.chunk_texts import ChunkTexts
from shared.events import Usage
from shared.llm.checked import MAX_COUNT, NotAnAnswer, fields, items, text, token_count, usage
from shared.llm.model import ContextMessage, Delta
from shared.llm.provider import retry_after_s
from tests.emulators import Emulator
from tests.emulators.odd import LONG_PIECE
from tests.provider_models import KEY, PROVIDERS, TEXT, failed, provider_model, said, text_of, usage_of

both = pytest.mark.parametrize("provider", PROVIDERS)


@both
@pytest.mark.parametrize(
    ("scenario", "reply", "reason", "counts"),
    [
        ("end-mark", TEXT, "other", None),
        ("error-after-finish", TEXT, "stop", None),
        ("unknown-finish", TEXT, "other", None),
        ("gateway", TEXT, "stop", Usage(7, 4)),
        ("no-empty-lines", TEXT, "stop", Usage(7, 4)),
        ("whole", TEXT, "stop", Usage(7, 4)),
        ("halves", "\N{GRINNING FACE} ok", "stop", Usage(7, 4)),
        ("torn", "\N{GRINNING FACE} ok", "stop", Usage(7, 4)),
        ("odd-counts", TEXT, "stop", Usage(7, None)),
        ("numbers", "a 421.5true", "stop", None),
        ("typed-parts", TEXT, "stop", None),
        ("long-piece", LONG_PIECE, "stop", Usage(7, 4)),
        ("strict", TEXT, "stop", None),
    ],
)
async def test_answers(provider: str, scenario: str, reply: str, reason: str, counts: Usage | None) -> None:
    async with provider_model(provider) as (model, emulator):
        deltas = await said(model, f"hi emulate:{scenario}")
        texts = ChunkTexts()
        assert "".join(part for delta in deltas for part in texts.add(delta.text)) == reply
        assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [reason]
        assert deltas[-1].finish_reason == reason
        assert usage_of(deltas) == counts
        assert any(delta.thought for delta in deltas) is (scenario == "typed-parts")
        assert len(emulator.seen) == (2 if scenario == "strict" else 1)


@both
@pytest.mark.parametrize(
    ("scenario", "code", "before", "words"),
    [
        ("error-finish", "model_unavailable", "", ""),
        ("wrong-type", "model_unavailable", TEXT, "cannot be read"),
        ("wrong-shape", "model_unavailable", "", "cannot be read"),
        ("page", "model_unavailable", "", "web page; check "),
    ],
)
async def test_failures(provider: str, scenario: str, code: str, before: str, words: str) -> None:
    async with provider_model(provider, provider_retries=2) as (model, emulator):
        error, heard = await failed(model, f"hi emulate:{scenario}")
        assert (error.code, heard.removeprefix("Hi ")) == (code, before)
        assert words in error.message
        assert error.cause
        assert len(emulator.seen) == 1


@both
async def test_a_finished_reply_is_not_waited_for(provider: str) -> None:
    async with provider_model(provider) as (model, emulator):
        await said(model, "hi")
        begun = time.monotonic()
        deltas = await said(model, "hi emulate:open-after-finish")
        # The emulator keeps the connection open for a minute, which is the limit between two frames.
        assert time.monotonic() - begun < 30
        assert (text_of(deltas), deltas[-1].finish_reason, usage_of(deltas)) == (TEXT, "stop", Usage(7, 4))
        await emulator.until(lambda: emulator.seen[1].ended_by == "client")


@both
@pytest.mark.parametrize("scenario", ["think-6000", "prefill-6000"])
async def test_any_frame_is_a_sign_of_life(provider: str, scenario: str) -> None:
    limits = {"provider_first_frame_timeout_s": 4, "provider_between_frames_timeout_s": 4}
    async with provider_model(provider) as (model, _):
        await said(model, "hi")
    async with provider_model(provider, **limits) as (model, _):
        thoughts = []
        reply = ""
        async for delta in model.stream([ContextMessage("user", f"hi emulate:{scenario}")], model.default_model):
            thoughts.append(delta.thought)
            reply += delta.text
        assert reply == TEXT
        assert any(thoughts) is scenario.startswith("think")


@both
async def test_a_refused_parameter_is_remembered(provider: str) -> None:
    async with provider_model(provider) as (model, emulator):
        for _ in range(3):
            assert text_of(await said(model, "hi emulate:strict")) == TEXT
        assert [seen.status for seen in emulator.seen][1:] == [200, 200, 200]


@pytest.mark.parametrize(("scenario", "counts"), [("vague", None), ("no-stream", Usage(7, 4))])
async def test_servers_that_refuse_what_is_always_asked(scenario: str, counts: Usage | None) -> None:
    async with provider_model("openai") as (model, emulator):
        deltas = await said(model, f"hi emulate:{scenario}")
        assert (text_of(deltas), deltas[-1].finish_reason, usage_of(deltas)) == (TEXT, "stop", counts)
        assert [seen.status for seen in emulator.seen] == [400, 200]


@both
async def test_an_error_after_both_is_the_error(provider: str) -> None:
    async with provider_model(provider) as (model, emulator):
        error, _ = await failed(model, "hi emulate:status-400")
        assert error.code == "invalid_request"
        assert "HTTP 400" in error.message
        assert "too long" not in error.message
        assert len(emulator.seen) == (2 if provider == "openai" else 1)


@both
async def test_an_address_that_is_not_the_apis(provider: str) -> None:
    async with provider_model(provider) as (_, emulator):
        wrong = {"openai_base_url": emulator.base_url, "google_gemini_base_url": f"{emulator.base_url}/v1beta"}
        async with provider_model(provider, **wrong) as (model, _):
            error, _ = await failed(model, "hi")
            assert error.code == "model_not_found"
            setting = "OPENAI_BASE_URL" if provider == "openai" else "GOOGLE_GEMINI_BASE_URL"
            assert setting in error.message
            assert ("/v1" in error.message) is (provider == "openai")


@both
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "The proxy in ALL_PROXY needs a package that is missing: pip install"),
        ({"HTTPS_PROXY": "nonsense://127.0.0.1:9"}, "address of the proxy in HTTPS_PROXY cannot be used"),
        ({"all_proxy": "http://127.0.0.1:9"}, "cannot be reached; check "),
        ({"SSL_CERT_FILE": "/no/such/file.pem"}, "SSL_CERT_FILE names no certificates that can be read"),
        ({"SSL_CERT_FILE": "pyproject.toml"}, "SSL_CERT_FILE names no certificates that can be read"),
    ],
)
async def test_the_users_environment(
    monkeypatch: pytest.MonkeyPatch, provider: str, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with provider_model(provider) as (model, _):
        error, _ = await failed(model, "hi")
    assert error.code == "model_unavailable"
    assert words in error.message
    assert error.message[0].isupper()
    assert error.message.endswith(".")
    assert error.cause
    if "all_proxy" in variables:
        assert "the proxy in all_proxy" in error.message


@both
async def test_a_certificate_that_nobody_trusts(provider: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with Emulator(tls=tls) as emulator:
        given = {"openai_base_url": emulator.openai_url, "google_gemini_base_url": emulator.base_url}
        async with provider_model(provider, **given) as (model, _):
            error, _ = await failed(model, "hi")
    assert error.code == "model_unavailable"
    assert "no certificate that this machine trusts; check SSL_CERT_FILE and " in error.message
    assert "ssl.SSLCertVerificationError" in (error.cause or "")


async def test_a_key_with_a_line_end_works() -> None:
    async with provider_model("openai", openai_api_key=f"{KEY}\n") as (model, emulator):
        assert (await said(model, "hi"))[-1].finish_reason == "stop"
        assert emulator.seen[0].headers["authorization"] == f"Bearer {KEY}"


BEGINNING: dict[str, tuple[dict[str, Any], ...]] = {
    "gemini": (
        {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]},
        {"candidates": [{"finishReason": "STOP"}]},
    ),
    "openai": ({"choices": [{"delta": {"content": "Hi"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}),
}


@both
async def test_what_came_before_garbage_in_one_piece_counts(provider: str) -> None:
    frames = [f"data: {json.dumps(frame)}\n\n".encode() for frame in BEGINNING[provider]]
    async with provider_model(provider) as (model, emulator):
        emulator.script = [b"".join(frames) + b"data: {broken\n\n"]
        deltas = await said(model, "hi emulate:scripted")
        assert (text_of(deltas), deltas[-1].finish_reason) == ("Hi", "stop")
        emulator.script = [frames[0] + b"data: {broken\n\n"]
        error, heard = await failed(model, "again emulate:scripted")
        assert (error.code, heard) == ("model_unavailable", "Hi")


@both
async def test_a_redirect_names_the_address(provider: str) -> None:
    async with provider_model(provider) as (model, _):
        error, _ = await failed(model, "hi emulate:status-301")
    assert error.code == "model_unavailable"
    assert "answered with a redirect (HTTP 301); check " in error.message


@both
async def test_no_success_is_asked_again(provider: str) -> None:
    async with provider_model(provider, provider_retries=2) as (model, emulator):
        await failed(model, "hi emulate:status-202")
        assert len(emulator.seen) == 1


def test_retry_after() -> None:
    assert [retry_after_s(value) for value in ("0", "1.5", "120", "Wed, 21 Oct 2015 07:28:00 GMT")] == [0, 1.5, 120, 0]
    later = retry_after_s("Wed, 21 Oct 2099 07:28:00 GMT")
    assert later is not None
    assert later > 1e9
    bad = ("", "-1", "soon", "1e9", "999999999", "\u0664", "Wed, 99 Oct 2015 07:28:00 GMT", "nan")
    assert [retry_after_s(value) for value in bad] == [None] * len(bad)


def test_counts() -> None:
    good = [0, 7, MAX_COUNT, 7.0]
    assert [token_count(value) for value in good] == [0, 7, MAX_COUNT, 7]
    bad = [-1, MAX_COUNT + 1, 2**70, 1.5, float("nan"), float("inf"), 1e300, True, "3", None, [], {}]
    assert [token_count(value) for value in bad] == [None] * len(bad)
    assert usage({"in": 3.0, "out": "4"}, "in", "out") == Usage(3, None)
    assert usage({"in": -3}, "in", "out") is None
    assert usage("x", "in", "out") is None


def test_types() -> None:
    assert [text(value) for value in ("a", None, 1, 1.5, True)] == ["a", "", "1", "1.5", "true"]
    assert (fields(None), items(None), fields({"a": 1}), items([1])) == ({}, [], {"a": 1}, [1])
    for check, value in ((text, {}), (text, []), (fields, []), (fields, "x"), (items, {}), (items, "x")):
        with pytest.raises(NotAnAnswer):
            check(value)


@both
async def test_leaving_while_it_thinks_closes_the_request(provider: str) -> None:
    async with provider_model(provider) as (model, emulator):
        stream = model.stream([ContextMessage("user", "hi emulate:think-60000")], model.default_model)
        assert await anext(stream) == Delta(thought=True)
        await asyncio.sleep(0)
        await stream.aclose()
        await emulator.until(lambda: emulator.seen[0].ended_by == "client")
