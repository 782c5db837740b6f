"""What a check says: a line for the live table, and a finding for everything that the path does to the stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

# Each kind has a row in ``advice.py``, in the order of the harm.
Kind = Literal[
    "repeated",
    "cached",
    "several_servers",
    "server_removed",
    "refused",
    "redirected",
    "unreliable",
    "path_changed",
    "host_changed",
    "https_unknown",
    "rate_limited",
    "upgrade_refused",
    "key_removed",
    "trailers_removed",
    "cut_in_silence",
    "waiting_cut",
    "cut_in_flow",
    "gone_silent",
    "held",
    "slow_start",
    "slow_line",
    "cursor_removed",
    "leaving_unnoticed",
    "few_at_once",
    "upload_limit",
    "headers_removed",
    "errors_replaced",
    "continue_refused",
    "idle_closed",
    "compressed",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the path does. ``measured`` says it in words; ``numbers`` fills in the advice for it."""

    kind: Kind
    wire: str
    measured: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a check. ``judged`` is false where the check could say nothing, and ``words`` then say why."""

    words: str
    findings: tuple[Finding, ...] = ()
    judged: bool = True
