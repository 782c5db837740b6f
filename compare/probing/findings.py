"""The findings of one path in the order of their harm, each cause once."""

from __future__ import annotations

from collections.abc import Iterable

from compare.probing.advice import HARM
from compare.probing.outcome import Finding, Outcome

# What one cause does to another check is no finding of its own.
_EFFECTS = {"slow_line": "rate_limited", "rate_limited": "few_at_once"}
# Two cuts after nearly the same time have one cause.
_SAME_SHARE = 0.2


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """One finding of each kind, the most harmful first.

    A stream that is cut after the same time with and without tokens has a limited duration, and its silence has no part in it.
    """
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.kind, finding)
    flow, silence = first.get("cut_in_flow"), first.get("cut_in_silence")
    if flow and silence and _same(flow.numbers["after_s"], silence.numbers.get("total_s", 0.0)):
        del first["cut_in_silence"]
    for cause, effect in _EFFECTS.items():
        if cause in first:
            first.pop(effect, None)
    return sorted(first.values(), key=lambda finding: HARM[finding.kind])


def of_outcomes(outcomes: Iterable[Outcome]) -> list[Finding]:
    """One finding of each kind from the outcomes of all checks, the most harmful first."""
    return ordered(finding for outcome in outcomes for finding in outcome.findings)


def _same(one_s: float, other_s: float) -> bool:
    return abs(one_s - other_s) <= max(0.5, _SAME_SHARE * one_s)
