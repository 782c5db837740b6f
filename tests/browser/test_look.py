"""How the pages look and sound: the landing page, a telephone, the dark, and what axe-core finds on each page."""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from compare.showing.page import LANE_COLOURS
from protocols.processes import Server, serving
from tests.browser.chat import clean, done, open_page, said, say, shot
from tests.parts import part

TELEPHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
# How many px of the list of messages lie below the part that is seen.
BELOW = "(list => list.scrollHeight - list.scrollTop - list.clientHeight)(document.querySelector('#messages'))"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def on_a_telephone(browser: Browser, server: Server, path: str, scheme: Any = "light") -> Page:
    context = await browser.new_context(**TELEPHONE, color_scheme=scheme)
    page = await context.new_page()
    await page.goto(f"http://{server.address}{path}")
    return page


async def serious(page: Page, *more: str) -> list[str]:
    """What axe-core calls serious or critical, or one of ``more``, on the page as it is."""
    found = await page.evaluate("axe.run().then(({ violations }) => violations)")
    return [
        f"{one['id']}: {node['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical", *more)
        for node in one["nodes"]
    ]


async def test_axe_finds_nothing_serious(browser: Browser, four: dict[str, Server]) -> None:
    axe = (part("axe-core").path / "axe.min.js").read_text(encoding="utf-8")
    for scheme in ("light", "dark"):
        context = await browser.new_context(color_scheme=scheme)
        page = await context.new_page()
        for path, ready in (("/", ".card"), ("/race", ".lane"), ("/demo", "#suggestions button")):
            await page.goto(f"http://{four['sse'].address}{path}")
            await expect(page.locator(ready).first).to_be_visible()
            await page.evaluate(axe)
            assert await serious(page) == [], (path, scheme)
            if path == "/race":
                await page.fill("#prompt", "/tokens 5 hello")
                await page.click("#go")
                await expect(page.locator("#go")).to_be_enabled(timeout=30_000)
            elif path == "/demo":
                await page.click("#frames-toggle")
                await say(page, "/tokens 60 Show me some code, please.")
            assert await serious(page) == [], (path, scheme, "after use")
        await context.close()


@pytest.mark.parametrize(("word", "path", "scheme"), [("rest", "/chat", "light"), ("sse", "/chat/stream", "dark")])
async def test_the_documentation_page(
    browser: Browser, four: dict[str, Server], word: str, path: str, scheme: Any
) -> None:
    """Swagger UI as it opens, with all operations open, and after "Execute": the answer is 200, and axe-core finds nothing."""
    axe = (part("axe-core").path / "axe.min.js").read_text(encoding="utf-8")
    page = await open_page(browser, four[word], "/docs")
    await page.emulate_media(color_scheme=scheme)
    operation = page.locator(".opblock", has=page.locator(f".opblock-summary-path[data-path='{path}']"))
    await expect(operation).to_be_visible()
    await page.evaluate(axe)
    assert await serious(page, "moderate") == []
    dark = "getComputedStyle(document.querySelector('.swagger-ui')).backgroundColor"
    assert (await page.evaluate(dark) == "rgb(28, 32, 34)") is (scheme == "dark")
    await operation.locator(".opblock-summary-control").click()
    await operation.locator(".try-out__btn").click()
    assert await serious(page, "moderate") == []
    await operation.locator(".execute").click()
    await expect(operation.locator(".live-responses-table tbody .response-col_status")).to_have_text(re.compile("200"))
    assert await serious(page, "moderate") == []
    for heading in ("Schema", "Example Value"):
        await operation.locator("button.tablinks", has_text=heading).first.click()
        assert await serious(page, "moderate") == [], heading
    await clean(page)
    await shot(page, f"docs-{word}")
    await page.set_viewport_size({"width": 390, "height": 844})
    assert await page.evaluate(SIDEWAYS) == 0
    await shot(page, f"docs-{word}-telephone")
    await page.evaluate(
        "document.querySelectorAll('.opblock:not(.is-open) .opblock-summary-control').forEach(e => e.click())"
    )
    assert await serious(page, "moderate") == [], "all operations open"


async def test_the_landing_page_has_five_cards_with_commands_that_work(
    browser: Browser, four: dict[str, Server]
) -> None:
    page = await open_page(browser, four["sse"], "/")
    await expect(page.locator(".card")).to_have_count(5)
    await expect(page.locator(".card .dot.good")).to_have_count(4)
    grpc = page.locator(".card[data-word=grpc]")
    await expect(grpc).to_contain_text("not running")
    await expect(grpc).to_contain_text("python -m protocols serve grpc")
    assert [await page.locator(f"header nav a >> nth={n}").get_attribute("href") for n in range(3)] == [
        "/race",
        "/demo",
        "/docs",
    ]
    await clean(page)
    await shot(page, "landing")
    curl = part("curl").path
    wanted = {
        "rest": b'"text":"Hello',
        "ndjson": b'{"type":"turn_started"',
        "sse": b"event: turn_started",
        "websocket": b'"connected"',
    }
    for word, expected in wanted.items():
        command = await page.locator(f".card[data-word={word}] code.command").inner_text()
        _, *arguments = shlex.split(command)
        process = await asyncio.create_subprocess_exec(
            curl, "--silent", "--noproxy", "*", *arguments, stdout=asyncio.subprocess.PIPE
        )
        shown, _ = await process.communicate()
        assert expected in shown, (word, shown[:300])
    # A server that ends is seen to end.
    await four["rest"].stop()
    await expect(page.locator(".card[data-word=rest]")).to_contain_text("not running")


async def test_on_a_telephone_in_the_dark(browser: Browser, four: dict[str, Server]) -> None:
    """The message box is in reach before and after an answer, sessions are a drawer, frames a sheet; nothing scrolls sideways."""
    page = await on_a_telephone(browser, four["sse"], "/demo", "dark")
    await expect(page.locator("#state")).to_have_text("ready")
    for asked in (False, True):
        if asked:
            await page.click("#suggestions button >> nth=2")
            await said(page, 20)
            await expect(page.locator("#stop")).to_be_in_viewport(ratio=1)
            await done(page)
        for name in ("#text", "#send", "#stop"):
            await expect(page.locator(name)).to_be_in_viewport(ratio=1)
        assert await page.evaluate(SIDEWAYS) == 0
    await expect(page.locator("#transports a").last).to_be_in_viewport(ratio=1)
    await shot(page, "telephone")
    await expect(page.locator("#side")).to_be_hidden()
    await page.click("#sessions-toggle")
    await expect(page.locator("#sessions button[aria-current=true]")).to_contain_text("Show me some code, please.")
    await page.click("#sessions button[aria-current=true]")
    await expect(page.locator("#side")).to_be_hidden()
    await page.click("#frames-toggle")
    # What came before the sheet was opened is in it, in parts.
    await expect(page.locator("#frames .part-text").last).to_be_in_viewport()
    assert await page.locator("#frames .part-framing").count() > 10
    await shot(page, "telephone-frames")
    await page.click("#frames-close")
    await expect(page.locator("#drawer")).to_be_hidden()
    for path in ("/", "/race"):
        await page.goto(f"http://{four['sse'].address}{path}")
        await expect(page.locator(".card, .lane").first).to_be_visible()
        assert await page.evaluate(SIDEWAYS) == 0
        await shot(page, f"telephone{path.replace('/', '-')}")
    await page.context.close()


async def test_a_picture_is_in_sight_and_the_numbers_are_of_it(browser: Browser, store: dict[str, str]) -> None:
    async with serving("rest", env=store | {"OFFLINE_TOKENS_PER_S": "0"}) as server:
        page = await open_page(browser, server)
        await say(page, "Show me some code, please.")
        await say(page, "Show me some code, please.")
        # Beside the drawer the messages are narrower and taller; the end of the newest one stays in sight.
        await page.click("#frames-toggle")
        assert await page.evaluate(BELOW) < 2
        await page.check("#picture")
        await say(page, "a red bridge")
        await expect(page.locator("#messages img")).to_be_in_viewport(ratio=0.6)
        await expect(page.locator("#numbers")).to_contain_text("picture · total")
        await expect(page.locator("#frames .part-base64 summary")).to_contain_text("characters of base64")
        shown = await page.locator("#frames").inner_text()
        assert len(shown) < 20_000, "the base64 is not folded"


async def test_the_same_session_over_another_transport(browser: Browser, four: dict[str, Server]) -> None:
    page = await open_page(browser, four["rest"])
    await say(page, "My name is Ada.")
    await expect(page.locator("#transports a")).to_have_text(["REST", "NDJSON", "SSE", "WebSocket"])
    await page.click("#transports a >> text=WebSocket")
    await expect(page.locator("#title")).to_have_text("WebSocket")
    await expect(page.locator("#messages li.model")).to_have_count(1)
    await say(page, "What is my name?")
    await expect(page.locator("#messages li.model").last).to_contain_text("Your name is Ada")


async def test_a_server_alone_says_how_to_start_the_others(browser: Browser, four: dict[str, Server]) -> None:
    async def only_this(route: Route) -> None:
        servers = (await (await route.fetch()).json())["servers"]
        await route.fulfill(json={"servers": [one for one in servers if one["word"] == "rest"]})

    page = await browser.new_page()
    await page.route("**/web/servers.json", only_this)
    await page.goto(f"http://{four['rest'].address}/demo")
    await expect(page.locator("#alone")).to_contain_text("python -m protocols serve all")
    await expect(page.locator("#together")).to_be_hidden()
    await page.unroute("**/web/servers.json")
    await page.reload()
    await expect(page.locator("#together")).to_be_visible()
    await expect(page.locator("#alone")).to_be_hidden()


def test_one_source_of_colours() -> None:
    """The pages and the report read the same file."""
    assert {"rest", "rest-poll", "ndjson", "sse", "websocket", "grpc"} <= LANE_COLOURS.keys()
    assert all(light.startswith("#") and dark.startswith("#") for light, dark in LANE_COLOURS.values())
