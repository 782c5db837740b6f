"""Pace: whether the path holds tokens back, in how many pieces they come, and whether the path compresses them.

An event has the server's stamp ``at``. Its lateness is (arrival - at) less the smallest such difference of the turn, so that no
clock is shared. Held means more than 0.25 s late in at most 0.6 of the pieces in which the server has sent: lateness alone would
also be seen on a busy machine. What was read after a pause of this program is left out, and a turn that looks held is repeated
before it is called so, more often where this program was late.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from compare.probing.heard import Heard, HeardEvent, now
from compare.probing.outcome import Finding, Kind, Outcome
from compare.probing.stream import read_whole
from compare.probing.subject import GRACE_S, Subject
from compare.probing.wires import Wire

TOKENS = 40
PAUSE_S = 1.5
MESSAGE = f"/tokens {TOKENS} /stall {PAUSE_S:g} hello"
LATE_S = 0.25
HELD_SHARE = 0.6
# A start or an end that is later than this is reported even where the pieces are many.
SLOW_START_S = 0.4
SLOW_LINE_S = 1.0
# Stamps that are closer than this may share a write of the server.
BURST_S = 0.02
# A turn is judged when this share of its events was read in time.
JUDGED_SHARE = 0.5
TRIES = 6
# A turn must look held so often. Where this program was late, the machine starves a hop on it too.
SURE, SURE_WHEN_BUSY = 2, 3
_TURN_S = TOKENS / 2 + GRACE_S
_OK, _NOT_FOUND, _TOO_MANY, _BUSY = 200, 404, 429, 503
_REST_S, LATER = 2.5, 6

Verdict = Literal["in time", "held", "slow_start", "slow_line"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How one turn arrived. ``late_s`` is that of the latest event, ``first_late_s`` and ``last_late_s`` of the first and last."""

    verdict: Verdict
    events: int
    pieces: int
    piece_bytes: int
    late_s: float
    first_late_s: float
    last_late_s: float

    @property
    def words(self) -> str:
        """The pace for people."""
        how = "in time" if self.verdict == "in time" else f"{self.late_s:.1f} s late"
        pieces = "1 piece" if self.pieces == 1 else f"{self.pieces} pieces"
        return f"{how}, {self.events} events in {pieces} of about {self.piece_bytes:,} B"


def pace_of(heard: Heard, paused_at: Callable[[float], bool] = lambda moment: False) -> Pace | None:
    """The pace of a turn; None where fewer than eight of its events have a stamp, or too many were read after a pause."""
    every = [event for event in heard.events if event.at_s is not None]
    stamped = [event for event in every if not paused_at(event.arrived_s)]
    if len(stamped) < max(8, JUDGED_SHARE * len(every)):
        return None
    delays = [event.arrived_s - (event.at_s or 0.0) for event in stamped]
    lates = [delay - min(delays) for delay in delays]
    stamps = [event.at_s or 0.0 for event in stamped]
    bursts = 1 + sum(later - earlier > BURST_S for earlier, later in pairwise(stamps))
    pieces = len({event.piece for event in stamped})
    return Pace(
        verdict=_verdict(stamped, lates, pieces, bursts),
        events=len(stamped),
        pieces=pieces,
        piece_bytes=round(sum(size for _, size in heard.pieces) / max(1, len(heard.pieces))),
        late_s=max(lates),
        first_late_s=lates[0],
        last_late_s=lates[-1],
    )


def _verdict(stamped: list[HeardEvent], lates: list[float], pieces: int, bursts: int) -> Verdict:
    if max(lates) <= LATE_S:
        return "in time"
    first = sum(event.piece == stamped[0].piece for event in stamped)
    if lates[0] > SLOW_START_S and 4 <= first <= len(lates) * 2 / 3 and max(lates[first:]) <= LATE_S:
        return "slow_start"
    if pieces <= HELD_SHARE * bursts:
        return "held"
    growing = lates[-1] - lates[-len(lates) // 4] > LATE_S and lates[-1] >= 0.9 * max(lates)
    if lates[-1] > SLOW_LINE_S and growing:
        return "slow_line"
    return "in time"


async def check(subject: Subject) -> Outcome:
    """Read a turn with and without an offer to compress; repeat what does not look in time."""
    if not subject.wire.tokens:
        return await _check_reply(subject)
    verdicts: list[Kind] = []
    steadiness, begun_s = subject.steadiness, now()
    for _ in range(TRIES):
        plain, zipped = await _two_turns(subject)
        whole = next((heard for heard in (plain, zipped) if heard.end == "whole"), None)
        subject.turn = whole or subject.turn
        # A turn that was cut tells the rate, too.
        subject.tokens_per_s = tokens_per_s(whole or max(plain, zipped, key=lambda heard: len(heard.tokens)))
        if len(plain.events) < 8 and len(zipped.events) < 8:
            return await not_a_turn(subject, plain)
        heards = (plain, zipped)
        paces = [(heard, pace) for heard in heards if (pace := pace_of(heard, steadiness.paused_at)) is not None]
        if not paces:
            continue
        heard, worst = max(paces, key=lambda found: (found[1].verdict != "in time", found[1].late_s))
        if worst.verdict == "in time":
            return _outcome(subject, worst, zipped, ())
        verdicts.append(worst.verdict)
        needed = SURE_WHEN_BUSY if steadiness.worst_s(begun_s) else SURE
        if verdicts.count(worst.verdict) >= needed:
            return _outcome(subject, worst, zipped, (_finding(subject, worst, heard, zipped),))
    if len(verdicts) < 2:
        words = f"not judged: this machine was too slow itself, {steadiness.worst_s(begun_s):.1f} s late"
    else:
        words = f"not judged: {', '.join(verdicts)} in {TRIES} tries"
    return Outcome(words, judged=False)


def tokens_per_s(heard: Heard) -> float:
    """The rate at which the server stamped the tokens, without the pause in their middle; 0 where it cannot be told."""
    stamps = [event.at_s for event in heard.tokens if event.at_s is not None]
    if len(stamps) < 8:
        return 0.0
    pause_s = max(later - earlier for earlier, later in pairwise(stamps))
    speaking_s = stamps[-1] - stamps[0] - pause_s
    return (len(stamps) - 2) / speaking_s if speaking_s > 0 else math.inf


async def _two_turns(subject: Subject) -> tuple[Heard, Heard]:
    async def one(gzip: bool) -> Heard:
        return await read_whole(await subject.wire.turn(subject.target, MESSAGE, gzip=gzip), _TURN_S)

    plain, zipped = await asyncio.gather(one(False), one(True))
    return plain, zipped


def _outcome(subject: Subject, worst: Pace, zipped: Heard, findings: tuple[Finding, ...]) -> Outcome:
    coding = zipped.headers.get("content-encoding")
    if coding is None:
        return Outcome(worst.words, findings)
    measured = f"the path compresses the stream ({coding}), {worst.words}"
    compressed = Finding("compressed", subject.wire.word, measured, {"coding": coding})
    return Outcome(f"{coding}, {worst.words}", (*findings, compressed))


def _finding(subject: Subject, worst: Pace, heard: Heard, zipped: Heard) -> Finding:
    assert worst.verdict != "in time"
    only = " where compression is offered" if heard is zipped and "content-encoding" in heard.headers else ""
    numbers = {
        "late_s": worst.late_s,
        "first_late_s": worst.first_late_s,
        "last_late_s": worst.last_late_s,
        "pieces": worst.pieces,
        "events": worst.events,
        "piece_bytes": worst.piece_bytes,
        "tokens": max(1, round(worst.events / worst.pieces)),
    }
    return Finding(worst.verdict, subject.wire.word, f"{worst.words}{only}", numbers)


async def _check_reply(subject: Subject) -> Outcome:
    """A whole reply has no pace; it is only read."""
    heard = await read_whole(await subject.wire.turn(subject.target, "/tokens 8 hello"), GRACE_S)
    if heard.end != "whole":
        return await not_a_turn(subject, heard)
    subject.turn = heard
    return Outcome("one whole reply")


async def not_a_turn(subject: Subject, heard: Heard) -> Outcome:
    """The outcome where a turn was refused, or broke before it had enough events."""
    if heard.events:
        return Outcome(f"not judged: {heard.words}", judged=False)
    kind, words = refusal(subject.wire, heard)
    if kind == "refused" and heard.by_gateway and subject.wire.refused_by_server(heard) is None:
        passed = [await _passes_later(subject) for _ in range(LATER)]
        if all(passed) and heard.status == _BUSY:
            kind = "rate_limited"
        elif all(passed):
            again = await read_whole(await subject.wire.turn(subject.target, MESSAGE), _TURN_S)
            if again.events:
                return Outcome(f"not judged: {words}, once; {LATER + 1} later turns passed", judged=False)
            words = f"{again.words}; turns of two tokens pass, and this one of {TOKENS} does not"
            return Outcome(words, (Finding(kind, subject.wire.word, words),))
        elif any(passed):
            kind, words = "unreliable", f"{words}; of {LATER} later turns {sum(passed)} passed"
            return Outcome(words, (Finding(kind, subject.wire.word, words),))
    return Outcome(heard.words, (Finding(kind, subject.wire.word, f"no turn passes: {words}"),))


def refusal(wire: Wire, heard: Heard) -> tuple[Kind, str]:
    """The kind of a refusal, and in words who refused."""
    code = wire.refused_by_server(heard)
    if code is None:
        if heard.status == _OK:
            return "refused", f"HTTP 200 with {heard.media_type or 'no media type'}, which is no answer of the server"
        if heard.redirected:
            return "redirected", heard.words
        return ("rate_limited" if heard.status == _TOO_MANY else "refused"), heard.words
    if code == "permission_denied":
        return "host_changed", f"{heard.words}, from the server itself"
    return ("path_changed" if heard.status == _NOT_FOUND else "refused"), f"{heard.words}, from the server itself"


async def _passes_later(subject: Subject) -> bool:
    """Whether one request alone passes after a rest."""
    await asyncio.sleep(_REST_S)
    return (await read_whole(await subject.wire.turn(subject.target, "/tokens 2 hello"), GRACE_S)).end == "whole"
