"""What real servers, gateways and models do that the two APIs' pages do not say: scenarios beside those of ``chat.py``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.emulators.server import PROVIDER_TEXT, Exchange
from tests.emulators.wire import TOKENS, AnyWire, GeminiWire

GRIN_HALVES = (r"\ud83d", r"\ude00")
ODD_COUNTS = (7.0, 4.5)
LONG_PIECE = "0123456789" * 2_500
_PACE_S = 0.05


def _frame(wire: AnyWire, said: Any, reason: Any = None, usage: Any = None, **message: Any) -> dict[str, Any]:
    """One frame of the wire with any value for its text (None: without one) and its finish reason."""
    if isinstance(wire, GeminiWire):
        content = {} if said is None else {"content": {"role": "model", "parts": [{"text": said, **message}]}}
        candidate = {"index": 0, **content, **({} if reason is None else {"finishReason": reason})}
        return {"candidates": [candidate], **({} if usage is None else {"usageMetadata": usage})}
    delta = {**({} if said is None else {"content": said}), **message}
    frame: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return frame if usage is None else {**frame, "usage": usage}


def _counts(wire: AnyWire, given: Any, made: Any) -> dict[str, Any]:
    names = ("promptTokenCount", "candidatesTokenCount") if isinstance(wire, GeminiWire) else _OPENAI_COUNTS
    return dict(zip(names, (given, made), strict=True))


_OPENAI_COUNTS = ("prompt_tokens", "completion_tokens")


def _stop(wire: AnyWire) -> str:
    return "STOP" if isinstance(wire, GeminiWire) else "stop"


async def _frames(exchange: Exchange, *frames: Any, end: bool = True) -> None:
    await exchange.start("text/event-stream")
    for frame in frames:
        await exchange.send(f"data: {frame if isinstance(frame, str) else json.dumps(frame)}\n\n".encode())
    if end:
        await exchange.finish()


async def open_after_finish(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The finish reason and the counts, then an open connection."""
    counts = _counts(wire, 7, 4)
    await _frames(exchange, *(_frame(wire, t) for t in TOKENS), _frame(wire, None, _stop(wire), counts), end=False)
    await exchange.silence()


async def end_mark(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """``[DONE]`` without a finish reason."""
    await _frames(exchange, *(_frame(wire, t) for t in TOKENS), "[DONE]")


async def error_after_finish(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A finish reason, then an error."""
    error, _ = wire.error(500)
    await _frames(exchange, *(_frame(wire, t) for t in TOKENS), _frame(wire, None, _stop(wire)), error)


async def error_finish(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The finish reason says that the model failed."""
    if isinstance(wire, GeminiWire):
        await _frames(exchange, _frame(wire, None, "MALFORMED_FUNCTION_CALL"))
    else:
        await _frames(exchange, _frame(wire, "Hi "), _frame(wire, "", "error"), "[DONE]")


async def unknown_finish(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A finish reason that no page names."""
    await _frames(exchange, *(_frame(wire, t) for t in TOKENS), _frame(wire, None, "TIRED"))


async def gateway(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A byte order mark, comments, event lines, CR LF, no blank after ``data:``."""
    await exchange.start("text/event-stream")
    await exchange.send(b"\xef\xbb\xbf: connected\r\n\r\n")
    for frame in (*(_frame(wire, t) for t in TOKENS), _frame(wire, None, _stop(wire), _counts(wire, 7, 4))):
        await exchange.send(f": ping\r\n\r\nevent: message\r\nid: 1\r\ndata:{json.dumps(frame)}\r\n\r\n".encode())
    await exchange.finish()


async def no_empty_lines(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Events without the empty line between them."""
    await exchange.start("text/event-stream")
    for frame in (*(_frame(wire, t) for t in TOKENS), _frame(wire, None, _stop(wire), _counts(wire, 7, 4))):
        await exchange.send(f"data: {json.dumps(frame)}\n".encode())
    await exchange.finish()


async def whole(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """One JSON answer to a request for a stream."""
    counts = _counts(wire, 7, 4)
    if isinstance(wire, GeminiWire):
        frames = [*(_frame(wire, t) for t in TOKENS), _frame(wire, None, "STOP", counts)]
        return await exchange.answer(200, frames)
    choice = {"index": 0, "message": {"role": "assistant", "content": "".join(TOKENS)}, "finish_reason": "stop"}
    return await exchange.answer(200, {"object": "chat.completion", "choices": [choice], "usage": counts})


async def halves(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """An emoji whose two UTF-16 halves come in two frames."""
    frames = [json.dumps(_frame(wire, "HALF")).replace("HALF", half) for half in (*GRIN_HALVES, " ok")]
    await _frames(exchange, *frames, _frame(wire, None, _stop(wire), _counts(wire, 7, 4)))


async def torn(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """An emoji whose bytes of UTF-8 come in two frames."""
    await exchange.start("text/event-stream")
    grin = "\N{GRINNING FACE}".encode()
    for piece in (grin[:2], grin[2:], b" ok"):
        await exchange.send(b"data: %b\n\n" % json.dumps(_frame(wire, "TORN")).encode().replace(b"TORN", piece))
    end = json.dumps(_frame(wire, None, _stop(wire), _counts(wire, 7, 4)))
    await exchange.send(f"data: {end}\n\n".encode())
    await exchange.finish()


async def odd_counts(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Counts that are no int64: a whole float, a broken one, then a string, a negative one and one that is too large."""
    frames = [_frame(wire, text, None, _counts(wire, *ODD_COUNTS)) for text in TOKENS]
    broken: tuple[tuple[Any, Any], ...] = (("3", -1), (2**70, True), (None, []))
    bad = [_frame(wire, None, None, _counts(wire, given, made)) for given, made in broken]
    await _frames(exchange, *frames, *bad, _frame(wire, None, _stop(wire), "none"))


async def numbers(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Texts that are numbers."""
    await _frames(exchange, *(_frame(wire, said) for said in ("a ", 42, 1.5, True)), _frame(wire, None, _stop(wire)))


async def typed_parts(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A text in typed parts, thoughts among them."""
    if isinstance(wire, GeminiWire):
        frames = [_frame(wire, "secret thought", thought=True), *(_frame(wire, t) for t in TOKENS)]
    else:
        thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "secret thought"}]}
        frames = [_frame(wire, [thinking, {"type": "text", "text": t}, {"type": "image_url"}]) for t in TOKENS]
    await _frames(exchange, *frames, _frame(wire, None, _stop(wire)))


async def wrong_type(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Four tokens, then a text that is an object."""
    await _frames(exchange, *(_frame(wire, t) for t in TOKENS), _frame(wire, {"text": PROVIDER_TEXT}))


async def wrong_shape(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A frame whose list is a string."""
    await _frames(exchange, {"candidates": "none", "choices": "none"})


async def page(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """A web page with status 200."""
    await exchange.start("text/html")
    await exchange.send(f"<!doctype html><title>{PROVIDER_TEXT}</title>".encode())
    await exchange.finish()


async def think(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """N ms of thoughts, a frame each 50 ms, then the text."""
    await exchange.start("text/event-stream")
    for _ in range(int(number / 1000 / _PACE_S)):
        await exchange.send(wire.thought("secret thought "))
        await exchange.pause(_PACE_S)
    for frame in (*(wire.text(t) for t in TOKENS), *wire.end("stop", usage=True)):
        await exchange.send(frame)
    await exchange.finish()


async def prefill(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """N ms of comments only, then the text."""
    await exchange.start("text/event-stream")
    for _ in range(int(number / 1000 / _PACE_S)):
        await exchange.send(b": PROCESSING\n\n")
        await exchange.pause(_PACE_S)
    for frame in (*(wire.text(t) for t in TOKENS), *wire.end("stop", usage=True)):
        await exchange.send(frame)
    await exchange.finish()


async def long_piece(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """25,000 characters in one frame."""
    await _frames(exchange, _frame(wire, LONG_PIECE), _frame(wire, None, _stop(wire), _counts(wire, 7, 4)))


async def strict(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Refuses a parameter that it does not know and names it: ``stream_options``, Gemini's ``thinkingConfig``."""
    body = exchange.seen.body
    if isinstance(wire, GeminiWire):
        refused = body.get("generationConfig", {}).get("thinkingConfig")
        error: Any = {"code": 400, "status": "INVALID_ARGUMENT", "message": 'Unknown name "thinkingConfig"'}
        answer: Any = {"error": error}
    else:
        refused = body.get("stream_options")
        answer = {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "extra"}]}
    if refused:
        return await exchange.answer(400 if isinstance(wire, GeminiWire) else 422, answer)
    return await _frames(exchange, *(_frame(wire, t) for t in TOKENS), _frame(wire, None, _stop(wire)))


async def vague(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Refuses such a parameter without naming it (OpenAI's API only)."""
    if exchange.seen.body.get("stream_options"):
        return await exchange.answer(400, {"message": "Bad Request"})
    return await _frames(exchange, *(_frame(wire, t) for t in TOKENS), _frame(wire, None, _stop(wire)))


async def no_stream(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """Refuses ``stream`` (OpenAI's API only)."""
    if exchange.seen.body.get("stream"):
        error = {
            "message": "'stream' is not supported",
            "type": "invalid_request_error",
            "param": "stream",
            "code": None,
        }
        return await exchange.answer(400, {"error": error})
    return await whole(exchange, wire, number)


async def endless_error(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """401 with a body that does not end."""
    await exchange.start("application/json", 401)
    await exchange.send(PROVIDER_TEXT.encode())
    await exchange.silence()


async def coded_error(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """401 with a body that is not in the coding that its head names."""
    await exchange.answer(401, {"error": PROVIDER_TEXT}, {"content-encoding": "gzip"})


async def scripted(exchange: Exchange, wire: AnyWire, number: int) -> None:
    """The bytes in ``Emulator.script``, with status 200."""
    await exchange.start("text/event-stream")
    for piece in exchange.script:
        await exchange.send(piece)
    await exchange.finish()


Scenario = Callable[[Exchange, AnyWire, int], Awaitable[None]]
ODD: tuple[Scenario, ...] = (
    open_after_finish, end_mark, error_after_finish, error_finish, unknown_finish, gateway, no_empty_lines, whole, halves,
    torn, odd_counts, numbers, typed_parts, wrong_type, wrong_shape, page, think, prefill, long_piece, strict, vague, no_stream,
    endless_error, coded_error, scripted,
)  # fmt: skip
