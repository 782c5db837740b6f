"""From the arrivals of one turn to its numbers: a function for each formula.

t0 is the moment at which the request was sent, e_i is the arrival of the i-th chunk, at_i is the time at which the chunk was
appended to the turn's log. A function returns None where the turn has no such number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from compare.measuring.statistics import quantile
from compare.measuring.turns import Arrival, TurnRecord

COALESCED_MS = 1.0

Formula = Callable[[TurnRecord], float | None]


def _chunks(turn: TurnRecord) -> list[Arrival]:
    """The chunks that were shown; a whole reply counts as one chunk."""
    return turn.of("chunk", "reply")


def _chunks_before_loss(turn: TurnRecord) -> list[Arrival]:
    """The chunks before the first loss. Later chunks are replayed from the log, so their times say nothing of the transport."""
    found = []
    for arrival in turn.arrivals:
        if arrival.type in ("lost", "asked"):
            break
        if arrival.type == "chunk":
            found.append(arrival)
    return found


def ttfe(turn: TurnRecord) -> float | None:
    """First event − t0."""
    events = [arrival for arrival in turn.arrivals if arrival.type not in ("lost", "resumed", "cut", "asked")]
    return events[0].ms if events else None


def ttft(turn: TurnRecord) -> float | None:
    """First non-empty chunk − t0."""
    return next((arrival.ms for arrival in _chunks(turn) if arrival.size > 0), None)


def first_output(turn: TurnRecord) -> float | None:
    """The first sign of output, a thought or a chunk, − t0; None where the model reported no thought."""
    thoughts = turn.of("thinking")
    return thoughts[0].ms if thoughts else None


def tokens_per_chunk(turn: TurnRecord) -> float | None:
    """Output tokens by the model's own usage / chunks; None where it tells no usage, or the reply came whole."""
    chunks = {arrival.seq for arrival in turn.of("chunk")}
    return turn.output_tokens / len(chunks) if turn.output_tokens is not None and chunks else None


def gaps(turn: TurnRecord) -> list[float]:
    """ICL: e_i − e_(i−1) before the first loss. A whole reply has no gaps."""
    return [after.ms - before.ms for before, after in itertools.pairwise(_chunks_before_loss(turn))]


def icl(q: float) -> Formula:
    """The q-quantile of a turn's gaps."""
    return lambda turn: quantile(gaps(turn), q)


def jitter(turn: TurnRecord) -> float | None:
    """p99 − p50 of the gaps."""
    high, middle = quantile(gaps(turn), 0.99), quantile(gaps(turn), 0.5)
    return None if high is None or middle is None else high - middle


def tpot(turn: TurnRecord) -> float | None:
    """(last chunk − first chunk) / (n − 1)."""
    times = [arrival.ms for arrival in turn.of("chunk")]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


def e2e(turn: TurnRecord) -> float | None:
    """Terminal event − t0."""
    ends = turn.of("reply", "picture", "turn_completed", "turn_failed", "turn_cancelled", "turn_interrupted")
    return ends[-1].ms if ends else None


def delays(turn: TurnRecord) -> list[float]:
    """Transport delay: e_i − at_i before the first loss."""
    return [arrival.ms - arrival.logged_ms for arrival in _chunks_before_loss(turn) if arrival.logged_ms is not None]


def delay(q: float) -> Formula:
    """The q-quantile of a turn's transport delays."""
    return lambda turn: quantile(delays(turn), q)


def coalescing(turn: TurnRecord) -> float | None:
    """The share of chunks that arrive less than 1 ms after the chunk before."""
    return _coalesced_share(gaps(turn))


def model_coalescing(turn: TurnRecord) -> float | None:
    """The share of chunks that were logged less than 1 ms after the chunk before: the coalescing of the model itself."""
    times = [arrival.logged_ms for arrival in _chunks_before_loss(turn) if arrival.logged_ms is not None]
    return _coalesced_share([after - before for before, after in itertools.pairwise(times)])


def _coalesced_share(gaps_ms: list[float]) -> float | None:
    return sum(gap < COALESCED_MS for gap in gaps_ms) / len(gaps_ms) if gaps_ms else None


def text_bytes(turn: TurnRecord) -> int:
    """UTF-8 bytes of the text; a token that was shown twice counts once."""
    return sum({arrival.seq: arrival.size for arrival in _chunks(turn)}.values())


def bytes_per_token(turn: TurnRecord) -> float | None:
    """TCP payload down / tokens."""
    return turn.down_bytes / turn.tokens if turn.down_bytes is not None and turn.tokens else None


def up_bytes(turn: TurnRecord) -> float | None:
    """TCP payload up."""
    return None if turn.up_bytes is None else float(turn.up_bytes)


def framing(turn: TurnRecord) -> float | None:
    """1 − text bytes / TCP payload down: the share of the events' fields, their encoding and the protocol's own bytes."""
    return 1 - text_bytes(turn) / turn.down_bytes if turn.down_bytes else None


def _cut(turn: TurnRecord) -> Arrival | None:
    return next(iter(turn.of("cut")), None)


def lost_tokens(turn: TurnRecord) -> float | None:
    """Tokens of the reply that the turn never showed after its cut; a second request does not make up for them."""
    if _cut(turn) is None:
        return None
    shown: set[int] = set()
    for arrival in turn.arrivals:
        if arrival.type == "asked":
            break
        if arrival.type == "reply":
            return 0.0
        if arrival.type == "chunk":
            shown.add(arrival.seq)
    return float(turn.tokens - len(shown))


def twice_tokens(turn: TurnRecord) -> float | None:
    """Tokens that were shown a second time. A second request shows the same text from its start, with the same seqs."""
    if _cut(turn) is None:
        return None
    shown = [arrival.seq for arrival in turn.of("chunk")]
    return float(len(shown) - len(set(shown)))


def again_tokens(turn: TurnRecord) -> float | None:
    """Tokens that the model generated beyond one reply, so that they are paid twice."""
    if _cut(turn) is None or turn.generated is None:
        return None
    return float(max(0, turn.generated - turn.tokens))


def detect_ms(turn: TurnRecord) -> float | None:
    """The client reports the loss − the line was cut."""
    cut = _cut(turn)
    reported = next(iter(turn.of("lost", "asked")), None)
    return reported.ms - cut.ms if cut is not None and reported is not None else None


def back_ms(turn: TurnRecord) -> float | None:
    """The first new token after the client has reported the loss − the line was cut."""
    cut = _cut(turn)
    if cut is None:
        return None
    shown: set[int] = set()
    reported = False
    for arrival in turn.arrivals:
        reported = reported or arrival.type in ("lost", "asked")
        if reported and (arrival.type == "reply" or (arrival.type == "chunk" and arrival.seq not in shown)):
            return arrival.ms - cut.ms
        if arrival.type == "chunk":
            shown.add(arrival.seq)
    return None
