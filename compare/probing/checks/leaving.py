"""Leaving: whether the server notices a client that leaves in a silence.

A server that does not goes on with the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from compare.probing.heard import now
from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import GRACE_S, Subject

_HEARS_S = 2.0
_SILENT_S = 30
_POLL_S = 0.1
_TRIES = 3


async def check(subject: Subject) -> Outcome:
    """Leave a turn that is silent, and watch the server's count of open streams."""
    if subject.several_servers:
        return Outcome("not judged: several servers answer, each with a count of its own", judged=False)
    unheard = 0
    words = "not judged: the server does not tell how many streams are open"
    for _ in range(_TRIES):
        noticed_s, words = await _leave_once(subject)
        if noticed_s is not None:
            return Outcome(f"the server notices within {max(noticed_s, _POLL_S):.1f} s")
        if words:
            continue
        unheard += 1
        if unheard == 2:
            words = f"the server still streams {_HEARS_S:g} s after the client left in a silence"
            return Outcome(words, (Finding("leaving_unnoticed", subject.wire.word, words),))
    return Outcome(words or "not judged: others use this server now", judged=False)


async def _leave_once(subject: Subject) -> tuple[float | None, str]:
    """After how many seconds the server noticed, None when it did not; and why this try could not be judged."""
    wire, target = subject.wire, subject.target
    before = await wire.streams_active(target)
    if before is None:
        return None, "not judged: the server does not tell how many streams are open"
    # A waiting REST request is silent from its start; the other turns fall silent after two tokens.
    silence = "stall" if wire.tokens else "slow"
    stream = await wire.turn(target, f"/tokens 4 /{silence} {_SILENT_S} hello")
    try:
        if wire.tokens:
            heard = await stream.read(GRACE_S, lambda heard: len(heard.tokens) >= 2 or heard.end != "open")
            if heard.end != "open":
                return None, f"not judged: {heard.words}"
        during = await _until(subject, lambda count: count == before + 1, GRACE_S / 4)
    finally:
        left_s = now()
        turn_id = stream.heard.turn_id
        await stream.leave()
    if not during:
        return None, "not judged: others use this server now"
    noticed = await _until(subject, lambda count: count <= before, _HEARS_S)
    seconds = now() - left_s
    if turn_id is not None:
        await wire.cancel(target, turn_id)
    if not noticed and turn_id is not None:
        # The reader that is left ends with its turn, so that the next try begins from the same count.
        await _until(subject, lambda count: count <= before, _HEARS_S)
    return (seconds if noticed else None), ""


async def _until(subject: Subject, wanted: Callable[[int], bool], seconds: float) -> bool:
    until = now() + seconds
    while True:
        count = await subject.wire.streams_active(subject.target)
        if count is not None and wanted(count):
            return True
        if now() > until:
            return False
        await asyncio.sleep(_POLL_S)
