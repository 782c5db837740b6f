"""Rate: whether the path refuses or delays requests that come quickly one after another, or refuses some at random."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
# Where every second request fails, six in a row pass in 1 of 64 cases.
_LONELY, _LONELY_REST_S = 6, 2.0
_TOO_MANY = 429
_ANSWERED = frozenset({200, 401})
_ANSWERED_RPC = frozenset({0, 16})


async def check(subject: Subject) -> Outcome:
    """Ask twelve small questions one after another. None of them starts a turn. One refusal alone may be an accident."""
    heards, took_s = await _ask_quickly(subject)
    if sum(not _answered(heard) for heard in heards) == 1:
        heards, took_s = await _ask_quickly(subject)
    refused = [number for number, heard in enumerate(heards) if not _answered(heard)]
    if refused:
        return await _judged(subject, heards, refused)
    quick_s = min(took_s[_FREE:])
    if quick_s < DELAYED_S:
        return Outcome(f"{QUICK} quick requests pass")
    alone_s = min([await _asked_alone(subject) for _ in range(_ALONE)])
    if alone_s > _ALONE_SHARE * quick_s:
        return Outcome(f"{QUICK} requests pass, each after {quick_s:.1f} s and more")
    return _found(subject, f"each quick request takes {quick_s:.1f} s and more, one alone {alone_s:.1f} s")


async def _ask_quickly(subject: Subject) -> tuple[list[Heard], list[float]]:
    """The answers, and how many seconds each took."""
    asked = [await _asked(subject) for _ in range(QUICK)]
    return [heard for heard, _ in asked], [seconds for _, seconds in asked]


async def _asked(subject: Subject) -> tuple[Heard, float]:
    begun_s = now()
    heard = await subject.wire.authorized(subject.target)
    return heard, now() - begun_s


async def _asked_alone(subject: Subject) -> float:
    await asyncio.sleep(_REST_S)
    return (await _asked(subject))[1]


async def _judged(subject: Subject, heards: Sequence[Heard], refused: Sequence[int]) -> Outcome:
    """A limit refuses each quick request after the first that it refuses. Any other refusals are compared with slow requests."""
    first = heards[refused[0]]
    words = f"quick request {refused[0] + 1} of {QUICK} is refused: {first.words}"
    a_limit = refused[0] + len(refused) == QUICK and len(refused) < QUICK
    if a_limit or first.status == _TOO_MANY:
        return _found(subject, words)
    alone = await _refused_alone(subject)
    if alone == _LONELY and len(refused) == QUICK:
        words = f"every request is refused now: {first.words}"
        return Outcome(words, (Finding("refused", subject.wire.word, words),))
    if alone and len(refused) < QUICK:
        words = f"{alone} of {_LONELY} requests are refused, each alone after a rest: {first.words}"
        return Outcome(words, (Finding("unreliable", subject.wire.word, words),))
    return _found(subject, words)


async def _refused_alone(subject: Subject) -> int:
    """How many questions are refused that come so slowly that no usual limit applies."""
    refused = 0
    for _ in range(_LONELY):
        await asyncio.sleep(_LONELY_REST_S)
        refused += not _answered((await _asked(subject))[0])
    return refused


def _answered(heard: Heard) -> bool:
    """gRPC's own status counts where there is one: a refused call has the HTTP status 200."""
    return heard.status in _ANSWERED if heard.rpc_status is None else heard.rpc_status in _ANSWERED_RPC


def _found(subject: Subject, words: str) -> Outcome:
    return Outcome(words, (Finding("rate_limited", subject.wire.word, words),))
