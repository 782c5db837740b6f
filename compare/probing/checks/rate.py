"""Rate: whether the path refuses or delays requests that come quickly one after another."""

from __future__ import annotations

import asyncio

from compare.probing.heard import Heard, now
from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import Subject

QUICK = 12
# The first ones may pass before a limit is reached.
_FREE = 4
# Requests are called delayed when each of the others takes this long, and the quickest one alone, after a rest, half of that.
DELAYED_S = 0.2
_ALONE_SHARE = 0.5
_ALONE = 3
_REST_S = 1.5
_ANSWERED = frozenset({200, 401})
_ANSWERED_RPC = frozenset({0, 16})


async def check(subject: Subject) -> Outcome:
    """Ask twelve small questions one after another. None of them starts a turn."""
    took_s = []
    for number in range(QUICK):
        heard, seconds = await _asked(subject)
        if not _answered(heard):
            return _found(subject, f"quick request {number + 1} of {QUICK} is refused: {heard.words}")
        took_s.append(seconds)
    quick_s = min(took_s[_FREE:])
    if quick_s < DELAYED_S:
        return Outcome(f"{QUICK} quick requests pass")
    alone_s = min([await _asked_alone(subject) for _ in range(_ALONE)])
    if alone_s > _ALONE_SHARE * quick_s:
        return Outcome(f"{QUICK} requests pass, each after {quick_s:.1f} s and more")
    return _found(subject, f"each quick request takes {quick_s:.1f} s and more, one alone {alone_s:.1f} s")


async def _asked(subject: Subject) -> tuple[Heard, float]:
    begun_s = now()
    heard = await subject.wire.authorized(subject.target)
    return heard, now() - begun_s


async def _asked_alone(subject: Subject) -> float:
    await asyncio.sleep(_REST_S)
    return (await _asked(subject))[1]


def _answered(heard: Heard) -> bool:
    return heard.status in _ANSWERED or heard.rpc_status in _ANSWERED_RPC


def _found(subject: Subject, words: str) -> Outcome:
    return Outcome(words, (Finding("rate_limited", subject.wire.word, words),))
