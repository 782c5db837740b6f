"""Many at once: whether the path lets twelve streams of one user run side by side."""

from __future__ import annotations

import asyncio
import math

from compare.probing.heard import Heard
from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import GRACE_S, Subject

STREAMS = 12
_TURN_S = 3.0


async def check(subject: Subject) -> Outcome:
    """Start twelve turns of three seconds, and once more where some are refused or wait.

    One refusal alone may be an accident: a hop that uses a connection while the server closes it answers 502.
    """
    outcome = await _start_all(subject)
    return await _start_all(subject) if outcome.findings else outcome


async def _start_all(subject: Subject) -> Outcome:
    """A turn that begins only after another has ended had to wait."""
    direction = "stall" if subject.wire.tokens else "slow"
    message = f"/tokens 4 /{direction} {_TURN_S:g} hello"
    streams = await subject.wire.turns(subject.target, message, STREAMS)
    try:
        heards = await asyncio.gather(*(stream.read(3 * _TURN_S + GRACE_S) for stream in streams))
    finally:
        await asyncio.gather(*(stream.leave() for stream in streams))
    began = [heard for heard in heards if _began(heard)]
    if not began:
        return Outcome(f"not judged: none of {STREAMS} passed, {heards[0].words}", judged=False)
    refused = [heard for heard in heards if not _began(heard) and heard.end != "open"]
    waited = [] if refused else _waited(began)
    if len(began) == STREAMS and not waited:
        return Outcome(f"{STREAMS} at once")
    running = STREAMS - len(refused) if refused else len(began) - len(waited)
    rest = f"the others: {refused[0].words}" if refused else "the others waited until one had ended"
    words = f"{running} of {STREAMS} at once, {rest}"
    return Outcome(words, (Finding("few_at_once", subject.wire.word, words, {"streams": running}),))


def _began(heard: Heard) -> bool:
    """Whether the server has answered. What cuts the answer later is for other checks."""
    return bool(heard.events) or heard.end == "whole"


def _waited(heards: list[Heard]) -> list[Heard]:
    """The streams that did not begin before the first one had ended, by the server's own stamps where the events have them."""
    first_end_s = min((_end(heard) for heard in heards if heard.end == "whole"), default=math.inf)
    return [heard for heard in heards if _start(heard) > first_end_s]


def _start(heard: Heard) -> float:
    if not heard.events:
        # A whole reply has no stamps: its turn ran for three seconds, or a little less where the machine is slow to start it.
        return heard.ended_s - 0.8 * _TURN_S
    return heard.events[0].at_s or heard.events[0].arrived_s


def _end(heard: Heard) -> float:
    return (heard.events[-1].at_s or heard.events[-1].arrived_s) if heard.events else heard.ended_s
