"""Libraries that reconnect by themselves: after a cut each of them goes on where it stopped, and shows no event twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route

from protocols.processes import Server, serving
from tests.parts import TESTS, part

FOLDER = TESTS / "js_clients"
# Seq 1 to 42: the start, forty tokens, the end.
SEQS = list(range(1, 43))

NATIVE = """async () => {
  const post = (path, body) => fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const turn = await (await post("/turns", JSON.stringify({ message: "/tokens 40 hello" }))).json();
  const source = new EventSource(`/turns/${turn.turn_id}/stream`);
  const seqs = [];
  return new Promise((resolve) => {
    for (const type of ["turn_started", "chunk", "turn_completed"]) {
      source.addEventListener(type, ({ data }) => {
        const { seq } = JSON.parse(data);
        seqs.push(seq);
        if (seq === 15) post(`/turns/${turn.turn_id}/cut`);
        if (type === "turn_completed") { source.close(); resolve(seqs); }
      });
    }
  });
}"""

# The page's tab is hidden and shown again, upon which the library drops its request and repeats it; or the line is cut.
FETCH_EVENT_SOURCE = """async ([key, hide]) => {
  let hidden = false;
  Object.defineProperty(document, "hidden", { get: () => hidden });
  const flip = (on) => { hidden = on; document.dispatchEvent(new Event("visibilitychange")); };
  const { fetchEventSource } = await import("/library/index.js");
  const headers = { "Content-Type": "application/json" };
  if (key) headers["Idempotency-Key"] = key;
  const seqs = [], cursors = [], refused = [];
  let broken = false, ended = false;
  await fetchEventSource("/chat/stream", {
    method: "POST", headers, body: JSON.stringify({ message: "/tokens 40 hello" }),
    fetch: (url, options) => { cursors.push(options.headers["last-event-id"] ?? null); return fetch(url, options); },
    async onopen(response) {
      if (!response.ok) { refused.push((await response.json()).code); throw new Error("refused"); }
    },
    onmessage({ data }) {
      if (!data) return;
      const event = JSON.parse(data);
      seqs.push(event.seq);
      ended = event.type === "turn_completed";
      if (event.seq !== 15 || broken) return;
      broken = true;
      if (hide) { flip(true); setTimeout(() => flip(false), 50); }
      else fetch(`/turns/${event.turn_id}/cut`, { method: "POST" });
    },
    // To the library a stream that ends is a stream that is whole; its users throw where the last event is missing.
    onclose() { if (!ended) throw new Error("cut"); },
    onerror(error) { if (error.message === "refused") throw error; },
  }).catch(() => {});
  return { seqs, cursors: cursors.map((cursor) => cursor && Number(cursor.split("/")[1])), refused };
}"""


@pytest.fixture
async def server(store: dict[str, str]) -> AsyncIterator[Server]:
    async with serving("sse", env=store | {"OFFLINE_TOKENS_PER_S": "60"}) as running:
        yield running


@pytest.fixture
async def page(browser: Browser, server: Server) -> Page:
    """An empty page of the server, without the policy of the server's own pages."""
    page = await browser.new_page()
    await page.goto(f"http://{server.address}/health")
    return page


async def test_the_browsers_own_event_source(page: Page) -> None:
    assert await page.evaluate(NATIVE) == SEQS


@pytest.mark.parametrize("name", ["eventsource", "event-source-polyfill"])
async def test_event_sources_from_npm(server: Server, name: str) -> None:
    part(name)
    command = (str(part("node").path), "reconnect.mjs", f"http://{server.address}", name)
    process = await asyncio.create_subprocess_exec(*command, cwd=FOLDER, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert json.loads(said) == SEQS


async def fetch_event_source(page: Page, key: str | None, hide: bool) -> dict[str, Any]:
    """The events that the library gave to the page, the cursors that it sent, and the refusals that it got."""
    folder = part("fetch-event-source").path / "lib" / "esm"

    async def module(route: Route) -> None:
        name = route.request.url.rpartition("/")[2].removesuffix(".js")
        await route.fulfill(path=folder / f"{name}.js", content_type="text/javascript")

    await page.route("**/library/*", module)
    result: dict[str, Any] = await page.evaluate(FETCH_EVENT_SOURCE, [key, hide])
    return result


@pytest.mark.parametrize("hide", [True, False], ids=["hidden", "cut"])
async def test_fetch_event_source(page: Page, hide: bool) -> None:
    got = await fetch_event_source(page, "a-key-of-the-page", hide)
    assert got["seqs"] == SEQS
    assert len(got["cursors"]) == 2
    assert got["cursors"][1] >= 15
    assert got["refused"] == []


async def test_fetch_event_source_without_a_key_starts_no_second_turn(page: Page) -> None:
    """The server cannot know which request the POST repeats, so it refuses the POST and says what to send."""
    got = await fetch_event_source(page, None, hide=True)
    assert got["seqs"] == list(range(1, len(got["seqs"]) + 1))
    assert got["refused"] == ["invalid_request"]
