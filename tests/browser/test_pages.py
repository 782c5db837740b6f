"""The pages in real Chromium: each transport over its own browser API, cuts, two windows, hostile texts, the race.

Screenshots are kept in ``tests/artefacts`` to be looked at.
"""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
from playwright.async_api import Browser, Route, expect

from protocols.processes import Server, serving
from shared.events import to_json
from tests.browser.chat import (
    WITNESS,
    WORDS,
    clean,
    done,
    open_page,
    said,
    say,
    shot,
    stored,
    texts,
)
from tests.browser.payloads import PAYLOADS
from tests.conftest import until


@pytest.mark.parametrize("word", WORDS)
async def test_a_conversation(browser: Browser, store: dict[str, str], word: str) -> None:
    async with serving(word, env=store | {"OFFLINE_TOKENS_PER_S": "400"}) as server:
        page = await open_page(browser, server)
        await say(page, "My name is Ada.")
        await say(page, "Show me some code, please.")
        await say(page, "What is my name?")
        assert await page.locator("#messages pre code").count() >= 1, "the code block is not rendered"
        assert await page.locator("#messages .meta", has_text="checksum OK").count() == 3
        await shot(page, f"demo-{word}")
        await page.check("#raw")
        # Every character: whitespace, joined emoji, combining marks, U+2028.
        assert await texts(page, "model") == await stored(server)
        assert "Ada" in (await texts(page, "model"))[2]
        await page.check("#picture")
        await say(page, "a red bridge")
        picture = page.locator("#messages img")
        await expect(picture).to_have_count(1)
        assert await picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [512, 512]
        assert await picture.get_attribute("alt") == "a red bridge"
        await page.click("#sessions button[aria-current=true]")
        await expect(page.locator("#messages img")).to_have_count(1)
        await clean(page)


@pytest.mark.parametrize("word", WORDS)
async def test_the_line_is_cut_and_nothing_is_lost(browser: Browser, store: dict[str, str], word: str) -> None:
    async with serving(word, env=store | {"OFFLINE_TOKENS_PER_S": "60"}) as server:
        page = await open_page(browser, server)
        await say(page, "/tokens 90 hello", wait=False)
        if word == "rest":
            await expect(page.locator("#cut")).to_be_enabled()
        else:
            await said(page, 60)
        await page.click("#cut")
        await expect(page.locator("li.seam", has_text="back after")).to_have_count(1)
        await shot(page, f"cut-{word}")
        await done(page)
        assert await page.locator("#messages .meta", has_text="checksum OK").count() == 1
        await page.check("#raw")
        assert await texts(page, "model") == await stored(server)
        if word == "sse":
            # The page gives EventSource no cursor in its address: the browser's own Last-Event-ID named the event.
            seam = await page.locator("li.seam", has_text="by the browser itself").inner_text()
            resumed = [entry["after"] for entry in server.log if entry["event"] == "resumed"]
            assert resumed
            assert f"event {resumed[0]}: nothing lost, nothing twice" in seam
        await clean(page)


@pytest.mark.parametrize("word", WORDS)
async def test_stop_keeps_what_was_said(browser: Browser, store: dict[str, str], word: str) -> None:
    async with serving(word, env=store | {"OFFLINE_TOKENS_PER_S": "50"}) as server:
        page = await open_page(browser, server)
        await page.click("#new")
        await say(page, "/tokens 2000 hello", wait=False)
        if word != "rest":
            await said(page, 30)
        await expect(page.locator("#stop")).to_be_enabled()
        async with server.client() as client:
            session = (await client.list_sessions()).sessions[0].session_id

            async def runs() -> bool:
                return (await client.get_session(session)).running_turn_id is not None

            await until(runs)
        await page.click("#stop")
        await done(page)
        async with server.client() as client:
            message = (await client.list_messages(session))[0]
        assert message.status == "cancelled", message
        # One word for it on every wire, now and when the session is read again.
        meta = page.locator("#messages li.model .meta")
        await expect(meta).to_have_text(re.compile("^stopped( · checksum OK)?Ask again$"))
        await page.reload()
        if await page.locator("#messages li.model").count():
            await expect(meta).to_have_text("stoppedAsk again")


@pytest.mark.parametrize("word", WORDS)
async def test_two_windows_in_one_session(browser: Browser, store: dict[str, str], word: str) -> None:
    async with serving(word, env=store | {"OFFLINE_TOKENS_PER_S": "200"}) as server:
        first = await open_page(browser, server)
        await say(first, "My name is Ada.")
        second = await open_page(browser, server)
        await second.click("#sessions button")
        await expect(second.locator("#messages li.model")).to_have_count(1)
        if word == "websocket":
            await first.locator("#text").press_sequentially("Wh")
            await expect(second.locator("#typing")).to_have_text("Someone is typing …")
        await say(first, "What is my name?")
        await expect(second.locator("#messages li.model")).to_have_count(2)
        await expect(second.locator("#messages li.model").nth(1).locator(".meta")).to_have_text("checksum OK")
        assert (await texts(second, "model"))[1] == (await texts(first, "model"))[1]
        await shot(second, f"second-window-{word}")


@pytest.mark.parametrize("word", WORDS[1:])
async def test_a_model_that_thinks_is_shown_to_think(browser: Browser, store: dict[str, str], word: str) -> None:
    async with serving(word, env=store) as server:
        page = await open_page(browser, server)
        await say(page, "/think 3 /tokens 5 Why?", wait=False)
        facts = page.locator("#messages li.model .meta")
        await expect(facts).to_have_text("thinking, 0 s")
        await expect(facts).to_have_text("thinking, 2 s")
        await done(page)
        await expect(facts).to_have_text("checksum OK")


async def test_an_image_shows_its_previews(browser: Browser, store: dict[str, str]) -> None:
    async with serving("sse", env=store) as server:
        page = await open_page(browser, server)
        await page.check("#picture")
        await say(page, "/slow 0.2 a lighthouse", wait=False)
        await expect(page.locator("#messages img.preview")).to_have_count(1)
        await done(page)
        await expect(page.locator("#messages img:not(.preview)")).to_have_count(1)


async def test_a_key_is_asked_for_and_held_in_memory(browser: Browser, store: dict[str, str]) -> None:
    for word in ("sse", "websocket"):
        async with serving(word, env=store | {"API_SECRET_KEY": "open-sesame", "OFFLINE_TOKENS_PER_S": "0"}) as server:
            page = await browser.new_page()
            await page.add_init_script(WITNESS)
            await page.goto(f"http://{server.address}/demo")
            await page.fill("#key", "open-sesame")
            await page.press("#key", "Enter")
            await expect(page.locator("#state")).to_have_text("ready")
            await say(page, "My name is Ada.")
            assert await page.locator("#messages .meta", has_text="checksum OK").count() == 1
            kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
            assert "sesame" not in kept
            assert "sesame" not in json.dumps(server.log)


async def test_hostile_texts_stay_texts(browser: Browser, store: dict[str, str]) -> None:
    """In the message, the model's output, an error, the alt of a picture and a session's name: no script, no report."""
    async with serving("ndjson", env=store | {"OFFLINE_TOKENS_PER_S": "0"}) as server:
        page = await open_page(browser, server)
        for number, payload in enumerate(PAYLOADS):
            await page.route("**/sessions?limit=30", partial(_as_session, payload))
            await page.route("**/chat/stream", partial(_as_model, payload))
            await say(page, payload)
            assert (await texts(page, "user"))[-1] == payload
            await page.unroute("**/chat/stream")
            await page.route("**/chat/stream", partial(_as_error, payload))
            await say(page, payload, wait=False)
            await expect(page.locator("#error")).to_have_text(f"invalid_request: {payload}")
            assert await page.locator("#error").evaluate("one => one.textContent") == f"invalid_request: {payload}"
            await page.unroute("**/chat/stream")
            await page.unroute("**/sessions?limit=30")
            if number % 10 == 0:
                await page.check("#picture")
                await say(page, payload)
                assert await page.locator("#messages img").last.get_attribute("alt") == payload
                await page.uncheck("#picture")
        await page.check("#raw")
        await page.uncheck("#raw")
        assert await page.locator("#messages script, #messages iframe, #messages svg, #messages style").count() == 0
        links = await page.locator("#messages a").evaluate_all("all => all.map((one) => one.protocol)")
        assert set(links) <= {"http:", "https:", "mailto:"}
        await shot(page, "hostile-texts")
        await clean(page)


async def _as_model(said: str, route: Route) -> None:
    """Answer with the bytes that the server would send if the model had said this."""
    common = {"turn_id": "t", "at": 0.0}
    started = {
        "session_id": None,
        "kind": "chat",
        "input": "x",
        "model": "m",
        "context_messages": 0,
        "request_id": None,
    }
    usage = {"input_tokens": None, "output_tokens": None}
    end = {"finish_reason": "stop", "usage": usage, "chunks": 1, "message_count": 2, "elapsed_ms": 1, "sha256": "0"}
    events = [
        {"type": "turn_started", "seq": 1, **common, **started},
        {"type": "chunk", "seq": 2, **common, "text": said},
        {"type": "turn_completed", "seq": 3, **common, **end},
    ]
    body = b"".join(to_json(event) + b"\n" for event in events)
    await route.fulfill(status=200, content_type="application/x-ndjson", body=body)


async def _as_error(said: str, route: Route) -> None:
    problem = {"code": "invalid_request", "detail": said, "status": 422}
    await route.fulfill(status=422, content_type="application/problem+json", body=json.dumps(problem))


async def _as_session(said: str, route: Route) -> None:
    session = {"session_id": said, "title": said, "message_count": 0, "running_turn_id": None, "last_activity_at": 0}
    await route.fulfill(status=200, json={"sessions": [session], "next_cursor": None, "active_sessions": 1})


async def test_the_seventh_stream_waits_and_the_seventh_socket_does_not(
    browser: Browser, five: dict[str, Server]
) -> None:
    page = await open_page(browser, five["rest"], "/race")
    await page.click("#seventh")
    await expect(page.locator("#seventh")).to_be_enabled(timeout=20_000)
    result = await page.locator("#seventh-result").inner_text()
    assert "EventSource: 6 of 7" in result
    assert "WebSocket: 7 of 7" in result


async def test_by_keyboard_alone(browser: Browser, store: dict[str, str]) -> None:
    async with serving("ndjson", env=store | {"OFFLINE_TOKENS_PER_S": "0"}) as server:
        page = await open_page(browser, server)
        # The message box has the focus at the start; a link before all else leads to it.
        assert await page.evaluate("document.activeElement.id") == "text"
        first = await page.evaluate("document.querySelector('a, button, input, textarea').className")
        assert first == "skip"
        await page.locator(".skip").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.type("My name is Ada.")
        await page.keyboard.press("Enter")
        await done(page)
        assert len(await texts(page, "model")) == 1
        await page.keyboard.press("ArrowUp")
        assert await page.input_value("#text") == "My name is Ada."
        await page.fill("#text", "")
        # A reload finds the session in the address, and Escape stops an answer.
        await page.reload()
        await expect(page.locator("#messages li.model")).to_have_count(1)
        await expect(page.locator("#sessions button[aria-current=true]")).to_contain_text("My name is Ada.")
        await page.fill("#text", "/stall 60 wait")
        await page.keyboard.press("Enter")
        await said(page, 20)
        await page.keyboard.press("Escape")
        await expect(page.locator("#messages .meta").last).to_contain_text("stopped")
        unnamed = await page.evaluate(
            "[...document.querySelectorAll('button, input, textarea')].filter((one) => !one.textContent.trim()"
            " && !one.labels?.length && !one.getAttribute('aria-label')).map((one) => one.outerHTML)"
        )
        assert unnamed == []
