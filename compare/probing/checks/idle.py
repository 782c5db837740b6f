"""Idle connection: whether the path closes a connection that waits for its next request."""

from __future__ import annotations

from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import Subject

# Less than the 5 s after which uvicorn and Node close an idle connection by default: a server's own limit is no fault of the
# path. The answer before may have been late, which takes another second of them.
IDLE_S = 3.25


async def check(subject: Subject) -> Outcome:
    """Make one request and wait."""
    after_s = await subject.wire.idle(subject.target, IDLE_S)
    if after_s is None:
        return Outcome(f"open for {IDLE_S:g} s")
    words = f"an idle connection is closed after {after_s:.1f} s"
    return Outcome(words, (Finding("idle_closed", subject.wire.word, words, {"after_s": after_s}),))
