"""What the path does to turns, in words: a delay, a bandwidth, a buffer, stalls. Known from the arrivals alone."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from compare.measuring.formulas import COALESCED_MS, Formula, coalescing, delays, gaps, model_coalescing
from compare.measuring.statistics import quantile
from compare.measuring.turns import TurnRecord

# A path is reported when this share of the chunks arrive together that the model had generated apart.
_BUNCHED = 0.25
# Behind a buffer hardly any chunk arrives alone; between late packets many do.
_ALONE = 0.2
_FAR_MS = 5.0
_LARGE_BYTES = 200_000


def findings(turns: Sequence[TurnRecord]) -> list[str]:
    """A sentence for each thing that the path does to these turns; empty when nothing stands out."""
    found = []
    late = [delays(turn) for turn in turns]
    most = quantile([value for values in late for value in values], 0.95)
    # Behind a buffer the last token alone comes at once, so the quickest token of each turn tells how long the line is.
    least = quantile([min(values) for values in late if values], 0.5)
    share, own, single = (_median(formula, turns) for formula in (coalescing, model_coalescing, _alone))
    if share - own > _BUNCHED:
        bunched = f"{share:.0%} of the chunks arrived less than 1 ms after the one before, {own:.0%} were generated so"
        if single < _ALONE:
            found.append(f"a buffer on the path: {bunched}; tokens were held for up to {most or 0:,.0f} ms (p95)")
        else:
            found.append(
                f"stalls on the path: {bunched}, but {single:.0%} arrived alone; p95 of the delay {most or 0:,.0f} ms"
            )
    rate = quantile([value for turn in turns if (value := _picture_mb_per_s(turn)) is not None], 0.5)
    if rate is not None:
        found.append(f"a bandwidth of about {rate:,.2f} MB/s, as long as the picture came")
    if least is not None and least >= _FAR_MS:
        found.append(f"a one-way delay of about {least:,.0f} ms: no token was faster than that")
    return found


def _alone(turn: TurnRecord) -> float | None:
    """The share of chunks that arrive with no chunk less than 1 ms before or after them."""
    found = gaps(turn)
    if len(found) < 2:
        return None
    single = sum(min(before, after) >= COALESCED_MS for before, after in itertools.pairwise(found))
    return single / (len(found) - 1)


def _picture_mb_per_s(turn: TurnRecord) -> float | None:
    """MB of TCP payload a second between the first and the last piece; None for a picture that is too small to tell."""
    pieces = turn.of("image_chunk")
    if not turn.down_bytes or turn.down_bytes < _LARGE_BYTES or len(pieces) < 2 or pieces[-1].ms <= pieces[0].ms:
        return None
    # The time starts at the arrival of the first piece, so the first piece's bytes do not count.
    size = turn.down_bytes * (1 - pieces[0].size / sum(piece.size for piece in pieces))
    return size / 1000 / (pieces[-1].ms - pieces[0].ms)


def _median(formula: Formula, turns: Sequence[TurnRecord]) -> float:
    values = [value for turn in turns if (value := formula(turn)) is not None]
    return statistics.median(values) if values else 0.0
