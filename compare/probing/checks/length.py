"""Length: whether the path ends a stream on which data flows, after a time or after a number of bytes, or slows the stream down."""

from __future__ import annotations

from compare.probing.checks.silence import unended
from compare.probing.heard import Heard
from compare.probing.outcome import Finding, Outcome
from compare.probing.stream import read_whole
from compare.probing.subject import GRACE_S, Subject

_MOST_TOKENS_PER_S = 400.0
# A stream that is this late in the end falls behind, if it is this many times later than its first half: a buffer is not.
_BEHIND_S, _GROWING, _FEWEST = 2.0, 1.5, 16


async def check(subject: Subject) -> Outcome:
    """Read tokens for the subject's patience, and once more where the stream falls behind: a busy machine may do that once."""
    outcome = await _read(subject)
    behind = any(finding.kind == "slow_line" for finding in outcome.findings)
    return await _read(subject) if behind else outcome


async def _read(subject: Subject) -> Outcome:
    rate = subject.tokens_per_s
    if not subject.wire.tokens:
        return Outcome("a whole reply has no length in time", judged=False)
    if rate == 0:
        return Outcome("not judged: no turn had enough tokens to tell their rate", judged=False)
    if rate > _MOST_TOKENS_PER_S:
        return Outcome("not judged: the model is too fast; set OFFLINE_TOKENS_PER_S", judged=False)
    tokens = max(8, round(rate * subject.patience_s))
    stream = await subject.wire.turn(subject.target, f"/tokens {tokens} hello")
    heard = await read_whole(stream, 2 * subject.patience_s + GRACE_S)
    if heard.end == "whole":
        words = f"{heard.ended_s - heard.sent_s:.1f} s of tokens pass"
        behind_s = falls_behind_s(heard)
        if behind_s < _BEHIND_S:
            return Outcome(words)
        words += f", and the last of them {behind_s:.1f} s late"
        return Outcome(words, (Finding("slow_line", subject.wire.word, words, {"last_late_s": behind_s}),))
    if not heard.events:
        return Outcome(f"not judged: {heard.words}", judged=False)
    if heard.end == "open":
        return unended(subject, heard)
    after_s = heard.ended_s - heard.sent_s
    size = sum(size for _, size in heard.pieces)
    words = f"cut after {after_s:.1f} s and {size:,} B while tokens flowed: {heard.words}"
    return Outcome(words, (Finding("cut_in_flow", subject.wire.word, words, {"after_s": after_s, "bytes": size}),))


def falls_behind_s(heard: Heard) -> float:
    """How late the second half of a stream is by the server's stamps; 0 where the first half is nearly as late."""
    delays = [event.arrived_s - event.at_s for event in heard.events if event.at_s is not None]
    if len(delays) < _FEWEST:
        return 0.0
    middle = len(delays) // 2
    early_s, late_s = max(delays[:middle]) - min(delays), max(delays[middle:]) - min(delays)
    return late_s if late_s >= _GROWING * early_s else 0.0
