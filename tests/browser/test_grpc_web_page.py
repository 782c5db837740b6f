"""The chat page over gRPC-Web in real Chromium: everything that the page asks goes to the gRPC server's port for pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page, expect

from protocols.ports import free_port
from protocols.processes import Server, serving_all
from tests.browser.chat import clean, done, open_page, said, say, shot, stored, texts
from tests.parts import part

PATH = "/demo?wire=grpc-web"


@asynccontextmanager
async def both(store: dict[str, str], **env: str) -> AsyncIterator[dict[str, Server]]:
    """The SSE server, which gives the page, and the gRPC server."""
    part("connectrpc")
    names = ("sse", "grpc", "grpc_web")
    ports = {name: free_port() for name in names}
    settings = store | env | {f"{name.upper()}_PORT": str(port) for name, port in ports.items()}
    async with serving_all(("sse", "grpc"), env=settings, ports=ports) as servers:
        yield servers


async def opened(browser: Browser, servers: dict[str, Server], path: str = PATH) -> tuple[Page, list[str]]:
    """The page, and the addresses that it asks outside the server that gave it."""
    page = await open_page(browser, servers["sse"], path)
    await expect(page.locator("#state")).to_have_text("ready")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    return page, asked


async def test_a_conversation(browser: Browser, store: dict[str, str]) -> None:
    async with both(store, OFFLINE_TOKENS_PER_S="400") as servers:
        page, asked = await opened(browser, servers)
        await expect(page.locator("#title")).to_have_text("gRPC-Web")
        await expect(page.locator("#note")).to_contain_text("offline")
        await say(page, "My name is Ada.")
        await say(page, "What is my name?")
        await page.check("#raw")
        assert await texts(page, "model") == await stored(servers["grpc"])
        assert "Ada" in (await texts(page, "model"))[1]
        assert await page.locator("#messages .meta", has_text="checksum OK").count() == 2
        await page.check("#picture")
        await say(page, "a red bridge")
        await expect(page.locator("#messages img")).to_have_count(1)
        # The session is read again: its messages and the picture's bytes come over gRPC-Web too.
        await page.click("#sessions button[aria-current=true]")
        await expect(page.locator("#messages img")).to_have_count(1)
        assert await page.locator("#messages img").evaluate("image => image.naturalWidth") == 512
        await shot(page, "demo-grpc-web")
        chat = (f"{servers['grpc'].page_url}/chat.ChatService/", "blob:")
        assert [url for url in asked if "/web/" not in url and not url.startswith(chat)] == []
        # The same session goes on over the wire of the page's own server, and back.
        await page.get_by_role("link", name="SSE").click()
        await expect(page.locator("#title")).to_have_text("Server-Sent Events")
        await expect(page.locator("#messages li.model")).to_have_count(3)
        await page.get_by_role("link", name="gRPC-Web").click()
        await expect(page.locator("#title")).to_have_text("gRPC-Web")
        await expect(page.locator("#messages li.model")).to_have_count(3)
        await page.click("#new")
        page.on("dialog", lambda dialog: dialog.accept())
        await page.click("#delete")
        await expect(page.locator("#where")).to_have_text("a new session begins with your message")
        await clean(page)


async def test_the_line_is_cut_and_an_answer_is_stopped(browser: Browser, store: dict[str, str]) -> None:
    async with both(store, OFFLINE_TOKENS_PER_S="60") as servers:
        page, _ = await opened(browser, servers)
        await say(page, "/tokens 90 hello", wait=False)
        await said(page, 60)
        await page.click("#cut")
        await expect(page.locator("li.seam", has_text="nothing lost, nothing twice")).to_have_count(1)
        await done(page)
        assert await page.locator("#messages .meta", has_text="checksum OK").count() == 1
        await page.check("#raw")
        assert await texts(page, "model") == await stored(servers["grpc"])
        await page.click("#new")
        await say(page, "/tokens 2000 hello", wait=False)
        await said(page, 30)
        # Another window reads the running answer.
        other, _ = await opened(browser, servers, f"{PATH}&{page.url.partition('?')[2]}")
        await said(other, 30)
        await page.click("#stop")
        await done(page)
        stopped = re.compile("^stopped( · checksum OK)?Ask again$")
        for window in (page, other):
            await expect(window.locator("#messages li.model .meta").last).to_have_text(stopped)
        await clean(page)


async def test_a_refusal_and_a_failure_are_shown(browser: Browser, store: dict[str, str]) -> None:
    async with both(store, OFFLINE_TOKENS_PER_S="0", MAX_MESSAGE_CHARS="50", OFFLINE_FIRST_TOKEN_MS="0") as servers:
        page, _ = await opened(browser, servers)
        await say(page, "x" * 51, wait=False)
        await expect(page.locator("#error")).to_contain_text("invalid_request: ")
        await say(page, "/fail model_rate_limited hello", wait=False)
        await expect(page.locator("#messages li.model .meta")).to_contain_text("failed · model_rate_limited: ")
        await clean(page)


async def test_a_key_is_asked_for(browser: Browser, store: dict[str, str]) -> None:
    async with both(store, API_SECRET_KEY="open-sesame", OFFLINE_TOKENS_PER_S="0") as servers:
        page = await browser.new_page()
        await page.goto(f"http://{servers['sse'].address}{PATH}")
        for key in ("wrong", "open-sesame"):
            await expect(page.locator("#error")).to_contain_text("unauthenticated: ")
            await page.fill("#key", key)
            await page.press("#key", "Enter")
        await expect(page.locator("#state")).to_have_text("ready")
        await say(page, "My name is Ada.")
        assert await page.locator("#messages .meta", has_text="checksum OK").count() == 1


async def test_without_the_grpc_server_the_page_says_so(browser: Browser, store: dict[str, str]) -> None:
    async with both(store) as servers:
        await servers["grpc"].stop()
        page = await browser.new_page()
        await page.goto(f"http://{servers['sse'].address}{PATH}")
        await expect(page.locator("#error")).to_contain_text("python -m protocols serve grpc")
