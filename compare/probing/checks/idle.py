"""Idle connection: whether the path closes a connection that waits for its next request."""

from __future__ import annotations

from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import Subject

# The servers themselves close an idle HTTP/1.1 connection after 5 s, and the answer before may have been late.
IDLE_S = 3.25


async def check(subject: Subject) -> Outcome:
    """Make one request and wait."""
    after_s = await subject.wire.idle(subject.target, IDLE_S)
    if after_s is None:
        return Outcome(f"open for {IDLE_S:g} s")
    words = f"an idle connection is closed after {after_s:.1f} s"
    return Outcome(words, (Finding("idle_closed", subject.wire.word, words, {"after_s": after_s}),))
