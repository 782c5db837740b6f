"""What ``probe --json`` prints: one JSON document, which ``probe.schema.json`` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare.probing.advice import ADVICE
from compare.probing.outcome import Finding, Outcome

SCHEMA = Path(__file__).with_name("probe.schema.json")
# Grows when a field changes its meaning or goes; new fields do not change it.
VERSION = 1


@dataclass(frozen=True, slots=True)
class ProbedWire:
    """One wire that was probed. ``word`` is empty for a stream of another server, ``provider`` where the server does not say."""

    word: str
    address: str
    provider: str
    seconds: float
    outcomes: Mapping[str, Outcome]
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class AbsentWire:
    """A wire that could not be probed, and why; ``word`` is empty where no wire was named."""

    word: str
    why: str


def as_document(
    address: str, patience_s: float, status: int, probed: Sequence[ProbedWire], absent: Sequence[AbsentWire]
) -> dict[str, Any]:
    """The document. ``status`` is the program's exit status."""
    return {
        "version": VERSION,
        "address": address,
        "status": status,
        "patience_s": patience_s,
        "wires": [_wire(wire) for wire in probed],
        "absent": [{"wire": wire.word, "why": wire.why} for wire in absent],
    }


def _wire(wire: ProbedWire) -> dict[str, Any]:
    return {
        "wire": wire.word,
        "address": wire.address,
        "provider": wire.provider,
        "seconds": round(wire.seconds, 1),
        "checks": [
            {"check": name, "judged": outcome.judged, "words": outcome.words} for name, outcome in wire.outcomes.items()
        ],
        "findings": [_finding(finding) for finding in wire.findings],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    advice = ADVICE[finding.kind]
    return {
        "kind": finding.kind,
        "title": advice.title,
        "measured": finding.measured,
        "numbers": finding.numbers,
        "means": advice.meaning(finding),
        "cause": advice.cause,
        "settings": {**advice.cures, **{name: known.setting for name, known in advice.documented.items()}},
        "pages": {name: known.page for name, known in advice.documented.items()},
        "here": advice.here,
        "unharmed": list(advice.unharmed),
    }
