"""report.html in real Chromium: on a telephone, its axes, its guide, and its print."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, expect

from compare.showing.report import write
from tests.browser.chat import shot
from tests.test_guide import made_up


async def test_the_report_on_a_telephone(browser: Browser, tmp_path: Path) -> None:
    write(tmp_path, made_up(), [], [])
    page = await browser.new_page(viewport={"width": 390, "height": 844})
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    await page.goto((tmp_path / "report.html").as_uri())
    await expect(page.locator("#verdict .take")).to_have_text("Take sse.")
    assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    figure = page.locator("figure", has=page.locator("h3", has_text="First token"))
    await expect(figure.locator("svg")).to_contain_text("ms (linear)")
    widths = await figure.locator("rect").evaluate_all("all => all.map((one) => one.getBoundingClientRect().width)")
    assert 40 < widths[0] / widths[1] < 60, "385 ms is 49 times 7.8 ms"
    await page.check("#needs label:has-text('both sides speak at once') input")
    await expect(page.locator("#verdict .take")).to_contain_text("Take websocket")
    gaps = page.locator("#tables details", has_text="Behind nginx").locator("td.together")
    assert await gaps.count() == 2
    assert await page.locator("td.best", has_text="0.01").count() == 0
    await page.emulate_media(media="print")
    await expect(page.locator("#needs")).to_be_hidden()
    await shot(page, "report-telephone")
    assert failed == []
