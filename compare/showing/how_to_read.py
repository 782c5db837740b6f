"""How the numbers of a run are made, in a few sentences: the same ones in the report as Markdown and on the page."""

from __future__ import annotations

from compare.showing.results import Results

_PASSES = (
    "The run went through all experiments in {} passes, each on servers that were started for it. A pass is a round: what it"
    " repeats gives one value, the median, so an interval knows how two starts of a server and two minutes of the machine differ."
)
_ONE_PASS = (
    "The run had one pass: its rounds share their servers, so an interval does not know how another start of a server would"
    " differ."
)
_HOW_TO_READ = (
    "t0 = request sent, e_i = arrival of the i-th chunk, at_i = when it was appended to the log. A round is the unit: what"
    " has many values in a turn is first one number a turn, and the turns of a round give their median; then the median over"
    " rounds, with the 95 % interval of a percentile bootstrap (1,000 resamples, seeded) in brackets. No difference is"
    " claimed where intervals overlap, with fewer than six rounds, or between two values that differ by less than a tenth; two"
    " times must differ by 5 ms at least. Gaps are not ranked on a lane where more than 20 % of the chunks arrive together."
    " vLLM's ITL is ICL here, pooled over requests, and its"
    " TTFT counts an empty first chunk; AIPerf's ITL is TPOT here; GuideLLM's TPOT divides (last − start) by n."
)


def how_to_read(results: Results) -> str:
    """What a round is in this run, what is claimed, and what other tools mean by the same words."""
    passes = _PASSES.format(results.passes) if results.passes > 1 else _ONE_PASS
    return f"{_HOW_TO_READ} {passes}"
