"""The pages over https: a chat on each server, and the race with the servers beside it."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, expect

from protocols.ports import free_port
from protocols.processes import serving, serving_all
from tests.browser.chat import WITNESS, WORDS, clean, say, texts
from tests.certificates import tls_settings
from tests.parts import part


@pytest.mark.parametrize("word", WORDS)
async def test_a_chat_over_https(browser: Browser, store: dict[str, str], word: str) -> None:
    async with serving(word, env={**store, **tls_settings()}) as server:
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        await page.add_init_script(WITNESS)
        await page.goto(f"{server.url}/demo")
        await expect(page.locator("#state")).to_have_text("ready")
        await say(page, "/tokens 8 hello")
        assert len((await texts(page, "model"))[0]) > 10
        await clean(page)


async def test_the_race_over_https(browser: Browser, store: dict[str, str]) -> None:
    """The lanes reach the other servers by https and wss, which the page's policy allows."""
    ports = {word: free_port() for word in WORDS}
    env = {**store, **tls_settings(), **{f"{word.upper()}_PORT": str(port) for word, port in ports.items()}}
    async with serving_all(WORDS, env=env, ports=ports) as servers:
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        await page.add_init_script(WITNESS)
        await page.goto(f"{servers['ndjson'].url}/race")
        await expect(page.locator("#state")).to_contain_text("lanes have a server")
        await page.fill("#prompt", "/tokens 12 hello")
        await page.click("#go")
        await expect(page.locator("#go")).to_be_enabled(timeout=30_000)
        assert await page.locator(".lane dd", has_text="complete, checksum OK").count() == 5
        await clean(page)


async def test_ten_tabs_over_http2(browser: Browser, store: dict[str, str]) -> None:
    """Over HTTP/1.1 four of the streams would wait until others have ended."""
    part("zttp")
    async with serving("sse", env={**store, **tls_settings(), "HTTP2": "on"}) as server:
        context = await browser.new_context(ignore_https_errors=True)
        pages = [await context.new_page() for _ in range(10)]
        for page in pages:
            await page.goto(f"{server.url}/demo")
        started = await pages[0].evaluate(
            """async () => (await (await fetch("/turns", {method: "POST", headers: {"Content-Type": "application/json"},
               body: JSON.stringify({message: "/tokens 5 /stall 600 hello"})})).json()).turn_id"""
        )
        listen = """(turn) => new Promise((resolve) => {
            window.source = new EventSource(`/turns/${turn}/stream`);
            window.source.addEventListener("chunk", () => resolve(true));
        })"""
        async with asyncio.timeout(30):
            heard = await asyncio.gather(*(page.evaluate(listen, started) for page in pages))
        assert heard == [True] * 10
