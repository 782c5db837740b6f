"""The findings of one path in the order of their harm, each cause once."""

from __future__ import annotations

from collections.abc import Iterable

from compare.probing.advice import HARM
from compare.probing.outcome import Finding, Outcome

# What one cause does to another check is no finding of its own.
_EFFECTS = {
    "slow_line": ("held", "rate_limited"),
    "rate_limited": ("few_at_once",),
    "unreliable": (
        "few_at_once",
        "rate_limited",
        "waiting_cut",
        "upload_limit",
        "errors_replaced",
        "upgrade_refused",
        "continue_refused",
        "leaving_unnoticed",
    ),
}
# A silent stream that ended this long before the flowing one, or later, may have met the same limit.
_NEAR_S = 0.5


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """One finding of each kind, the most harmful first.

    A stream whose duration is limited is cut with and without tokens, the silent one at the limit or at its next token. Then its
    silence is no finding.
    """
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.kind, finding)
    flow, silence = first.get("cut_in_flow"), first.get("cut_in_silence")
    if flow and silence and silence.numbers.get("total_s", 0.0) >= flow.numbers["after_s"] - _NEAR_S:
        del first["cut_in_silence"]
    for cause, effects in _EFFECTS.items():
        for effect in effects if cause in first else ():
            first.pop(effect, None)
    return sorted(first.values(), key=lambda finding: HARM[finding.kind])


def of_outcomes(outcomes: Iterable[Outcome]) -> list[Finding]:
    """One finding of each kind from the outcomes of all checks, the most harmful first."""
    return ordered(finding for outcome in outcomes for finding in outcome.findings)
