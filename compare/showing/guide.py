"""The guide: from what is needed to one lane, with what it costs there and what would change the answer.

Each need says of each lane that it does it, that it does it at a price, or that it cannot, with a cell of a run or a
source. The answer is the lane with the fewest things that it cannot do, then the least to pay. ``shared/web/guide.js``
combines in the same way on pages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec

from compare.measuring.causes import cause
from compare.measuring.lanes import lane_title
from compare.measuring.metrics import METRICS
from compare.measuring.verdicts import matters, number, titles
from compare.showing.facts import Facts

# Where two lanes do equally well, the one that is simpler to run and to debug comes first.
SIMPLEST = ("rest", "ndjson", "sse", "websocket", "grpc", "rest-poll")
# A price in bytes, memory or CPU is named from this ratio on.
_RATIO = 1.1
_TWICE = 2.0


class Judged(msgspec.Struct, frozen=True):
    """What one need says of one lane. ``price``: 0 none, 1 to 3 more and more; ``can`` is False where the lane cannot do it.

    ``why`` is a sentence without its full stop; empty where there is nothing to say.
    """

    can: bool = True
    price: int = 0
    why: str = ""
    source: str = ""


class Need(msgspec.Struct, frozen=True):
    """Something that one may need, and what it means for each lane."""

    name: str
    title: str
    lanes: dict[str, Judged]


class Guide(msgspec.Struct, frozen=True):
    """All needs, and for each lane what one pays whatever one needs; ``titles`` are the names of the lanes in texts."""

    needs: list[Need]
    always: dict[str, str]
    titles: dict[str, str]


class Answer(msgspec.Struct, frozen=True):
    """The answer to all needs at once: the lane ``take``.

    ``also``: lanes that nothing tells from ``take``; ``cannot``: needs that ``take`` fails.

    ``gives`` and ``prices`` are sentences on ``take``, ``others`` on the lanes that lost, ``changes`` on needs that would
    change the answer.
    """

    take: str
    also: list[str]
    cannot: list[str]
    gives: list[str]
    prices: list[str]
    others: list[str]
    changes: list[str]


Rule = Callable[[Facts, str], Judged]


@dataclass(frozen=True, slots=True)
class _Question:
    name: str
    title: str
    rule: Rule


def guide_of(facts: Facts) -> Guide:
    """All needs, judged for every lane."""
    lanes = [lane for lane in facts.lanes if lane in SIMPLEST]
    needs = [
        Need(question.name, question.title, {lane: question.rule(facts, lane) for lane in lanes})
        for question in _QUESTIONS
    ]
    return Guide(needs, {lane: _always(facts, lane) for lane in lanes}, {lane: lane_title(lane) for lane in lanes})


def answer(guide: Guide, ticked: Collection[str]) -> Answer:
    """One answer to the needs whose names are ``ticked``. Raises KeyError for a name that is none."""
    needs = guide.needs
    by_name = {need.name: need for need in needs}
    chosen = [need for need in needs if need.name in ticked]
    if unknown := set(ticked) - by_name.keys():
        raise KeyError(", ".join(sorted(unknown)))
    take, *rest = ranking(chosen, guide.titles)
    also = [lane for lane in rest if _score(chosen, lane) == _score(chosen, take)]
    reasons = [(need, need.lanes[take]) for need in chosen]
    return Answer(
        take=take,
        also=also,
        cannot=[f"{need.title}: {judged.why}" for need, judged in reasons if not judged.can],
        gives=[f"{need.title}: {judged.why or 'yes'}" for need, judged in reasons if judged.can and not judged.price],
        prices=[
            *(f"{need.title}: {judged.why}" for need, judged in reasons if judged.can and judged.price),
            f"always: {guide.always[take]}",
        ],
        others=[f"{guide.titles[lane]}: {_against(chosen, lane)}" for lane in rest if lane not in also],
        changes=_changes(guide, chosen, take),
    )


def ranking(chosen: Sequence[Need], lanes: Collection[str]) -> list[str]:
    """These lanes, best first."""
    return sorted((lane for lane in SIMPLEST if lane in lanes), key=lambda lane: _score(chosen, lane))


def _score(chosen: Sequence[Need], lane: str) -> tuple[int, int]:
    judged = [need.lanes[lane] for need in chosen]
    return sum(not one.can for one in judged), sum(one.price for one in judged)


def _against(chosen: Sequence[Need], lane: str) -> str:
    """Why a lane is not the answer: first what it cannot do, else what it costs."""
    cannot = [need.lanes[lane].why for need in chosen if not need.lanes[lane].can]
    dear = [need.lanes[lane].why for need in chosen if need.lanes[lane].price]
    return "; ".join(cannot or dear)


def _changes(guide: Guide, chosen: Sequence[Need], take: str) -> list[str]:
    """The single needs that, dropped or added, would give another lane."""
    found = []
    for need in guide.needs:
        without = need in chosen
        other = ranking([one for one in guide.needs if (one in chosen) != (one is need)], guide.titles)[0]
        if other != take:
            found.append(f"{'without' if without else 'with'} “{need.title}”: {guide.titles[other]}")
    return found or ["no single need, added or dropped, changes the answer"]


def sentences(found: Answer) -> list[str]:
    """The answer as lines of text: what to take, what it gives and costs, why not the others, what would change it."""
    also = f" ({titles(found.also, 'or')} would do as well)" if found.also else ""
    lines = [f"Take {lane_title(found.take)}{also}."]
    heads = (
        ("It cannot do", found.cannot),
        ("You get", found.gives),
        ("The price", found.prices),
        ("Why not", found.others),
        ("What would change it", found.changes),
    )
    return lines + list(
        chain.from_iterable((f"{head}:", *(f"- {line}" for line in said)) for head, said in heads if said)
    )


def _always(facts: Facts, lane: str) -> str:
    """What one pays for a lane whatever one needs, with its number where it was measured."""
    size = facts.say("bytes", "down_per_token", lane)
    cpu = facts.say("throughput", "server_us", lane).replace("µs/event", "µs")
    return {
        "rest": "nothing is shown before the whole reply is there",
        "rest-poll": "a request for each batch" + (f"; {size} a token" if size else ""),
        "ndjson": "you define how a reply ends, how an error after the first byte looks, and how a client resumes",
        "sse": "text alone, one way" + (f"; {size} a token" if size else ""),
        "websocket": "you build what HTTP has: retries, status codes, and which answer belongs to which request",
        "grpc": "generated code, and a path that speaks HTTP/2 from end to end"
        + (f"; {cpu} of server CPU a token in Python ({_cpu_cause(facts, 'grpc')})" if cpu else ""),
    }.get(lane, "not measured")


def _cpu_cause(facts: Facts, lane: str) -> str:
    """Why a lane's server needs more CPU; for gRPC with the figure of the other library, where the run has it."""
    why = cause("server_us", lane)
    other = facts.median("throughput", "server_us", "grpc-asgi") if lane == "grpc" else None
    return f"{why}: by connectrpc on uvicorn {number(other)} µs" if other is not None else why


_HELD = ("websocket", "grpc")
_YES = Judged()


def _tokens(facts: Facts, lane: str) -> Judged:
    if lane == "rest":
        first = facts.say("1 stream", "ttft", lane)
        return Judged(
            False, 0, "its first token is its last" + (f", after {first}" if first else ""), _cell("1 stream", facts)
        )
    if lane == "rest-poll":
        return Judged(True, 2, "a request for each batch of tokens", "RFC 6202, section 2")
    return _YES


def _browser(facts: Facts, lane: str) -> Judged:
    return {
        "rest": Judged(why="fetch"),
        "rest-poll": Judged(price=1, why="a loop of your own around fetch"),
        "ndjson": Judged(price=1, why="your own code splits lines, and resumes after a cut"),
        "sse": Judged(why="EventSource parses and reconnects by itself", source="WHATWG HTML, section 9.2"),
        "websocket": Judged(price=1, why="your own code resumes after a cut"),
        "grpc": Judged(
            price=2,
            why="a page has only gRPC-Web: a port and a library of its own, and it can send no stream",
            source="gRPC-Web",
        ),
    }.get(lane, _YES)


def _resume(facts: Facts, lane: str) -> Judged:
    back = facts.say("cut, with resume", "back", lane)
    if lane == "sse":
        return Judged(why=f"Last-Event-ID is in the protocol{_after(back)}", source="WHATWG HTML, section 9.2")
    if lane == "rest":
        return Judged(
            price=2, why=f"the request is repeated with its key, and the whole reply awaited again{_after(back)}"
        )
    return Judged(price=1, why=f"you define the cursor yourself{_after(back)}", source=_cell("cut, with resume", facts))


def _after(back: str) -> str:
    return f"; the next token {back} after the cut" if back else ""


def _behind(experiment: str) -> Rule:
    def rule(facts: Facts, lane: str) -> Judged:
        if held := facts.held.get((experiment, lane)):
            return Judged(True, 3, held, experiment)
        if experiment in facts.measured:
            return Judged(why=f"not held up, delay p50 {facts.say(experiment, 'delay_p50', lane)}", source=experiment)
        if lane in ("ndjson", "sse"):
            why = "a proxy that ignores X-Accel-Buffering holds the answer back; set proxy_buffering off and no compression for it"
            return Judged(True, 1, why, "nginx, ngx_http_proxy_module")
        if lane in _HELD:
            return Judged(why="frames of a long connection are passed on; the proxy must know the protocol")
        return Judged(why="each answer is short and whole")

    return rule


def _mobile(facts: Facts, lane: str) -> Judged:
    if lane == "rest":
        return Judged(price=2, why="after a cut nothing is shown until the whole reply is there")
    return _dearer(facts, "network mobile", "delay_p50", lane, "a token is on its way for")


def _both_ways(facts: Facts, lane: str) -> Judged:
    if lane in _HELD:
        return Judged(why="one connection both ways", source="RFC 6455; RFC 9113")
    stop = facts.say("cancel", "cancel", lane)
    why = "what the client says meanwhile is a request of its own" + (f" (stopping takes {stop})" if stop else "")
    return Judged(True, 2, why, "RFC 9110, section 3.4")


def _pictures(facts: Facts, lane: str) -> Judged:
    if lane in _HELD:
        return Judged(why="bytes as they are, on the same connection")
    if lane == "rest":
        return Judged(why="GET of the bytes as they are: Accept: image/*")
    experiment = next((name for name in sorted(facts.measured) if name.startswith("picture ")), "")
    by_id = facts.say(experiment, "image_get", lane)
    extra = f", in {by_id}" if by_id else ""
    return Judged(
        why=f"one GET by the picture's id brings its bytes as they are{extra}; in the stream base64 adds a third"
    )


def _many_streams(facts: Facts, lane: str) -> Judged:
    memory, cpu = (facts.median(*cell, lane) for cell in (("memory", "stream_kib"), ("throughput", "server_us")))
    least_memory, least_cpu = (_least(facts, *cell) for cell in (("memory", "stream_kib"), ("throughput", "server_us")))
    said, price = [], 0
    if memory is not None and memory > _RATIO * least_memory:
        said.append(f"{number(memory)} KiB an open stream, the least is {number(least_memory)} KiB")
        price = 1
    if cpu is not None and cpu > _TWICE * least_cpu:
        why = _cpu_cause(facts, lane)
        said.append(
            f"{number(cpu)} µs of server CPU a token, the least is {number(least_cpu)} µs"
            + (f" ({why})" if why else "")
        )
        price += 1
    return Judged(True, price, " and ".join(said), _cell("memory", facts) if said else "")


def _bytes(facts: Facts, lane: str) -> Judged:
    mine = facts.median("bytes", "down_per_token", lane)
    streaming = [one for one in facts.lanes if one != "rest"]
    least = min((value for one in streaming if (value := facts.median("bytes", "down_per_token", one))), default=0.0)
    if mine is None or mine <= _RATIO * least:
        return Judged(why=f"{number(mine)} bytes a token" if mine else "")
    why = cause("down_per_token", lane)
    return Judged(
        True,
        1 if mine <= _TWICE * least else 2,
        f"{number(mine)} bytes a token, the least of a stream is {number(least)}" + (f" ({why})" if why else ""),
        _cell("bytes", facts),
    )


def _machines(facts: Facts, lane: str) -> Judged:
    if lane in _HELD:
        return Judged(
            True,
            1,
            "a held connection stays where it was opened; a balancer moves only new ones",
            "gRPC, load balancing",
        )
    return _YES


def _curl(facts: Facts, lane: str) -> Judged:
    if lane == "websocket":
        return Judged(True, 2, "a tool that speaks frames, such as websocat", "RFC 6455, section 5")
    if lane == "grpc":
        return Judged(True, 2, "a tool with the contract, such as grpcurl", "RFC 9113, section 4")
    return _YES


def _contract(facts: Facts, lane: str) -> Judged:
    if lane == "grpc":
        return Judged(why="the .proto gives requests, events and errors their types, and clients are generated from it")
    if lane == "rest":
        return Judged(why="OpenAPI gives requests, answers and errors their types")
    return Judged(True, 2, "no contract that tools check covers the events of the stream")


def _simple(facts: Facts, lane: str) -> Judged:
    price = {"rest": 0, "ndjson": 1, "sse": 1, "rest-poll": 1, "websocket": 2, "grpc": 3}.get(lane, 0)
    return Judged(True, price, "more concepts to learn and to debug" if price else "")


def _dearer(facts: Facts, experiment: str, metric: str, lane: str, what: str) -> Judged:
    """A price where the lane is worse than the best lane by more than anybody can feel."""
    mine = facts.figure(experiment, metric, lane)
    others = [found for one in facts.lanes if (found := facts.figure(experiment, metric, one)) is not None]
    if mine is None or not others:
        return _YES
    best = min(others, key=lambda found: found.median)
    felt = matters(METRICS[metric], best, mine)
    best_said = f"{number(best.median)} {METRICS[metric].unit}"
    said = f"{what} {facts.say(experiment, metric, lane)}" + (f", the best {best_said}" if felt else "")
    return Judged(True, int(felt), said, experiment)


def _least(facts: Facts, experiment: str, metric: str) -> float:
    return min(
        (value for lane in facts.lanes if (value := facts.median(experiment, metric, lane)) is not None), default=0.0
    )


def _cell(experiment: str, facts: Facts) -> str:
    return f"{facts.source}, “{experiment}”" if experiment in facts.measured else ""


_QUESTIONS: tuple[_Question, ...] = (
    _Question("tokens", "the text appears as it is generated", _tokens),
    _Question("browser", "a web page is the client", _browser),
    _Question("resume", "going on after a cut, without paying twice", _resume),
    _Question("both-ways", "both sides speak at once: typing, voice, several people", _both_ways),
    _Question("pictures", "large pictures", _pictures),
    _Question("contract", "services that share a typed contract", _contract),
    _Question("bytes", "the fewest bytes", _bytes),
    _Question("streams", "many open streams on a server", _many_streams),
    _Question("machines", "many machines behind a balancer", _machines),
    _Question("proxy", "passing a proxy that buffers", _behind("nginx, gzip and buffering")),
    _Question("gzip", "passing a proxy that compresses", _behind("nginx, compressing")),
    _Question("mobile", "mobile lines, which are slow and break", _mobile),
    _Question("curl", "looking at it with curl", _curl),
    _Question("simple", "the least to learn", _simple),
)
NEEDS: Mapping[str, str] = {question.name: question.title for question in _QUESTIONS}
