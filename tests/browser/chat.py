"""What the browser's tests share: Chromium, the chat page, and what a test says and reads on it."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, Page, expect

from protocols.processes import Server
from tests.conftest import until

WORDS = ("rest", "ndjson", "sse", "websocket")
ARTEFACTS = Path(__file__).parents[1] / "artefacts"
# The flags without which Chromium needs a sandbox of its own, or asks hosts of its maker at every start.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What a hostile text would do if it ran, and what the policy would report if it tried.
WITNESS = """
window.__ran = []; window.__reports = [];
window.alert = (what) => window.__ran.push(String(what));
document.addEventListener("securitypolicyviolation", (event) =>
  window.__reports.push(event.violatedDirective + " " + event.blockedURI));
"""


async def open_page(browser: Browser, server: Server, path: str = "/demo") -> Page:
    page = await browser.new_page(viewport={"width": 1200, "height": 800})
    await page.add_init_script(WITNESS)
    page.set_default_timeout(20_000)
    await page.goto(f"http://{server.address}{path}")
    if path == "/demo":
        await expect(page.locator("#state")).to_have_text("ready")
    return page


async def say(page: Page, text: str, *, wait: bool = True) -> None:
    await page.fill("#text", text)
    await page.press("#text", "Enter")
    if wait:
        await done(page)


async def done(page: Page) -> None:
    await expect(page.locator("#state")).to_have_text("ready")
    await expect(page.locator("#send")).to_be_enabled()


async def said(page: Page, characters: int) -> None:
    """Wait until so many characters of an answer are shown."""
    length = "(document.querySelector('#messages li.model .text')?.textContent ?? '').length"
    await until(lambda: page.evaluate(f"{length} > {characters}"))


async def texts(page: Page, role: str) -> list[str]:
    bodies = page.locator(f"#messages li.{role} > .text")
    shown: list[str] = await bodies.evaluate_all("all => all.map((one) => one.textContent)")
    return shown


async def clean(page: Page) -> None:
    """Nothing ran, and the policy had nothing to report."""
    assert await page.evaluate("window.__ran") == []
    assert await page.evaluate("window.__reports") == []


async def shot(page: Page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    await page.screenshot(path=ARTEFACTS / f"{name}.png")


async def stored(server: Server) -> list[str]:
    """What the model said in the newest session, as the store has it."""
    async with server.client() as client:
        session = (await client.list_sessions()).sessions[0]
        return [message.text for message in await client.list_messages(session.session_id) if message.role == "model"]
