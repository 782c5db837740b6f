"""The decision guide: what strikes a lane out when one needs something, each with a cell of this run or a source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from compare.metrics import ENOUGH_ROUNDS, METRICS, Figure, differ, number
from compare.results import Results

Source = Literal["measured", "cited", "unmeasured"]
_FAR = 1.5
_WIRE_SHARE = 1.2


class Reason(msgspec.Struct, frozen=True):
    """Why a lane is struck out or kept: in words, and whether this run measured it (``where``: the experiment, or the source)."""

    lane: str
    struck: bool
    why: str
    source: Source
    where: str


class Need(msgspec.Struct, frozen=True):
    """One thing one may need, the lanes that are left, and the reasons."""

    name: str
    title: str
    take: list[str]
    because: str
    reasons: list[Reason]


def guide(results: Results) -> list[Need]:
    """All needs, judged by this run."""
    return [_judge(results, *row) for row in _NEEDS]


def _judge(
    results: Results,
    name: str,
    title: str,
    rule: Callable[[Results], list[Reason]],
    best_by: tuple[str, str] | None,
) -> Need:
    reasons = rule(results)
    struck = {reason.lane for reason in reasons if reason.struck}
    left = [lane for lane in results.lanes if lane not in struck]
    because = "nothing in this run tells them apart for this"
    if best_by is not None:
        experiment, metric = best_by
        if experiment.endswith("*"):
            experiment = next(
                (found for found in reversed(results.experiments) if found.startswith(experiment[:-1])), experiment
            )
        cells = {lane: cell for lane in left if (cell := _cell(results, experiment, lane, metric)) is not None}
        if cells:
            best = min(cells.values(), key=lambda cell: cell.median)
            left = [lane for lane, cell in cells.items() if cell is best or not differ(best, cell)]
            shown = ", ".join(f"{lane} {_say(metric, cells[lane])}" for lane in left)
            because = f"{METRICS[metric].title} in “{results.experiments[experiment].title}”: {shown}"
            if len(left) > 1:
                enough = min(cell.n for cell in cells.values()) >= ENOUGH_ROUNDS
                because += "; no difference found between them" if enough else "; too few values to tell them apart"
        else:
            because = f"“{experiment}” was not measured in this run, so nothing ranks them"
    return Need(name, title, left, because, reasons)


def _cell(results: Results, experiment: str, lane: str, metric: str) -> Figure | None:
    found = results.experiments.get(experiment)
    return found.figures.get(lane, {}).get(metric) if found else None


def _say(metric: str, figure: Figure) -> str:
    unit = METRICS[metric].unit
    if unit == "share":
        return f"{figure.median:.0%}"
    low, middle, high = (number(value, figure.median) for value in (figure.low, figure.median, figure.high))
    return f"{middle}{f' ({low}–{high})' if low != high else ''} {unit}"


def _unmeasured(results: Results, experiment: str) -> list[Reason]:
    why = results.unmeasured.get(experiment, "not in this run")
    return [Reason(lane, False, f"unmeasured: {why}", "unmeasured", experiment) for lane in results.lanes]


# -- the rules ---------------------------------------------------------------------------------------------------------------


def _tokens(results: Results) -> list[Reason]:
    first, end = (_cell(results, "1 stream", "rest", metric) for metric in ("ttft", "e2e"))
    if first is None or end is None:
        return _unmeasured(results, "1 stream")
    why = f"its first token is its last: TTFT {_say('ttft', first)}, E2E {_say('e2e', end)}"
    return [Reason("rest", True, why, "measured", "1 stream")]


def _browser(results: Results) -> list[Reason]:
    return [
        Reason(
            "grpc",
            True,
            "a page cannot read HTTP/2 frames and trailers; gRPC-Web needs a proxy of its own",
            "cited",
            "grpc.io, gRPC-Web; fetch standard",
        ),
        Reason(
            "sse",
            False,
            "EventSource reconnects with Last-Event-ID by itself, the only one that does",
            "cited",
            "WHATWG HTML, section 9.2",
        ),
    ]


def _behind(experiment: str) -> Callable[[Results], list[Reason]]:
    def rule(results: Results) -> list[Reason]:
        found = results.experiments.get(experiment)
        if found is None:
            return _unmeasured(results, experiment)
        reasons = []
        for lane in results.lanes:
            failed = [line for line in found.failures if f", {lane}," in line]
            buffered = [line for line in found.findings.get(lane, ()) if line.startswith("a buffer")]
            if failed:
                reasons.append(Reason(lane, True, f"did not get through: {failed[0]}", "measured", experiment))
            elif buffered:
                reasons.append(Reason(lane, True, buffered[0], "measured", experiment))
            elif (late := _cell(results, experiment, lane, "delay_p50")) is not None:
                why = f"delay p50 {_say('delay_p50', late)}"
                reasons.append(Reason(lane, False, why, "measured", experiment))
        return reasons

    return rule


def _mobile(results: Results) -> list[Reason]:
    experiment = "network mobile"
    cells = {
        lane: cell for lane in results.lanes if (cell := _cell(results, experiment, lane, "delay_p50")) is not None
    }
    if not cells:
        return _unmeasured(results, experiment)
    best = min(cells.values(), key=lambda cell: cell.median)
    reasons = []
    for lane, cell in cells.items():
        far = differ(best, cell) and cell.median > _FAR * best.median
        why = f"delay p50 {_say('delay_p50', cell)}" + (f", the best {_say('delay_p50', best)}" if far else "")
        reasons.append(Reason(lane, far, why, "measured", experiment))
    back = _cell(results, "cut, with resume", "rest", "back")
    if back is not None and "rest" in results.lanes:
        why = f"after a cut nothing new for {_say('back', back)}: it waits for the whole reply"
        reasons.append(Reason("rest", True, why, "measured", "cut, with resume"))
    return reasons


def _both_ways(results: Results) -> list[Reason]:
    reasons = []
    for lane in results.lanes:
        if lane in ("websocket", "grpc"):
            continue
        why = "one request, one answer: what the client says meanwhile is a request of its own"
        stop = _cell(results, "cancel", lane, "cancel")
        if stop is not None:
            why += f" (stopping costs {_say('cancel', stop)})"
        reasons.append(Reason(lane, True, why, "cited", "RFC 9110, section 3.4"))
    return reasons


def _pictures(results: Results) -> list[Reason]:
    measured = [name for name in results.experiments if name.startswith("picture ")]
    if not measured:
        return _unmeasured(results, "picture 4 MB")
    experiment = measured[-1]
    reasons = []
    for lane in results.lanes:
        cell = _cell(results, experiment, lane, "image_wire")
        if cell is None:
            continue
        struck = cell.median > _WIRE_SHARE
        why = f"{cell.median:.2f} bytes on the wire for a byte of picture" + (": base64 in JSON" if struck else "")
        by_id = _cell(results, experiment, lane, "image_get")
        if struck and by_id is not None:
            why += f"; fetched by its id it comes as it is, in {_say('image_get', by_id)}"
        reasons.append(Reason(lane, struck, why, "measured", experiment))
    return reasons


def _many_streams(results: Results) -> list[Reason]:
    cells = {lane: cell for lane in results.lanes if (cell := _cell(results, "memory", lane, "stream_kib")) is not None}
    if not cells:
        return _unmeasured(results, "memory")
    least = min(cell.median for cell in cells.values())
    return [
        Reason(
            lane,
            cell.median > 2 * _FAR * least,
            f"{_say('stream_kib', cell)} an open stream, the least {number(least)} KiB (measured once: no interval)",
            "measured",
            "memory",
        )
        for lane, cell in cells.items()
    ]


def _machines(results: Results) -> list[Reason]:
    held = "a held connection stays where it was opened; a balancer only moves new ones"
    return [
        Reason(lane, False, f"{held}. Not measured here: one server a lane", "unmeasured", "grpc.io, load balancing")
        for lane in results.lanes
        if lane in ("websocket", "grpc")
    ] + [
        Reason(
            lane, False, "each request may reach another machine. Not measured here", "unmeasured", "WIRE.md, section 2"
        )
        for lane in results.lanes
        if lane not in ("websocket", "grpc")
    ]


def _curl(results: Results) -> list[Reason]:
    return [
        Reason(lane, True, "binary frames: it takes a tool that speaks them", "cited", source)
        for lane, source in (("websocket", "RFC 6455, section 5"), ("grpc", "RFC 9113, section 4"))
        if lane in results.lanes
    ]


_NEEDS: tuple[tuple[str, str, Callable[[Results], list[Reason]], tuple[str, str] | None], ...] = (
    ("tokens", "words as they are generated", _tokens, ("1 stream", "delay_p99")),
    ("browser", "a web page as the client", _browser, None),
    (
        "proxy",
        "to pass a proxy that buffers",
        _behind("nginx, gzip and buffering"),
        ("nginx, gzip and buffering", "delay_p50"),
    ),
    ("gzip", "to pass a proxy that compresses", _behind("nginx, compressing"), ("nginx, compressing", "delay_p50")),
    ("mobile", "mobile lines, which are slow and break", _mobile, ("cut, with resume", "back")),
    ("both-ways", "both to speak at once (typing, stop, several turns on one line)", _both_ways, ("cancel", "cancel")),
    ("pictures", "large pictures", _pictures, ("picture *", "image_ms")),
    ("streams", "many open streams on a server", _many_streams, ("memory", "stream_kib")),
    ("machines", "many machines behind a balancer", _machines, None),
    ("curl", "to look at it with curl", _curl, None),
)
