"""A power cut takes the end of what the pages show: they drop it, and show what is stored. The race page has every wire."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from protocols.ports import free_port
from tests.browser.chat import ARTEFACTS, WORDS, clean, done, open_page, said, say
from tests.conftest import until
from tests.parts import part
from tests.power_cut import machine

SPEED = {"OFFLINE_TOKENS_PER_S": "25", "LEASE_S": "1", "HEARTBEAT_S": "5"}
# A plain EventSource without the page's script: the messages that it got, and the cursor of each message.
NATIVE = """async () => {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ message: "/tokens 5000 hello" });
  const turn = await (await fetch("/turns", { method: "POST", headers, body })).json();
  window.told = [];
  const source = new EventSource(`/turns/${turn.turn_id}/stream`);
  for (const type of ["turn_started", "chunk", "turn_interrupted", "cursor_lost"]) {
    source.addEventListener(type, ({ lastEventId }) => window.told.push([type, lastEventId.split("/")[1]]));
  }
  window.source = source;
}"""


async def test_the_chat_page_and_a_native_event_source(browser: Browser, tmp_path: Path) -> None:
    async with machine(tmp_path, {"sse": 0}, **SPEED) as cut:
        chat = await open_page(browser, cut.servers["sse"])
        native = await browser.new_page()
        await native.goto(f"http://{cut.servers['sse'].address}/health")
        await native.evaluate(NATIVE)
        await say(chat, "/tokens 5000 hello", wait=False)
        await said(chat, 60)
        await until(lambda: native.evaluate("window.told.length > 10"))
        await asyncio.to_thread(cut.remember)
        more = await chat.evaluate("document.querySelector('#messages li.model .text').textContent.length") + 60
        events = await native.evaluate("window.told.length") + 10
        await said(chat, more)
        await until(lambda: native.evaluate(f"window.told.length > {events}"))
        await cut.cut_power()

        await done(chat)
        assert await chat.locator("li.seam", has_text="the store lost").count() == 1
        # The page has compared the shown text with the sha256 of the stored reply.
        assert "checksum OK" in await chat.locator("#messages li.model .meta").inner_text()
        await clean(chat)

        await until(lambda: native.evaluate("window.source.readyState === EventSource.CLOSED"))
        told: list[Any] = await native.evaluate("window.told")
        at = [name for name, _ in told].index("cursor_lost")
        before, lost, again = told[:at], told[at], told[at + 1 :]
        assert lost == ["cursor_lost", "0"]
        assert [cursor for _, cursor in before] == [str(seq) for seq in range(1, at + 1)]
        last = len(again)
        assert again[-1] == ["turn_interrupted", f"{last}.1"]
        assert [cursor for _, cursor in again[:-1]] == [str(seq) for seq in range(1, last)]
        assert last <= at


async def test_every_lane_of_the_race(browser: Browser, tmp_path: Path) -> None:
    part("connectrpc")
    names = (*WORDS, "grpc", "grpc_web")
    ports = {name: free_port() for name in names}
    env = {f"{name.upper()}_PORT": str(port) for name, port in ports.items()}
    words = {word: ports[word] for word in (*WORDS, "grpc")}
    async with machine(tmp_path, words, **env, **SPEED) as cut:
        race = await open_page(browser, cut.servers["ndjson"], "/race")
        await expect(race.locator("#state")).to_have_text("6 of 6 lanes have a server")
        await race.fill("#prompt", "/tokens 5000 race")
        await race.click("#go")

        async def all_show(characters: int) -> bool:
            """Whether every lane but that of plain REST shows this many characters."""
            lanes = "[...document.querySelectorAll('.lane .reply')].slice(1)"
            return bool(await race.evaluate(f"{lanes}.every((one) => one.textContent.length > {characters})"))

        await until(lambda: all_show(60))
        await asyncio.to_thread(cut.remember)
        longest = "Math.max(...[...document.querySelectorAll('.lane .reply')].map((one) => one.textContent.length))"
        more = await race.evaluate(longest) + 60
        await until(lambda: all_show(more))
        await cut.cut_power()
        await expect(race.locator("#go")).to_be_enabled(timeout=60_000)
        await race.screenshot(path=ARTEFACTS / "race-power-cut.png", full_page=True)
        assert await race.locator(".lane dd", has_text="complete, checksum OK").count() == 6
        await clean(race)
