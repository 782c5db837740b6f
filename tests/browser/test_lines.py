"""Lines that break while a page reads: dead without a sign, refused for a while, answered by a gateway."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Request, Route, WebSocketRoute, async_playwright, expect

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from protocols.ports import free_port
from protocols.processes import Server, serving
from tests.browser.chat import FLAGS, WORDS, done, open_page, said, say, stored, texts
from tests.parts import part

SLOW = {"OFFLINE_TOKENS_PER_S": "40"}
WAKE = "dispatchEvent(new Event('online'))"
REFUSALS = {"shutting_down": 503, "storage_unavailable": 503, "too_many_streams": 429}


def problem(code: str, status: int) -> dict[str, Any]:
    """An error as the server sends it (RFC 9457)."""
    body = {"type": "about:blank", "title": code, "status": status, "detail": f"Refused: {code}.", "code": code}
    return {"status": status, "content_type": "application/problem+json", "body": json.dumps(body)}


@asynccontextmanager
async def behind_a_relay(browser: Browser, word: str, env: dict[str, str]) -> AsyncIterator[tuple[Page, Relay, Server]]:
    """The chat page through a relay, and the server behind it."""
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    async with (
        serving(word, env=env | {"ALLOWED_ORIGINS": origin}) as server,
        Relay(server.address, Faults(), port=port) as relay,
    ):
        page = await browser.new_page()
        page.set_default_timeout(30_000)
        await page.goto(f"{origin}/demo")
        await expect(page.locator("#state")).to_have_text("ready")
        yield page, relay, server


async def whole(page: Page, server: Server) -> None:
    """The page shows the whole answer, once."""
    await done(page)
    assert await page.locator("#messages .meta", has_text="checksum OK").count() == 1
    await page.check("#raw")
    assert await texts(page, "model") == await stored(server)


async def ask(page: Page, word: str) -> None:
    """Ask for an answer of three seconds, and wait until the page shows its beginning; REST shows none."""
    await say(page, "/tokens 120 hello", wait=False)
    if word == "rest":
        await expect(page.locator("#cut")).to_be_enabled()
    else:
        await said(page, 60)


@pytest.mark.parametrize("word", WORDS)
async def test_a_line_that_dies_without_a_word_is_noticed(browser: Browser, store: dict[str, str], word: str) -> None:
    async with behind_a_relay(browser, word, store | SLOW | {"HEARTBEAT_S": "1"}) as (page, relay, server):
        await ask(page, word)
        relay.discard()
        await whole(page, server)
        lost = await page.locator("li.seam").first.inner_text()
        assert "nothing came for " in lost, lost


async def test_a_page_on_a_socket_asks_over_no_dead_connection(browser: Browser, store: dict[str, str]) -> None:
    """The browser keeps idle HTTP connections that died with the socket; what the page asks after it has joined again arrives."""
    async with behind_a_relay(browser, "websocket", store | SLOW | {"HEARTBEAT_S": "1"}) as (page, relay, server):
        await ask(page, "websocket")
        async with page.expect_response("**/messages") as messages:
            relay.discard()
            await whole(page, server)
        assert (await messages.value).ok
        assert await page.locator("#error").is_hidden()


@pytest.mark.parametrize("word", WORDS)
async def test_a_page_that_wakes_looks_at_once(browser: Browser, store: dict[str, str], word: str) -> None:
    """With heartbeats of five minutes, only the waking page finds the dead line."""
    async with behind_a_relay(browser, word, store | SLOW | {"HEARTBEAT_S": "300"}) as (page, relay, server):
        await ask(page, word)
        relay.discard()
        await page.evaluate(WAKE)
        await whole(page, server)


@pytest.mark.parametrize("word", ["ndjson", "sse", "websocket"])
async def test_a_page_that_wakes_keeps_a_line_that_lives(browser: Browser, store: dict[str, str], word: str) -> None:
    async with serving(word, env=store | SLOW) as server:
        page = await open_page(browser, server)
        await ask(page, word)
        for _ in range(3):
            await page.evaluate(WAKE)
        await whole(page, server)
        assert await page.locator("li.seam").count() == 0


@pytest.mark.parametrize("word", WORDS)
async def test_a_silent_model_is_no_dead_line(browser: Browser, store: dict[str, str], word: str) -> None:
    """Heartbeats, pongs and a look at the turn show that the line lives.

    On REST the page repeats the request with the key.
    """
    async with serving(word, env=store | {"HEARTBEAT_S": "0.3", "OFFLINE_TOKENS_PER_S": "0"}) as server:
        page = await open_page(browser, server)
        await say(page, "/tokens 6 /stall 2 hello")
        await whole(page, server)
        seams = await page.locator("li.seam").all_inner_texts()
        assert bool(seams) == (word == "rest"), seams


@pytest.mark.parametrize(("word", "status"), [("rest", 502), ("ndjson", 503), ("sse", 504)])
async def test_a_gateways_error_is_a_lost_line(browser: Browser, store: dict[str, str], word: str, status: int) -> None:
    """A gateway that does not reach the server answers HTML.

    The page repeats the request with its key, so the turn runs once.
    """
    keys: list[str] = []

    async def gateway(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > 2:
            await route.continue_()
        else:
            await route.fulfill(status=status, content_type="text/html", body="<h1>Bad Gateway</h1>")

    async with serving(word, env=store) as server:
        page = await open_page(browser, server)
        await page.route({"rest": "**/chat", "ndjson": "**/chat/stream", "sse": "**/turns"}[word], gateway)
        await say(page, "/tokens 5 hello")
        await whole(page, server)
        assert len(keys) == 3
        assert len(set(keys)) == 1
        assert f"a gateway answered {status}" in await page.locator("li.seam").first.inner_text()


async def test_refusals_that_pass_are_retried_after_a_lost_line(browser: Browser, store: dict[str, str]) -> None:
    refusals = list(REFUSALS)

    async def busy(route: Route) -> None:
        if refusals:
            code = refusals.pop(0)
            await route.fulfill(**problem(code, REFUSALS[code]))
        else:
            await route.continue_()

    async with serving("ndjson", env=store | SLOW) as server:
        page = await open_page(browser, server)
        await ask(page, "ndjson")
        await page.route("**/turns/*/stream?after=*", busy)
        await page.click("#cut")
        await whole(page, server)
        assert refusals == []


async def test_a_first_refusal_is_shown_and_not_retried(browser: Browser, store: dict[str, str]) -> None:
    asked: list[Request] = []

    async def busy(route: Route) -> None:
        asked.append(route.request)
        await route.fulfill(**problem("too_many_streams", 429))

    async with serving("ndjson", env=store) as server:
        page = await open_page(browser, server)
        await page.route("**/chat/stream", busy)
        await say(page, "hello", wait=False)
        await expect(page.locator("#error")).to_have_text("too_many_streams: Refused: too_many_streams.")
        assert len(asked) == 1


async def refuse_on_the_socket(page: Page, kind: str, codes: list[str]) -> None:
    """Answer the page's first messages of one kind with one of these errors each; pass the later messages on."""

    def connect(page_side: WebSocketRoute) -> None:
        server_side = page_side.connect_to_server()

        def from_page(data: str | bytes) -> None:
            message = json.loads(data)
            if message["type"] == kind and codes:
                error = {"type": "error", "code": codes.pop(0), "message": "Not now.", "retryable": False}
                page_side.send(json.dumps(error | {"request_id": message.get("request_id")}))
            else:
                server_side.send(data)

        page_side.on_message(from_page)

    await page.route_web_socket("**/ws", connect)


@asynccontextmanager
async def socket_page(browser: Browser, store: dict[str, str], kind: str, codes: list[str]) -> AsyncIterator[Page]:
    async with serving("websocket", env=store | SLOW) as server:
        context = await browser.new_context()
        page = await context.new_page()
        await refuse_on_the_socket(page, kind, codes)
        await page.goto(f"http://{server.address}/demo")
        await expect(page.locator("#state")).to_have_text("ready")
        yield page


async def test_a_refused_resume_is_shown(browser: Browser, store: dict[str, str]) -> None:
    async with socket_page(browser, store, "resume", ["turn_expired"]) as page:
        await ask(page, "websocket")
        await page.click("#cut")
        await expect(page.locator("#error")).to_have_text("turn_expired: Not now.")
        await expect(page.locator("#send")).to_be_enabled()


async def test_a_resume_that_is_refused_for_a_while_is_retried(browser: Browser, store: dict[str, str]) -> None:
    async with socket_page(browser, store, "resume", ["too_many_streams", "storage_unavailable"]) as page:
        await ask(page, "websocket")
        await page.click("#cut")
        await done(page)
        await expect(page.locator("#messages .meta", has_text="checksum OK")).to_have_count(1)


async def test_a_turn_that_the_store_refuses_is_resumed(browser: Browser, store: dict[str, str]) -> None:
    """The server ends the stream of a running turn with ``storage_unavailable``, which names the request of the turn."""
    asked: list[str] = []

    def connect(page_side: WebSocketRoute) -> None:
        server_side = page_side.connect_to_server()
        refused = resumed = False

        def from_page(data: str | bytes) -> None:
            message = json.loads(data)
            asked.append(message["type"])
            server_side.send(data)

        def from_server(data: str | bytes) -> None:
            nonlocal refused, resumed
            event = json.loads(data)
            resumed = resumed or event["type"] == "resumed"
            if refused and not resumed and "seq" in event:
                return  # A stream that the server has ended sends no more events; this server goes on with it.
            page_side.send(data)
            if event.get("seq") == 20 and asked.count("chat") == 1 and not refused:
                refused = True
                error = {"type": "error", "code": "storage_unavailable", "message": "Not now.", "retryable": True}
                page_side.send(json.dumps(error | {"request_id": started["request_id"]}))
            elif event["type"] == "turn_started":
                started.update(event)

        started: dict[str, Any] = {}
        page_side.on_message(from_page)
        server_side.on_message(from_server)

    async with serving("websocket", env=store | SLOW) as server:
        page = await browser.new_page()
        await page.route_web_socket("**/ws", connect)
        await page.goto(f"http://{server.address}/demo")
        await expect(page.locator("#state")).to_have_text("ready")
        await ask(page, "websocket")
        await whole(page, server)
        assert await page.locator("li.seam").first.inner_text() == "line lost after event 20: Not now."
        assert asked.count("resume") == 1
        assert await page.locator("#error").is_hidden()


async def test_a_refused_join_is_shown(browser: Browser, store: dict[str, str]) -> None:
    async with socket_page(browser, store, "join_session", ["session_not_found"]) as page:
        await page.click("#new")
        await expect(page.locator("#error")).to_have_text("session_not_found: Not now.")


async def test_a_page_joins_again_after_a_lost_line(browser: Browser, store: dict[str, str]) -> None:
    """After two refusals the page joins, and shows the messages that came meanwhile and those that come then."""
    codes: list[str] = []
    async with socket_page(browser, store, "join_session", codes) as page:
        await say(page, "My name is Ada.")
        other = await page.context.new_page()
        await other.goto(page.url)
        await other.click("#sessions button")
        await expect(other.locator("#messages li.model")).to_have_count(1)
        codes += ["too_many_streams", "shutting_down"]
        async with page.expect_websocket():
            await page.evaluate("document.getElementById('cut').disabled = false")
            await page.click("#cut")
            await say(other, "What is my name?")
        await expect(page.locator("#messages li.model")).to_have_count(2)
        await expect(page.locator("#state")).to_have_text("ready")
        assert codes == []
        await say(other, "Show me some code, please.")
        await expect(page.locator("#messages li.model")).to_have_count(3)
        assert await texts(page, "model") == await texts(other, "model")


# A WebSocket whose events the test chooses: the close of the first one comes after the second one is open.
OLD_SOCKET = """async () => {
  const sockets = [];
  window.WebSocket = class extends EventTarget {
    static OPEN = 1;
    constructor() { super(); this.readyState = 1; this.sent = []; sockets.push(this); }
    send(text) { this.sent.push(JSON.parse(text)); }
    close() { this.readyState = 2; }
    say(message) { this.dispatchEvent(new MessageEvent("message", { data: JSON.stringify(message) })); }
    gone() { this.readyState = 3; this.dispatchEvent(new CloseEvent("close", { code: 1006 })); }
  };
  const { Wire } = await import("/web/wires/websocket.js");
  const { Api } = await import("/web/api.js");
  const wire = new Wire(new Api(), () => {});
  const first = wire.chat({ message: "one" }, "key-1").next().catch((error) => error.message);
  sockets[0].say({ type: "connected" });
  await new Promise((resolve) => setTimeout(resolve));
  wire.cut();
  const second = wire.chat({ message: "two" }, "key-2").next().catch((error) => error.message);
  sockets[1].say({ type: "connected" });
  await new Promise((resolve) => setTimeout(resolve));
  sockets[0].gone();
  sockets[1].say({ type: "turn_started", turn_id: "t", seq: 1, request_id: "key-2" });
  return [await first, (await second).value?.turn_id ?? await second];
}"""


async def test_an_old_sockets_close_does_not_touch_the_new_one(browser: Browser, store: dict[str, str]) -> None:
    async with serving("websocket", env=store) as server:
        page = await open_page(browser, server, "/race")
        first, second = await page.evaluate(OLD_SOCKET)
    assert isinstance(first, str)
    assert second == "t"


async def test_what_may_not_have_arrived_is_sent_again_with_its_key(browser: Browser, store: dict[str, str]) -> None:
    """The page gives up after half a minute.

    The message is in the box again, and the model runs once although it is sent again.
    """
    keys: list[str] = []

    async def away(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        await route.abort()

    async with serving("ndjson", env=store) as server:
        page = await browser.new_page()
        await page.clock.install()
        await page.goto(f"http://{server.address}/demo")
        await page.clock.run_for(1000)
        await expect(page.locator("#state")).to_have_text("ready")
        await page.route("**/chat/stream", away)
        await say(page, "hello", wait=False)
        for _ in range(40):
            await page.clock.run_for(2000)
            if await page.locator("#error").is_visible():
                break
        await expect(page.locator("#error")).to_have_text("the connection broke")
        assert await page.input_value("#text") == "hello"
        tried = len(keys)
        assert tried > 5
        await page.unroute("**/chat/stream")
        async with page.expect_request("**/chat/stream") as again:
            await page.press("#text", "Enter")
        keys.append((await again.value).headers["idempotency-key"])
        assert len(set(keys)) == 1


async def test_a_page_on_plain_http_under_a_name(store: dict[str, str]) -> None:
    """On such a page the browser has no crypto.subtle, so the page computes the checksum itself."""
    port = free_port()
    origin = f"http://demo.test:{port}"
    arguments = [*FLAGS, "--host-resolver-rules=MAP demo.test 127.0.0.1"]
    async with async_playwright() as playwright, serving("sse", port=port, env=store | {"ALLOWED_ORIGINS": origin}):
        browser = await playwright.chromium.launch(executable_path=part("chromium").path, args=arguments)
        page = await browser.new_page()
        await page.goto(f"{origin}/demo")
        await expect(page.locator("#state")).to_have_text("ready")
        assert await page.evaluate("[isSecureContext, typeof crypto.subtle]") == [False, "undefined"]
        await say(page, "Show me some code, please.")
        await expect(page.locator("#messages .meta")).to_contain_text(["checksum OK"])
        digests = await page.evaluate(
            "async () => { const { sha256 } = await import('/web/sha256.js');"
            " return Promise.all(Array.from({ length: 200 }, (_, size) => sha256('é'.repeat(size)))); }"
        )
        await browser.close()
    assert digests == [hashlib.sha256(("é" * size).encode()).hexdigest() for size in range(200)]


async def test_with_a_key_the_page_hides_the_cut_button(browser: Browser, store: dict[str, str]) -> None:
    async with serving("sse", env=store | {"API_SECRET_KEY": "open-sesame"}) as server:
        for path in ("/demo", "/race"):
            page = await browser.new_page()
            await page.goto(f"http://{server.address}{path}")
            await expect(page.locator("#cut")).to_be_hidden()
