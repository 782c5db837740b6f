"""Upload: the largest request that the path lets through. The bodies go where the server refuses them, so no turn starts."""

from __future__ import annotations

from compare.probing.heard import Heard
from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import Subject

# The usual limits of hops stand between these; the largest is just below the server's own default of 8 MiB.
_SMALL_BYTES = 64
_TOO_LARGE = 413
_LIMITED = frozenset({429, 503})
_TRIES = 3
SIZES_KIB = (15, 31, 63, 65, 129, 257, 511, 1000, 1025, 2049, 4000, 8100)


async def check(subject: Subject) -> Outcome:
    """Try the largest body first; when another hop refuses it, find the sizes between which the limit is.

    The server's refusal of a small body must arrive as the server wrote it, or a hop's refusal could not be told from it.
    """
    small = await _refused_by_hop(subject, _SMALL_BYTES)
    if small is not None and small.status != _TOO_LARGE:
        words = f"an error of the server arrives as {small.words}"
        words += f" with {small.media_type}" if small.media_type else ""
        if subject.turn is None or small.end != "refused" or small.status in _LIMITED:
            return Outcome(f"not judged: {words}", judged=False)
        return Outcome(words, (Finding("errors_replaced", subject.wire.word, words),))
    refusal = await _refused_by_hop(subject, SIZES_KIB[-1] * 1024)
    if refusal is None:
        return Outcome(f"{SIZES_KIB[-1]:,} KiB pass")
    if refusal.end == "open":
        return Outcome(f"not judged: the line is too slow for {SIZES_KIB[-1]:,} KiB", judged=False)
    low, high = -1, len(SIZES_KIB) - 1
    while high - low > 1:
        middle = (low + high) // 2
        found = await _refused_by_hop(subject, SIZES_KIB[middle] * 1024)
        if found is None:
            low = middle
        else:
            high, refusal = middle, found
    passes = SIZES_KIB[low] if low >= 0 else 0
    words = f"between {passes:,} and {SIZES_KIB[high]:,} KiB: {refusal.words}"
    return Outcome(words, (Finding("upload_limit", subject.wire.word, words, {"kib": SIZES_KIB[high]}),))


async def _refused_by_hop(subject: Subject, size: int) -> Heard | None:
    """The refusal of a body by a hop before the server; None when the server itself answered.

    Only 413 names the size as its reason. Any other refusal must come three times, because it may have nothing to do with the size.
    """
    for _ in range(_TRIES):
        heard = await subject.wire.upload(subject.target, size)
        if subject.wire.refused_by_server(heard) is not None:
            return None
        if heard.status == _TOO_LARGE or heard.end == "open":
            break
    return heard
