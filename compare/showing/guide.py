"""The decision guide: which lanes do not meet a need, each with a cell of the run or a source as the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from compare.measuring.metrics import METRICS
from compare.measuring.statistics import ENOUGH_ROUNDS, Figure, differ
from compare.measuring.verdicts import median_with_interval, number
from compare.showing.results import Results

Source = Literal["measured", "cited", "unmeasured"]

# A lane is struck out when it is this many times slower than the best lane.
_FAR = 1.5
# A lane is struck out when it needs this many bytes for a byte of picture.
_WIRE_SHARE = 1.2
_HELD = ("websocket", "grpc")


class Reason(msgspec.Struct, frozen=True):
    """Why a lane is struck out or kept. ``where`` names the experiment, or the source that is cited."""

    lane: str
    struck: bool
    why: str
    source: Source
    where: str


class Need(msgspec.Struct, frozen=True):
    """Something that a user may need, the lanes that meet the need, and the reasons."""

    name: str
    title: str
    take: list[str]
    because: str
    reasons: list[Reason]


Rule = Callable[[Results], list[Reason]]


@dataclass(frozen=True, slots=True)
class _Question:
    """A need before it is judged. ``rule`` strikes lanes out; ``best_by`` is the experiment and metric that ranks the rest."""

    name: str
    title: str
    rule: Rule
    best_by: tuple[str, str] | None = None


def guide(results: Results) -> list[Need]:
    """All needs, each judged alone by the results of one run."""
    return [_judge(results, question) for question in _QUESTIONS]


def _judge(results: Results, question: _Question) -> Need:
    reasons = question.rule(results)
    struck = {reason.lane for reason in reasons if reason.struck}
    left = [lane for lane in results.lanes if lane not in struck]
    because = "nothing in this run tells them apart for this"
    if question.best_by is not None:
        experiment, metric = question.best_by
        if experiment.endswith("*"):
            experiment = _last_of(results, experiment[:-1]) or experiment
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
    return Need(question.name, question.title, left, because, reasons)


def _last_of(results: Results, prefix: str) -> str | None:
    return next((name for name in reversed(results.experiments) if name.startswith(prefix)), None)


def _cell(results: Results, experiment: str, lane: str, metric: str) -> Figure | None:
    found = results.experiments.get(experiment)
    return found.figure(lane, metric) if found else None


def _cells(results: Results, experiment: str, metric: str) -> dict[str, Figure]:
    found = {lane: _cell(results, experiment, lane, metric) for lane in results.lanes}
    return {lane: cell for lane, cell in found.items() if cell is not None}


def _say(metric: str, figure: Figure) -> str:
    unit = METRICS[metric].unit
    return f"{figure.median:.0%}" if unit == "share" else f"{median_with_interval(metric, figure)} {unit}"


def _unmeasured(results: Results, experiment: str) -> list[Reason]:
    why = results.unmeasured.get(experiment, "not in this run")
    return [Reason(lane, False, f"unmeasured: {why}", "unmeasured", experiment) for lane in results.lanes]


def _tokens(results: Results) -> list[Reason]:
    first, end = (_cell(results, "1 stream", "rest", metric) for metric in ("ttft", "e2e"))
    if first is None or end is None:
        return _unmeasured(results, "1 stream")
    why = f"its first token is its last: TTFT {_say('ttft', first)}, E2E {_say('e2e', end)}"
    return [Reason("rest", True, why, "measured", "1 stream")]


def _browser(results: Results) -> list[Reason]:
    no_frames = (
        "a page cannot read HTTP/2 frames and trailers; it has gRPC-Web, on a port of its own, and can send no stream"
    )
    by_itself = "EventSource reconnects with Last-Event-ID by itself, the only one that does"
    return [
        Reason("grpc", True, no_frames, "cited", "grpc.io, gRPC-Web; fetch standard"),
        Reason("sse", False, by_itself, "cited", "WHATWG HTML, section 9.2"),
    ]


def _behind(experiment: str) -> Rule:
    def rule(results: Results) -> list[Reason]:
        found = results.experiments.get(experiment)
        if found is None:
            return _unmeasured(results, experiment)
        reasons = []
        for lane in results.lanes:
            failed = [failure for failure in found.failures if f", {lane}," in failure]
            buffered = [sentence for sentence in found.findings.get(lane, ()) if sentence.startswith("a buffer")]
            delay = found.figure(lane, "delay_p50")
            if failed:
                reasons.append(Reason(lane, True, f"did not get through: {failed[0]}", "measured", experiment))
            elif buffered:
                reasons.append(Reason(lane, True, buffered[0], "measured", experiment))
            elif delay is not None:
                why = f"delay p50 {_say('delay_p50', delay)}"
                reasons.append(Reason(lane, False, why, "measured", experiment))
        return reasons

    return rule


def _mobile(results: Results) -> list[Reason]:
    experiment = "network mobile"
    cells = _cells(results, experiment, "delay_p50")
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
        if lane in _HELD:
            continue
        why = "one request, one answer: what the client says meanwhile is a request of its own"
        stop = _cell(results, "cancel", lane, "cancel")
        if stop is not None:
            why += f" (stopping costs {_say('cancel', stop)})"
        reasons.append(Reason(lane, True, why, "cited", "RFC 9110, section 3.4"))
    return reasons


def _pictures(results: Results) -> list[Reason]:
    experiment = _last_of(results, "picture ")
    if experiment is None:
        return _unmeasured(results, "picture 4 MB")
    reasons = []
    for lane, cell in _cells(results, experiment, "image_wire").items():
        struck = cell.median > _WIRE_SHARE
        why = f"{cell.median:.2f} bytes on the wire for a byte of picture" + (": base64 in JSON" if struck else "")
        by_id = _cell(results, experiment, lane, "image_get")
        if struck and by_id is not None:
            why += f"; fetched by its id it comes as it is, in {_say('image_get', by_id)}"
        reasons.append(Reason(lane, struck, why, "measured", experiment))
    return reasons


def _many_streams(results: Results) -> list[Reason]:
    cells = _cells(results, "memory", "stream_kib")
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
    held = "a held connection stays where it was opened; a balancer only moves new ones. Not measured here: one server a lane"
    single = "each request may reach another machine. Not measured here"
    return [
        Reason(lane, False, held, "unmeasured", "grpc.io, load balancing")
        if lane in _HELD
        else Reason(lane, False, single, "unmeasured", "RFC 9110, section 3.3")
        for lane in sorted(results.lanes, key=lambda lane: lane not in _HELD)
    ]


def _curl(results: Results) -> list[Reason]:
    return [
        Reason(lane, True, "binary frames: it takes a tool that speaks them", "cited", source)
        for lane, source in (("websocket", "RFC 6455, section 5"), ("grpc", "RFC 9113, section 4"))
        if lane in results.lanes
    ]


_BUFFERING, _COMPRESSING = "nginx, gzip and buffering", "nginx, compressing"
_QUESTIONS = (
    _Question("tokens", "words as they are generated", _tokens, ("1 stream", "delay_p99")),
    _Question("browser", "a web page as the client", _browser),
    _Question("proxy", "to pass a proxy that buffers", _behind(_BUFFERING), (_BUFFERING, "delay_p50")),
    _Question("gzip", "to pass a proxy that compresses", _behind(_COMPRESSING), (_COMPRESSING, "delay_p50")),
    _Question("mobile", "mobile lines, which are slow and break", _mobile, ("cut, with resume", "back")),
    _Question(
        "both-ways", "both to speak at once (typing, stop, several turns on one line)", _both_ways, ("cancel", "cancel")
    ),
    _Question("pictures", "large pictures", _pictures, ("picture *", "image_ms")),
    _Question("streams", "many open streams on a server", _many_streams, ("memory", "stream_kib")),
    _Question("machines", "many machines behind a balancer", _machines),
    _Question("curl", "to look at it with curl", _curl),
)
