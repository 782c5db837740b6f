"""Length: whether the path ends a stream on which data flows, after a time or after a number of bytes."""

from __future__ import annotations

from compare.probing.checks.silence import unended
from compare.probing.outcome import Finding, Outcome
from compare.probing.stream import read_whole
from compare.probing.subject import GRACE_S, Subject

_MOST_TOKENS_PER_S = 400.0


async def check(subject: Subject) -> Outcome:
    """Read tokens for the subject's patience."""
    rate = subject.tokens_per_s
    if not subject.wire.tokens:
        return Outcome("a whole reply has no length in time", judged=False)
    if not 0 < rate <= _MOST_TOKENS_PER_S:
        return Outcome("not judged: the model is too fast; set OFFLINE_TOKENS_PER_S", judged=False)
    tokens = max(8, round(rate * subject.patience_s))
    stream = await subject.wire.turn(subject.target, f"/tokens {tokens} hello")
    heard = await read_whole(stream, 2 * subject.patience_s + GRACE_S)
    if heard.end == "whole":
        return Outcome(f"{heard.ended_s - heard.sent_s:.1f} s of tokens pass")
    if not heard.events:
        return Outcome(f"not judged: {heard.words}", judged=False)
    if heard.end == "open":
        return unended(subject, heard)
    after_s = heard.ended_s - heard.sent_s
    size = sum(size for _, size in heard.pieces)
    words = f"cut after {after_s:.1f} s and {size:,} B while tokens flowed: {heard.words}"
    return Outcome(words, (Finding("cut_in_flow", subject.wire.word, words, {"after_s": after_s, "bytes": size}),))
