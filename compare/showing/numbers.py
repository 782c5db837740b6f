"""Your numbers: from a load that nobody measured to bytes, waiting, money, memory, cores and connections of each transport.

``FORMULAS`` is the only place where they stand: as text, in operators that Python and JavaScript share. The command evaluates
them here, the report's form evaluates the same text (``template/numbers.js``), and both print it beside the number.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from compare.measuring.loads import LoadPoint
from compare.showing.results import Results

# How much later a lost packet comes, beside a round trip: the least retransmission timeout of Linux.
RETRANSMISSION_MS = 200.0
# The payload of a full packet on Ethernet, with TCP's timestamps.
PACKET_BYTES = 1448.0
# A process that is busier than this lets its readers wait.
FULL_SHARE = 0.7
# Round trips before a request can be sent: TCP's, and one more for the handshake of a WebSocket and the SETTINGS of HTTP/2.
OPENING_TRIPS = {"rest": 1, "ndjson": 1, "sse": 1, "websocket": 2, "grpc": 2}
PICTURE_MB = {0.1: "100 kB", 1.0: "1 MB", 4.0: "4 MB"}
_FIXED_POINT_STEPS = 30
# A shorter wait counts as this, because 0 has no logarithm.
LEAST_WAIT_MS = 0.1


class Input(msgspec.Struct, frozen=True):
    """One number that a reader gives, with its unit, its default, and the least and the largest value that make sense."""

    name: str
    title: str
    unit: str
    default: float
    least: float
    most: float


class Formula(msgspec.Struct, frozen=True):
    """One result. ``text`` uses the inputs, the coefficients, the constants and the results above it."""

    name: str
    title: str
    unit: str
    text: str


class Coefficients(msgspec.Struct, frozen=True, kw_only=True):
    """What a run measured of one transport; None: that run did not measure it.

    ``event_us`` is the CPU time of a token and ``own_ms`` the server's own wait, both as pairs with the tokens a second that
    the server delivered. ``whole`` is 1 where the first token comes with the last. ``alone_ms`` is the wait at the lightest load.
    """

    whole: int
    answer_bytes: float
    token_bytes: float
    answer_us: float
    event_us: list[tuple[float, float]]
    own_ms: list[tuple[float, float]]
    alone_ms: float
    base_mib: float
    stream_kib: float
    open_connections: float
    opening_trips: float
    back_ms: float | None
    again_share: float | None
    picture_own_ms: float | None
    picture_mb_ms: float | None
    picture_wire: float | None


INPUTS = (
    Input("users", "people who read an answer at the same time", "", 1000, 1, 1e6),
    Input("tokens", "tokens an answer", "", 500, 1, 1e5),
    Input("rate", "tokens a second, of the model", "", 50, 0.1, 1e4),
    Input("rtt", "round trip", "ms", 80, 0, 2000),
    Input("loss", "packets lost", "%", 1, 0, 50),
    Input("cuts", "cuts an hour, a reader", "", 1, 0, 1000),
    Input("picture", "size of a picture", "MB", 1, 0, 100),
    Input("price", "price of a million tokens", "money", 10, 0, 1e4),
)

FORMULAS = (
    Formula("answer_s", "an answer takes", "s", "(tokens - 1) / rate + (rtt + alone_ms) / 1000"),
    Formula("tokens_s", "tokens to all readers", "tokens/s", "users * tokens / answer_s"),
    Formula("cores", "cores", "", "users / answer_s * (answer_us + tokens * curve(event_us, tokens_s)) / 1000000"),
    Formula("processes", "server processes", "", "ceil(cores / full_share)"),
    Formula("memory_mib", "memory", "MiB", "processes * base_mib + users * stream_kib / 1024"),
    Formula("connections", "open connections", "", "users * open_connections"),
    Formula(
        "first_ms",
        "first token",
        "ms",
        "queue(own_ms, tokens_s / processes) + rtt + whole * (tokens - 1) / rate * 1000",
    ),
    Formula("new_ms", "first token, on a new connection", "ms", "first_ms + opening_trips * rtt"),
    Formula("down_kb", "bytes of an answer", "kB", "(answer_bytes + token_bytes * tokens) / 1000"),
    Formula("mbit_s", "bytes to all readers", "Mbit/s", "users * down_kb * 8 / answer_s / 1000"),
    Formula(
        "packets", "packets of an answer", "", "whole * ceil(down_kb * 1000 / packet_bytes) + (1 - whole) * tokens"
    ),
    Formula(
        "still_s",
        "an answer stands still for lost packets",
        "s",
        "loss / 100 * packets * (retransmission_ms + rtt) / 1000",
    ),
    Formula("back_far_ms", "next new token after a cut, with resume", "ms", "back_ms + 2 * rtt"),
    Formula("repaid", "tokens paid twice an hour, without resume", "tokens", "users * cuts * tokens * again_share"),
    Formula("money", "their price an hour (with resume: 0)", "money", "repaid * price / 1000000"),
    Formula("picture_ms", "a picture, from the log", "ms", "picture_own_ms + rtt + picture * picture_mb_ms"),
    Formula("picture_down", "bytes of a picture", "MB", "picture * picture_wire"),
)
# These values are assumed, because no run measures them.
CONSTANTS = {"retransmission_ms": RETRANSMISSION_MS, "full_share": FULL_SHARE, "packet_bytes": PACKET_BYTES}


def curve(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at ``x`` of a curve through these points: straight lines over ln x, and level beyond both ends."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * math.log(x / x0) / math.log(x1 / x0)
    return points[-1][1]


def queue(points: Sequence[tuple[float, float]], x: float) -> float:
    """The wait at ``x``, in ms: as ``curve``, but straight over ln y too, because a queue grows slowly at first, then fast."""
    return math.exp(curve([(at, math.log(max(wait, LEAST_WAIT_MS))) for at, wait in points], x))


def predict(coefficients: Coefficients, given: Mapping[str, float]) -> dict[str, float | None]:
    """Every result by its name; None where the run did not measure what its formula needs."""
    known: dict[str, Any] = {**CONSTANTS, **msgspec.structs.asdict(coefficients), **given}
    found: dict[str, float | None] = {}
    for formula in FORMULAS:
        names = _names(formula.text)
        value = None if any(known.get(name) is None for name in names) else _value(formula.text, known)
        known[formula.name] = found[formula.name] = value
    return found


def _names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)} - {"curve", "queue", "ceil"}


def _value(text: str, known: Mapping[str, Any]) -> float:
    """The value of a formula of this module. No formula comes from outside, so ``eval`` sees no foreign text."""
    return float(eval(text, {"__builtins__": {}, "curve": curve, "queue": queue, "ceil": math.ceil}, dict(known)))


def coefficients(results: Results) -> dict[str, Coefficients]:
    """The coefficients of each transport that the run put under load; empty for a run without its load points."""
    by_word: dict[str, list[LoadPoint]] = {}
    for point in results.loads:
        by_word.setdefault(point.word, []).append(point)
    return {word: _coefficients(results, word, points) for word, points in by_word.items()}


def _coefficients(results: Results, word: str, points: Sequence[LoadPoint]) -> Coefficients:
    whole = int(word == "rest")
    least = min(point.tokens for point in points)
    short = next(point for point in points if point.tokens == least)
    long = sorted((point for point in points if point.tokens > least), key=lambda point: point.tokens_s)
    longest = long[-1]
    token_bytes = (longest.answer_bytes - short.answer_bytes) / (longest.tokens - short.tokens)
    answer_us, event_us = _costs(short, long)
    stream_kib = 1024 * (longest.memory_mib - long[0].memory_mib) / (longest.users - long[0].users)
    waits = [(point.tokens_s, point.first_ms - whole * (point.tokens - 1) / point.rate * 1000) for point in long]
    pictures = _pictures(results, word)
    return Coefficients(
        whole=whole,
        answer_bytes=short.answer_bytes - token_bytes * short.tokens,
        token_bytes=token_bytes,
        answer_us=answer_us,
        event_us=event_us,
        own_ms=[(tokens_s, max(own_ms, 0.0)) for tokens_s, own_ms in waits],
        alone_ms=max(waits[0][1], 0.1),
        base_mib=long[0].memory_mib - long[0].users * stream_kib / 1024,
        stream_kib=stream_kib,
        open_connections=results.connections.get(word, 1),
        opening_trips=OPENING_TRIPS[word],
        back_ms=_median(results, "cut, with resume", word, "back"),
        again_share=_again_share(results, word),
        **pictures,
    )


def _costs(short: LoadPoint, long: Sequence[LoadPoint]) -> tuple[float, list[tuple[float, float]]]:
    """The CPU time of an answer without its tokens, and of a token at each point, in µs.

    Every point says: CPU time = answers * answer + tokens * token. A token is cheaper the more tokens there are a second, so
    the cost of an answer follows from the short answers with the token's cost at their load, and the other way round.
    """
    answer_us = 0.0
    event_us: list[tuple[float, float]] = []
    for _ in range(_FIXED_POINT_STEPS):
        event_us = [
            (point.tokens_s, max((point.cpu_s * 1e6 - point.answers_s * answer_us) / point.tokens_s, 0.0))
            for point in long
        ]
        of_tokens_us = short.tokens_s * curve(event_us, short.tokens_s)
        answer_us = max((short.cpu_s * 1e6 - of_tokens_us) / short.answers_s, 0.0)
    return answer_us, event_us


def _pictures(results: Results, word: str) -> dict[str, float | None]:
    """The wait for a picture without its bytes and for each MB, from the smallest and the largest picture of the run."""
    times = [
        (float(size), found)
        for size, name in PICTURE_MB.items()
        if (found := _median(results, f"picture {name}", word, "image_ms")) is not None
    ]
    wires = [_median(results, f"picture {name}", word, "image_wire") for name in PICTURE_MB.values()]
    wire = next((found for found in reversed(wires) if found is not None), None)
    if len(times) < 2:
        return {"picture_own_ms": None, "picture_mb_ms": None, "picture_wire": wire}
    (small, small_ms), (large, large_ms) = times[0], times[-1]
    mb_ms = max((large_ms - small_ms) / (large - small), 0.0)
    return {"picture_own_ms": max(small_ms - small * mb_ms, 0.0), "picture_mb_ms": mb_ms, "picture_wire": wire}


def _again_share(results: Results, word: str) -> float | None:
    """The share of an answer that is generated again after a cut: all of it, or less where a server stops in time."""
    again = _median(results, "cut, without resume", word, "again")
    tokens = results.cut_tokens
    return None if again is None or not tokens else again / tokens


def _median(results: Results, experiment: str, word: str, metric: str) -> float | None:
    found = results.experiments[experiment].figure(word, metric) if experiment in results.experiments else None
    return None if found is None else found.median
