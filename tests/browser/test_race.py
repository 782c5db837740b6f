"""The race page in real Chromium: lanes, chart, verdict, a run as a link and as a picture, and the relays behind the buttons."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace

from playwright.async_api import Browser, Page, expect

from compare.lines.relay import Relay
from compare.page import FAULTS
from protocols import TRANSPORTS
from protocols.processes import Server
from shared.server.context import RELAYS, Neighbour
from tests.browser.chat import ARTEFACTS, clean, open_page
from tests.conftest import until

LANES = ("rest", "rest-poll", "ndjson", "sse", "websocket", "grpc-web")


async def run(page: Page, prompt: str = "") -> None:
    """Press the button, and wait until every lane has ended."""
    if prompt:
        await page.fill("#prompt", prompt)
    await page.click("#go")
    await expect(page.locator("#go")).to_be_enabled(timeout=60_000)


def test_the_page_says_what_each_relay_does() -> None:
    assert FAULTS.keys() == RELAYS.keys()


async def test_the_race_ends_with_six_equal_texts(browser: Browser, five: dict[str, Server]) -> None:
    page = await open_page(browser, five["sse"], "/race")
    await expect(page.locator("#state")).to_have_text("6 of 6 lanes have a server")
    # A server alone has no relays: no buttons, but the command that starts them.
    await expect(page.locator("#paths")).to_be_hidden()
    await expect(page.locator("#path-note")).to_contain_text("python -m compare page")
    await page.click("#go")
    await until(lambda: page.evaluate("document.querySelectorAll('.lane .reply')[3].textContent.length > 80"))
    # The chart stands above the lanes and is drawn while it runs.
    assert await page.evaluate("document.querySelectorAll('#chart [data-word=sse] rect').length") > 3
    tops = await page.evaluate(
        "['chart', 'lanes'].map((id) => document.getElementById(id).getBoundingClientRect().top)"
    )
    assert tops[0] < tops[1]
    await page.click("#cut")
    await expect(page.locator("#go")).to_be_enabled(timeout=30_000)
    replies = await page.locator(".lane .reply").evaluate_all("all => all.map((one) => one.textContent)")
    assert len(replies) == 6
    assert len(set(replies)) == 1
    assert len(replies[0]) > 200
    assert await page.locator(".lane .reply pre code .keyword").count() > 0, "the Markdown is not rendered"
    heights = await page.locator(".lane").evaluate_all(
        "all => all.map((one) => Math.round(one.getBoundingClientRect().height))"
    )
    assert len(set(heights)) == 1
    assert await page.locator(".lane dd", has_text="complete, checksum OK").count() == 6
    verdict = await page.locator("#verdict").inner_text()
    assert verdict.startswith("All 6 lanes brought the same text; ")
    assert "lost the connection, came back, and showed nothing twice" in verdict
    assert "REST showed nothing before" in verdict
    assert verdict.count(". ") == 0, "one sentence"
    ticks = await page.locator("#chart text.middle").evaluate_all(
        "all => all.slice(0, -1).map((one) => Number(one.textContent))"
    )
    step = round(ticks[1] - ticks[0], 6)
    assert str(step).strip("0.")[0] in "125", ticks
    await page.screenshot(path=ARTEFACTS / "race.png", full_page=True)
    await clean(page)


async def test_bytes_are_split_by_what_they_are_for(browser: Browser, five: dict[str, Server]) -> None:
    page = await open_page(browser, five["ndjson"], "/race")
    await run(page, "/tokens 20 hello")
    found = {}
    for lane in LANES:
        said = await page.locator(f".lane[data-word={lane}] .key").inner_text()
        numbers = [int(digits.replace(",", "")) for digits in re.findall(r"[\d,]*\d", said)]
        assert numbers[0] == sum(numbers[1:]), said
        found[lane] = numbers
    text = {numbers[1] for lane, numbers in found.items() if lane != "rest"}
    assert len(text) == 1, "the same text on every streaming lane"
    # A whole reply has its text once and fields once; SSE has the most framing, NDJSON one byte an event.
    assert found["rest"][2] < found["ndjson"][2]
    assert found["ndjson"][3] < found["websocket"][3] < found["sse"][3]


async def test_a_run_is_a_link_and_a_picture(browser: Browser, five: dict[str, Server]) -> None:
    page = await open_page(browser, five["sse"], "/race")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await run(page, "/tokens 12 né hello")
    await page.click("#link")
    await expect(page.locator("#link")).to_have_text("Copied")
    link = await page.evaluate("navigator.clipboard.readText()")
    assert len(link) < 2000
    await page.click("#image")
    await expect(page.locator("#image")).to_have_text("Copied")
    size = await page.evaluate(
        "(async () => { const [item] = await navigator.clipboard.read();"
        " const bitmap = await createImageBitmap(await item.getType('image/png')); return [bitmap.width, bitmap.height]; })()"
    )
    assert size[0] == 2400
    assert size[1] > 400
    await clean(page)
    other = await open_page(browser, five["rest"], "/race")
    await other.goto(link)
    await expect(other.locator("#verdict")).to_contain_text("All 6 lanes brought the same text")
    await expect(other.locator("#verdict")).to_contain_text("A recorded run, from the link.")
    assert await other.input_value("#prompt") == "/tokens 12 né hello"
    assert await other.locator("#chart [data-word=sse] rect").count() == 12
    broken = await open_page(browser, five["rest"], "/race#run=bm90IGEgcnVu")
    await expect(broken.locator("#verdict")).to_have_text("Nothing yet: press Race.")


async def test_the_relays_are_buttons(browser: Browser, five: dict[str, Server]) -> None:
    async with contextlib.AsyncExitStack() as relays:
        for word, server in five.items():
            target = server.page_url or server.address
            there = Neighbour(TRANSPORTS[word], int(target.rpartition(":")[2]), for_pages=True)
            for name, port in there.relay_ports.items():
                await relays.enter_async_context(Relay(target, replace(FAULTS[name], late_s=0.1), port=port))
        page = await open_page(browser, five["ndjson"], "/race")
        await expect(page.locator("#paths label")).to_have_text(["Straight", "Slow phone", "Buffering proxy", "Stalls"])
        for name in RELAYS:
            await page.check(f"#paths input[value={name}]")
            await run(page, "/tokens 10 hello")
            assert await page.locator(".lane dd", has_text="complete, checksum OK").count() == 6, name
        await expect(page.locator("#path-note")).to_contain_text("Through a relay that loses one packet in forty")
        await page.screenshot(path=ARTEFACTS / "race-stalls.png", full_page=True)
        await clean(page)
