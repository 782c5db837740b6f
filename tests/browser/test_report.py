"""report.html in real Chromium: on a telephone, its axes, its guide, and its print."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, expect

from compare.showing.report import write
from tests.browser.chat import shot
from tests.browser.test_look import serious
from tests.parts import part
from tests.test_numbers import with_loads


async def test_the_report_on_a_telephone(browser: Browser, tmp_path: Path) -> None:
    write(tmp_path, with_loads(), [], [])
    page = await browser.new_page(viewport={"width": 390, "height": 844})
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    await page.goto((tmp_path / "report.html").as_uri())
    await expect(page.locator("#verdict .take")).to_have_text("Take Server-Sent Events.")
    assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    figure = page.locator("figure", has=page.locator("h3", has_text="First token"))
    await expect(figure.locator("svg")).to_contain_text("ms (linear)")
    widths = await figure.locator("rect").evaluate_all("all => all.map((one) => one.getBoundingClientRect().width)")
    assert 40 < widths[0] / widths[1] < 60, "385 ms is 49 times 7.8 ms"
    await page.check("#needs label:has-text('both sides speak at once') input")
    await expect(page.locator("#verdict .take")).to_contain_text("Take WebSocket")
    first = page.locator("#computed tr", has_text="first token, ms").locator("td")
    before = await first.nth(3).inner_text()
    await page.get_by_label("round trip, ms").fill("280")
    assert float(await first.nth(3).inner_text()) == float(before) + 200
    await page.get_by_label("packets lost, %").fill("99")
    await expect(page.get_by_label("packets lost, %")).to_have_attribute("aria-invalid", "true")
    gaps = page.locator("#tables details", has_text="Behind nginx").locator("td.together")
    assert await gaps.count() == 2
    assert await page.locator("td.best", has_text="0.01").count() == 0
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await page.evaluate((part("axe-core").path / "axe.min.js").read_text(encoding="utf-8"))
        assert await serious(page) == [], scheme
    await page.emulate_media(media="print")
    # A sheet of A4 is as wide as this.
    await page.set_viewport_size({"width": 794, "height": 1123})
    assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    await expect(page.locator("#needs")).to_be_hidden()
    # Every table is printed, also those that are folded on the screen, and the legend keeps its colours.
    tables = page.locator("#tables details table")
    assert await tables.count() > 5
    assert await tables.evaluate_all("all => all.every((one) => one.checkVisibility({ contentVisibilityAuto: true }))")
    swatch = page.locator("#legend i").first
    assert await swatch.evaluate("one => getComputedStyle(one).printColorAdjust") == "exact"
    await shot(page, "report-telephone")
    assert failed == []
