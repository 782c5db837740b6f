"""Upload: the largest request that the path lets through. The bodies go where the server refuses them, so no turn starts."""

from __future__ import annotations

from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import Subject

# The usual limits of hops stand between these; the largest is just below the server's own default of 8 MiB.
_SMALL_BYTES = 64
_TOO_LARGE = 413
_LIMITED = frozenset({429, 503})
SIZES_KIB = (15, 31, 63, 65, 129, 257, 511, 1000, 1025, 2049, 4000, 8100)


async def check(subject: Subject) -> Outcome:
    """Try the largest body first; when another hop refuses it, find the sizes between which the limit is.

    The server's refusal of a small body must arrive as the server wrote it, or a hop's refusal could not be told from it.
    """
    small = await subject.wire.upload(subject.target, _SMALL_BYTES)
    if subject.wire.refused_by_server(small) is None and small.status != _TOO_LARGE:
        words = f"an error of the server arrives as {small.words}"
        if subject.turn is None or small.end != "refused" or small.status in _LIMITED:
            return Outcome(f"not judged: {words}", judged=False)
        return Outcome(words, (Finding("errors_replaced", subject.wire.word, words),))
    largest = await subject.wire.upload(subject.target, SIZES_KIB[-1] * 1024)
    if subject.wire.refused_by_server(largest) is not None:
        return Outcome(f"{SIZES_KIB[-1]:,} KiB pass")
    if largest.end == "open":
        return Outcome(f"not judged: the line is too slow for {SIZES_KIB[-1]:,} KiB", judged=False)
    refusal = largest.words
    low, high = -1, len(SIZES_KIB) - 1
    while high - low > 1:
        middle = (low + high) // 2
        found = await _refusal(subject, SIZES_KIB[middle])
        if found is None:
            low = middle
        else:
            high, refusal = middle, found
    passes = SIZES_KIB[low] if low >= 0 else 0
    words = f"between {passes:,} and {SIZES_KIB[high]:,} KiB: {refusal}"
    return Outcome(words, (Finding("upload_limit", subject.wire.word, words, {"kib": SIZES_KIB[high]}),))


async def _refusal(subject: Subject, kib: int) -> str | None:
    """How a hop before the server refused a body; None when the server itself answered."""
    heard = await subject.wire.upload(subject.target, kib * 1024)
    return None if subject.wire.refused_by_server(heard) is not None else heard.words
