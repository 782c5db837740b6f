"""The two providers' chat APIs, with one table of scenarios for both."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from tests.emulators.odd import ODD
from tests.emulators.server import PROVIDER_TEXT, WRONG_KEY, Exchange
from tests.emulators.wire import TOKENS, AnyWire, GeminiWire, OpenAIWire, data_frame

GEMINI_MODELS = ("gemini-3.8-flash", "gemini-3.5-flash-lite")
WILD = ("e\u0301", " 👩‍👩‍👧‍👦", "\u2028", "\x85", "\r\n", "\t\n\n    ", "🇩🇪", "नमस्ते", ' "\\', "\x7f", "</s>", "データ")
PACE_S = 0.01
LONG = 2000

Scenario = Callable[[Exchange, AnyWire, int], Awaitable[None]]


async def _say(exchange: Exchange, wire: AnyWire, texts: list[str], pace_s: float = 0) -> None:
    for text in texts:
        await exchange.send(wire.text(text))
        if pace_s:
            await exchange.pause(pace_s)


async def _end(exchange: Exchange, wire: AnyWire, reason: str = "stop", usage: bool = True) -> None:
    for frame in wire.end(reason, usage):
        await exchange.send(frame)
    await exchange.finish()


async def _whole(exchange: Exchange, wire: AnyWire, texts: list[str], pace_s: float = 0) -> None:
    await exchange.start("text/event-stream")
    await _say(exchange, wire, texts, pace_s)
    await _end(exchange, wire)


async def plain(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A short reply; it says how many messages the request held."""
    await _whole(exchange, wire, [*TOKENS, f"{wire.messages} ", "messages"])


async def long(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """N (2,000) tokens as fast as they go."""
    await _whole(exchange, wire, [f"t{i} " for i in range(number or LONG)])


async def paced(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """N (50) tokens, 10 ms apart."""
    await _whole(exchange, wire, [f"t{i} " for i in range(number or 50)], PACE_S)


async def wild(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Text that breaks line readers, unescaped."""
    await _whole(exchange, wire, list(WILD))


async def empty(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Empty frames before, between and after the text."""
    await exchange.start("text/event-stream")
    for text in TOKENS:
        await exchange.send(wire.empty())
        await exchange.send(wire.text(text))
    await exchange.send(wire.empty())
    await _end(exchange, wire)


async def nothing(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A reply without any text."""
    await _whole(exchange, wire, [])


async def thoughts(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Thoughts before and among the text."""
    await exchange.start("text/event-stream")
    for text in TOKENS:
        await exchange.send(wire.thought("secret thought "))
        await exchange.send(wire.text(text))
    await _end(exchange, wire)


async def no_usage(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """No usage anywhere."""
    await exchange.start("text/event-stream")
    await _say(exchange, wire, list(TOKENS))
    await _end(exchange, wire, usage=False)


async def max_tokens(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A reply that ends for its length."""
    await exchange.start("text/event-stream")
    await _say(exchange, wire, list(TOKENS))
    await _end(exchange, wire, "length")


async def block_prompt(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The prompt is refused for safety."""
    await wire.block_prompt(exchange)


async def block_reply(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The reply is broken off for safety."""
    await exchange.start("text/event-stream")
    await _say(exchange, wire, list(TOKENS))
    await _end(exchange, wire, "safety")


async def status(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """HTTP status N instead of an answer."""
    body, headers = wire.error(number)
    await exchange.answer(number, body, headers)


async def limited(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """429 with a wait of N seconds; the second time a plain reply."""
    if exchange.again:
        return await plain(exchange, wire, 0)
    body, headers = wire.wait(number)
    return await exchange.answer(429, body, headers)


async def flaky(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """503 for the first N times, then a plain reply."""
    await (status(exchange, wire, 503) if exchange.again < number else plain(exchange, wire, 0))


async def error_frame(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A frame with error N (503) after four tokens."""
    await exchange.start("text/event-stream")
    await _say(exchange, wire, list(TOKENS))
    body, _ = wire.error(number or 503)
    await exchange.send(data_frame(body, "\n\n"))
    await exchange.finish()


async def garbage(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A frame that is not JSON after four tokens."""
    await exchange.start("text/event-stream")
    await _say(exchange, wire, list(TOKENS))
    await exchange.send(f"data: <html>{PROVIDER_TEXT}</html>\n\n".encode())
    await exchange.finish()


async def cut(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The line breaks after four tokens."""
    await exchange.start("text/event-stream")
    await _say(exchange, wire, list(TOKENS), PACE_S)
    exchange.cut()


async def cut_first(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The line breaks before the first token, N times; then a plain reply."""
    if exchange.again >= number:
        return await plain(exchange, wire, 0)
    await exchange.start("text/event-stream")
    await exchange.pause(PACE_S)
    return exchange.cut()


async def drop(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The line breaks before the head of an answer, N times; then a plain reply."""
    if exchange.again >= number:
        return await plain(exchange, wire, 0)
    return exchange.cut()


async def eof_first(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A clean end of the body before the first token."""
    await exchange.start("text/event-stream")
    await exchange.finish()


async def error_first(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A frame with error N (503) before the first token."""
    await exchange.start("text/event-stream")
    body, _ = wire.error(number or 503)
    await exchange.send(data_frame(body, "\n\n"))
    await exchange.finish()


async def eof(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A clean end of the body after four tokens, without a reason."""
    await exchange.start("text/event-stream")
    await _say(exchange, wire, list(TOKENS))
    await exchange.finish()


async def stall(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Four tokens, then nothing more."""
    await exchange.start("text/event-stream")
    await _say(exchange, wire, list(TOKENS))
    await exchange.silence()


async def stall_first(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The head of an answer, then nothing."""
    await exchange.start("text/event-stream")
    await exchange.silence()


async def hang(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Not even the head of an answer."""
    await exchange.silence()


async def slow(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The first token after N ms."""
    await exchange.start("text/event-stream")
    await exchange.pause(number / 1000)
    await _say(exchange, wire, list(TOKENS))
    await _end(exchange, wire)


_ALL: tuple[Scenario, ...] = (
    plain, long, paced, wild, empty, nothing, thoughts, no_usage, max_tokens, block_prompt, block_reply, status, limited, flaky,
    error_frame, garbage, cut, cut_first, drop, eof, eof_first, error_first, stall, stall_first, hang, slow,
)  # fmt: skip
SCENARIOS = {scenario.__name__.replace("_", "-"): scenario for scenario in (*_ALL, *ODD)}


async def gemini(exchange: Exchange) -> None:
    """``POST /v1/models/{model}:streamGenerateContent?alt=sse``; a content without text is refused."""
    seen = exchange.seen
    wire = GeminiWire(len(seen.body["contents"]), seen.headers.get("x-goog-api-key", ""))
    model = re.sub(r"^/v1(beta)?/models/|:.*$", "", seen.path)
    short = int(seen.headers.get("x-server-timeout", 10)) < 10
    empty = any(not part["text"].strip() for content in seen.body["contents"] for part in content["parts"])
    wrong = wire.key == WRONG_KEY or short or empty
    await _answer(exchange, wire, 400 if wrong else 200 if model in GEMINI_MODELS else 404)


async def openai(exchange: Exchange) -> None:
    """``POST /v1/chat/completions``; a message without text is refused."""
    seen = exchange.seen
    wire = OpenAIWire(len(seen.body["messages"]), seen.headers.get("authorization", "").removeprefix("Bearer "))
    empty = any(not message["content"].strip() for message in seen.body["messages"])
    missing = seen.body["model"].startswith("missing")
    await _answer(exchange, wire, 401 if wire.key == WRONG_KEY else 404 if missing else 400 if empty else 200)


async def _answer(exchange: Exchange, wire: AnyWire, code: int) -> None:
    if code != 200:
        await status(exchange, wire, code)
    else:
        await SCENARIOS[exchange.seen.scenario](exchange, wire, exchange.seen.number)
