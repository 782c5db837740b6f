"""From raw arrivals to every number a comparison states, each with its formula and its two measurement points.

A ``Take`` is one turn as one lane saw it, nothing but times and sizes; everything here is derived from takes. A round is the unit:
what has many values in a turn (gaps, delays) is first reduced to one number a turn, the turns of a round give their median, and
the interval comes from resampling rounds, because what happens to one token or one stream happens to its neighbours too.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

COALESCED_MS = 1.0
_RESAMPLES = 1000
_LEVEL = 0.95
# Below this no interval of a median reaches 95 % (the sign test's is 1 − 2 / 2^n), so nothing is claimed.
ENOUGH_ROUNDS = 6
# Chunks that the model spaced arrive together: because all are held (a buffer), or because some wait for a late packet.
_BUNCHED = 0.25
_ALONE = 0.2
_FAR_MS = 5.0
_LARGE_BYTES = 200_000


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """Something that reached the reader: ``ms`` after the request was sent; ``logged_ms`` its ``at``, after the same.

    ``type`` is the event's, or ``reply``, ``picture`` (whole answers of plain REST), ``lost``, ``resumed``, ``cut`` (what was
    done to the line), ``asked`` (again, after a loss without resume). ``size`` is its text's UTF-8 bytes, or its image bytes.
    """

    ms: float
    type: str
    seq: int
    logged_ms: float | None
    size: int
    text: str = ""


class Take(msgspec.Struct, kw_only=True):
    """One turn as one lane saw it. ``asked_at`` is epoch ms; bytes are TCP payload at the relay, None without one."""

    experiment: str
    lane: str
    round: int
    stream: int
    asked_at: float
    tokens: int
    arrivals: list[Arrival]
    up_bytes: int | None = None
    down_bytes: int | None = None
    resume: bool = True
    generated: int | None = None
    error: str | None = None

    def of(self, *types: str) -> list[Arrival]:
        """The arrivals of these types, in order."""
        return [arrival for arrival in self.arrivals if arrival.type in types]


class Sample(msgspec.Struct, kw_only=True):
    """One value of something that is no turn, as it was measured."""

    experiment: str
    lane: str
    round: int
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its formula; ``t0`` = request sent, e_i = arrival of the i-th chunk, at_i = when it was appended to the log.

    ``of_turn``: how it follows from a take; None for what is measured as it is (``Sample``).
    """

    name: str
    title: str
    unit: str
    formula: str
    points: str
    of_turn: Callable[[Take], float | None] | None
    better: Literal["lower", "higher", "neither"] = "lower"


def quantile(values: Iterable[float], q: float) -> float | None:
    """The q-quantile by linear interpolation between order statistics (Hyndman and Fan's type 7); None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


# -- one turn --------------------------------------------------------------------------------------------------------------


def chunks(take: Take) -> list[Arrival]:
    """The chunks that were shown; a whole reply counts as one."""
    return take.of("chunk", "reply")


def ttfe(take: Take) -> float | None:
    """First event − t0."""
    events = [arrival for arrival in take.arrivals if arrival.type not in ("lost", "resumed", "cut", "asked")]
    return events[0].ms if events else None


def ttft(take: Take) -> float | None:
    """First non-empty chunk − t0."""
    return next((arrival.ms for arrival in chunks(take) if arrival.size > 0), None)


def _live(take: Take) -> list[Arrival]:
    """The chunks up to the first loss; what comes after it is a replay."""
    found = []
    for arrival in take.arrivals:
        if arrival.type in ("lost", "asked"):
            break
        if arrival.type == "chunk":
            found.append(arrival)
    return found


def gaps(take: Take) -> list[float]:
    """ICL: e_i − e_(i−1), up to the first loss. A whole reply has none."""
    times = [arrival.ms for arrival in _live(take)]
    return [after - before for before, after in itertools.pairwise(times)]


def icl(q: float) -> Callable[[Take], float | None]:
    """The q-quantile of a turn's gaps."""
    return lambda take: quantile(gaps(take), q)


def jitter(take: Take) -> float | None:
    """p99 − p50 of the gaps."""
    high, middle = quantile(gaps(take), 0.99), quantile(gaps(take), 0.5)
    return None if high is None or middle is None else high - middle


def tpot(take: Take) -> float | None:
    """(last chunk − first chunk) / (n − 1)."""
    times = [arrival.ms for arrival in take.of("chunk")]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


def e2e(take: Take) -> float | None:
    """Terminal event − t0."""
    ends = take.of("reply", "picture", "turn_completed", "turn_failed", "turn_cancelled", "turn_interrupted")
    return ends[-1].ms if ends else None


def delays(take: Take) -> list[float]:
    """Transport delay: e_i − at_i, up to the first loss."""
    return [arrival.ms - arrival.logged_ms for arrival in _live(take) if arrival.logged_ms is not None]


def delay(q: float) -> Callable[[Take], float | None]:
    """The q-quantile of a turn's transport delays."""
    return lambda take: quantile(delays(take), q)


def coalescing(take: Take) -> float | None:
    """Share of chunks that arrive less than 1 ms after the one before."""
    found = gaps(take)
    return sum(gap < COALESCED_MS for gap in found) / len(found) if found else None


def model_coalescing(take: Take) -> float | None:
    """The same share by the times at which the chunks were logged: what the model itself bunched."""
    times = [arrival.logged_ms for arrival in _live(take) if arrival.logged_ms is not None]
    found = [after - before for before, after in itertools.pairwise(times)]
    return sum(gap < COALESCED_MS for gap in found) / len(found) if found else None


def alone(take: Take) -> float | None:
    """Share of chunks that arrive with none less than 1 ms before or after: nothing held them back together."""
    found = gaps(take)
    if len(found) < 2:
        return None
    single = sum(min(before, after) >= COALESCED_MS for before, after in itertools.pairwise(found))
    return single / (len(found) - 1)


def picture_rate(take: Take) -> float | None:
    """MB of TCP payload a second, from the first to the last piece of a picture that is large enough to tell."""
    pieces = take.of("image_chunk")
    if not take.down_bytes or take.down_bytes < _LARGE_BYTES or len(pieces) < 2 or pieces[-1].ms <= pieces[0].ms:
        return None
    # The first piece has come already when the clock starts.
    size = take.down_bytes * (1 - pieces[0].size / sum(piece.size for piece in pieces))
    return size / 1000 / (pieces[-1].ms - pieces[0].ms)


def text_bytes(take: Take) -> int:
    """UTF-8 bytes of the text shown, each token once."""
    return sum({arrival.seq: arrival.size for arrival in chunks(take)}.values())


def bytes_per_token(take: Take) -> float | None:
    """TCP payload down / tokens."""
    return take.down_bytes / take.tokens if take.down_bytes is not None and take.tokens else None


def up_bytes(take: Take) -> float | None:
    """TCP payload up."""
    return None if take.up_bytes is None else float(take.up_bytes)


def framing(take: Take) -> float | None:
    """1 − text bytes / TCP payload down: events' fields, their encoding, and the protocol's own bytes."""
    return 1 - text_bytes(take) / take.down_bytes if take.down_bytes else None


# -- a cut -----------------------------------------------------------------------------------------------------------------


def _cut(take: Take) -> Arrival | None:
    return next(iter(take.of("cut")), None)


def _shown(take: Take) -> list[int]:
    """The seqs shown to the person, in order; asking again starts the same text from its beginning."""
    return [arrival.seq for arrival in take.of("chunk")]


def lost_tokens(take: Take) -> float | None:
    """Tokens of the reply that were never shown by the turn that was cut, without asking again."""
    if _cut(take) is None:
        return None
    shown: set[int] = set()
    for arrival in take.arrivals:
        if arrival.type == "asked":
            break
        if arrival.type == "reply":
            return 0.0
        if arrival.type == "chunk":
            shown.add(arrival.seq)
    return float(take.tokens - len(shown))


def twice_tokens(take: Take) -> float | None:
    """Tokens that were shown a second time."""
    if _cut(take) is None:
        return None
    shown = _shown(take)
    return float(len(shown) - len(set(shown)))


def again_tokens(take: Take) -> float | None:
    """Tokens the model generated beyond one reply: paid twice."""
    if _cut(take) is None or take.generated is None:
        return None
    return float(max(0, take.generated - take.tokens))


def detect_ms(take: Take) -> float | None:
    """The client knows − the line was cut."""
    cut = _cut(take)
    known = next((arrival for arrival in take.arrivals if arrival.type in ("lost", "asked")), None)
    return known.ms - cut.ms if cut is not None and known is not None else None


def back_ms(take: Take) -> float | None:
    """The first token not shown before, once the client knows of the cut − the line was cut."""
    cut = _cut(take)
    if cut is None:
        return None
    seen: set[int] = set()
    known = False
    for arrival in take.arrivals:
        known = known or arrival.type in ("lost", "asked")
        if known and (arrival.type == "reply" or (arrival.type == "chunk" and arrival.seq not in seen)):
            return arrival.ms - cut.ms
        if arrival.type == "chunk":
            seen.add(arrival.seq)
    return None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "ttfe", "TTFE", "ms", "first event − t0", "client sends the request → client has parsed the event", ttfe
        ),
        Metric(
            "ttft", "TTFT", "ms", "first non-empty chunk − t0", "client sends the request → client has parsed it", ttft
        ),
        Metric(
            "icl_p50", "ICL p50", "ms", "median of e_i − e_(i−1)", "two arrivals at one client", icl(0.5), "neither"
        ),
        Metric("icl_p90", "ICL p90", "ms", "p90 of e_i − e_(i−1)", "two arrivals at one client", icl(0.9)),
        Metric("icl_p99", "ICL p99", "ms", "p99 of e_i − e_(i−1)", "two arrivals at one client", icl(0.99)),
        Metric("jitter", "jitter", "ms", "p99 − p50 of e_i − e_(i−1)", "two arrivals at one client", jitter),
        Metric("tpot", "TPOT", "ms", "(e_n − e_1) / (n − 1)", "first and last arrival at one client", tpot, "neither"),
        Metric("e2e", "E2E", "ms", "terminal event − t0", "client sends the request → client has the end", e2e),
        Metric(
            "delay_p50",
            "delay p50",
            "ms",
            "median of e_i − at_i",
            "appended to the log → client has parsed it",
            delay(0.5),
        ),
        Metric(
            "delay_p99",
            "delay p99",
            "ms",
            "p99 of e_i − at_i",
            "appended to the log → client has parsed it",
            delay(0.99),
        ),
        Metric(
            "coalescing",
            "coalescing",
            "share",
            "chunks with e_i − e_(i−1) < 1 ms / (n − 1)",
            "two arrivals at one client",
            coalescing,
            "neither",
        ),
        Metric(
            "down_per_token",
            "bytes a token",
            "B",
            "TCP payload down / tokens",
            "at the relay, one turn on a connection of its own",
            bytes_per_token,
        ),
        Metric(
            "up_bytes", "bytes up", "B", "TCP payload up", "at the relay, one turn on a connection of its own", up_bytes
        ),
        Metric(
            "framing",
            "not text",
            "share",
            "1 − UTF-8 bytes of the text / TCP payload down",
            "at the relay, one turn on a connection of its own",
            framing,
        ),
        Metric(
            "lost",
            "lost",
            "tokens",
            "tokens of the reply − distinct tokens shown",
            "the turn that was cut",
            lost_tokens,
        ),
        Metric(
            "twice", "shown twice", "tokens", "tokens shown − distinct tokens shown", "all of the take", twice_tokens
        ),
        Metric(
            "again", "paid twice", "tokens", "tokens generated − tokens of the reply", "the server's log", again_tokens
        ),
        Metric("detect", "to detect", "ms", "client knows − cut", "relay cuts → client reports it", detect_ms),
        Metric("connect_cold", "cold connect", "ms", "connect() and first ping of a new client", "client only", None),
        Metric("connect_warm", "warm ping", "ms", "ping on a connection that is open", "client only", None),
        Metric(
            "cancel",
            "to stop the model",
            "ms",
            "at of turn_cancelled − cancel pressed",
            "client calls cancel → the model's iterator is closed",
            None,
        ),
        Metric(
            "cancel_seen",
            "to see it stopped",
            "ms",
            "end of the answer − cancel pressed",
            "client calls cancel → client has the end",
            None,
        ),
        Metric(
            "tokens_per_s",
            "throughput",
            "tokens/s",
            "tokens shown / seconds, the model does not wait",
            "client; where its own CPU is full, it is the limit",
            None,
            "higher",
        ),
        Metric(
            "server_us",
            "server CPU",
            "µs/event",
            "user and system time of the server / events",
            "/proc/<server>/stat at the edges of the experiment",
            None,
        ),
        Metric(
            "client_us",
            "client CPU",
            "µs/event",
            "user and system time of the client / events",
            "this process; the relay is not in it",
            None,
        ),
        Metric("goodput", "goodput", "turns/s", "turns that met all objectives / seconds", "client", None, "higher"),
        Metric(
            "stream_kib",
            "an open stream",
            "KiB",
            "resident memory with N waiting streams − without / N",
            "/proc/<server>/statm, a client and a turn each",
            None,
        ),
        Metric(
            "image_get", "by its id", "ms", "get_image done − called", "client; the bytes as they are on all five", None
        ),
        Metric("image_ms", "picture", "ms", "picture whole − t0, replayed from the log", "client", None),
        Metric(
            "image_cpu",
            "server CPU",
            "ms/MB",
            "user and system time of the server / MB of picture",
            "/proc/<server>/stat",
            None,
        ),
        Metric("image_wire", "on the wire", "B/B", "TCP payload down / bytes of picture", "at the relay", None),
        Metric(
            "slow_kib",
            "server memory",
            "KiB",
            "resident memory while one reads slowly − before",
            "/proc/<server>/statm",
            None,
        ),
        Metric(
            "back",
            "to next token",
            "ms",
            "first new token after the loss − cut",
            "relay cuts → client has parsed it",
            back_ms,
        ),
    )
}


# -- many turns ------------------------------------------------------------------------------------------------------------


class Figure(msgspec.Struct, frozen=True):
    """A median over ``n`` rounds with the 95 % interval of its bootstrap, and the worst round's value."""

    median: float
    low: float
    high: float
    n: int
    worst: float


def figure(values: Sequence[float], seed: int = 1) -> Figure | None:
    """Median and percentile bootstrap (1,000 resamples, seeded); None of no values."""
    if not values:
        return None
    middle = statistics.median(values)
    if len(values) == 1:
        return Figure(middle, middle, middle, 1, middle)
    dice = random.Random(seed)
    medians = [statistics.median(dice.choices(values, k=len(values))) for _ in range(_RESAMPLES)]
    low, high = quantile(medians, (1 - _LEVEL) / 2), quantile(medians, (1 + _LEVEL) / 2)
    assert low is not None and high is not None
    return Figure(middle, low, high, len(values), max(values))


def summarise(takes: Sequence[Take], names: Iterable[str] = METRICS) -> dict[str, Figure]:
    """The metrics of these takes, where they have any; a take that failed counts in none."""
    found = {}
    for name in names:
        of_turn = METRICS[name].of_turn
        if of_turn is None:
            continue
        rounds: dict[int, list[float]] = {}
        for take in takes:
            if take.error is None and (value := of_turn(take)) is not None:
                rounds.setdefault(take.round, []).append(value)
        made = figure([statistics.median(values) for values in rounds.values()])
        if made is not None:
            found[name] = made
    return found


def differ(a: Figure, b: Figure) -> bool:
    """Whether the two intervals are apart; fewer than six rounds have none worth the name, so they show no difference."""
    return min(a.n, b.n) >= ENOUGH_ROUNDS and (a.high < b.low or b.high < a.low)


def verdict(metric: Metric, by_lane: dict[str, Figure]) -> str:
    """Who is best, in words. Lanes whose intervals overlap with the best one's are not told apart from it."""
    if len(by_lane) < 2 or metric.better == "neither":
        return ""
    least = min(figure.n for figure in by_lane.values())
    if least < ENOUGH_ROUNDS:
        return (
            f"{metric.title}: {least} rounds a lane are too few to tell a difference ({ENOUGH_ROUNDS} are the least)."
        )
    order = sorted(by_lane, key=lambda lane: by_lane[lane].median, reverse=metric.better == "higher")
    best = order[0]
    equal = [lane for lane in order if lane == best or not differ(by_lane[best], by_lane[lane])]
    if len(equal) == len(order):
        return f"{metric.title}: no difference found between {_listed(order)}."
    behind = [lane for lane in order if lane not in equal]
    word = "lower" if metric.better == "lower" else "higher"
    head = f"{metric.title}: {_listed(equal)} {word} ({_value(metric, by_lane[best])})"
    if len(equal) > 1:
        head += ", no difference found between them,"
    return f"{head} than {', '.join(f'{lane} ({_value(metric, by_lane[lane])})' for lane in behind)}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def number(value: float, like: float | None = None) -> str:
    """A figure for people: three digits, or all before the point; as many after it as ``like`` has."""
    size = abs(value if like is None else like)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def _value(metric: Metric, figure: Figure) -> str:
    return f"{figure.median:.0%}" if metric.unit == "share" else f"{number(figure.median)} {metric.unit}"


class Objectives(msgspec.Struct, frozen=True):
    """What a turn must meet to count in the goodput, all of it; milliseconds."""

    ttft_ms: float = 300.0
    icl_p99_ms: float = 150.0
    e2e_ms: float = 10_000.0

    def met(self, take: Take) -> bool:
        """Whether the turn met all of them; a turn that failed has not."""
        limits = ((ttft(take), self.ttft_ms), (quantile(gaps(take), 0.99), self.icl_p99_ms), (e2e(take), self.e2e_ms))
        if take.error is not None or limits[0][0] is None or limits[2][0] is None:
            return False
        return all(value is None or value <= limit for value, limit in limits)


def goodput(takes: Sequence[Take], objectives: Objectives, seconds: float) -> float:
    """Turns that met all objectives, a second."""
    return sum(objectives.met(take) for take in takes) / seconds


def findings(takes: Sequence[Take]) -> list[str]:
    """What the path does to these turns, in words: a delay, a buffer, stalls; empty when nothing stands out."""
    found = []
    late = [value for take in takes for value in delays(take)]
    least, most = quantile(late, 0.05), quantile(late, 0.95)
    share, own, single = (_median(of_turn, takes) for of_turn in (coalescing, model_coalescing, alone))
    if share - own > _BUNCHED:
        bunched = f"{share:.0%} of the chunks arrived less than 1 ms after the one before, the model bunched {own:.0%}"
        if single < _ALONE:
            found.append(f"a buffer on the path: {bunched}; tokens were held for up to {most or 0:,.0f} ms (p95)")
        else:
            found.append(
                f"stalls on the path: {bunched}, but {single:.0%} arrived alone; p95 of the delay {most or 0:,.0f} ms"
            )
    rate = quantile([value for take in takes if (value := picture_rate(take)) is not None], 0.5)
    if rate is not None:
        found.append(f"a bandwidth of about {rate:,.2f} MB/s, as long as the picture came")
    if least is not None and least >= _FAR_MS:
        found.append(f"a one-way delay of about {least:,.0f} ms: no token was faster than that")
    return found


def _median(of_turn: Callable[[Take], float | None], takes: Sequence[Take]) -> float:
    values = [value for take in takes if (value := of_turn(take)) is not None]
    return statistics.median(values) if values else 0.0
