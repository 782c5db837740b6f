"""What the checks share while one path is probed over one wire."""

from __future__ import annotations

from dataclasses import dataclass, field

from compare.probing.heard import Heard
from compare.probing.steadiness import Steadiness
from compare.probing.target import Target
from compare.probing.wires import Wire

# A turn that is slower than this, beyond what it was asked for, is not waited for.
GRACE_S = 12.0


@dataclass(slots=True)
class Subject:
    """One path on one wire. ``patience_s`` is the longest silence that is tried.

    ``tokens_per_s`` and ``turn`` (a whole one) are what the check of the pace has seen; 0 and None until then. ``several_servers``:
    requests reach servers that do not know each other's turns, so a count of one server tells nothing.
    """

    wire: Wire
    target: Target
    patience_s: float
    steadiness: Steadiness = field(default_factory=Steadiness)
    tokens_per_s: float = 0.0
    turn: Heard | None = None
    several_servers: bool = False
