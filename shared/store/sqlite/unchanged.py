"""For how long a value that another process writes again and again has stayed the same, by the clock of this process.

The clocks of two processes may differ, so a time that another process wrote is never compared with the time here.
"""

from __future__ import annotations

from collections.abc import Mapping


class Unchanged:
    """Values by key, as the looks saw them; times are milliseconds of one clock of this process."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def look(self, values: Mapping[str, float], now_ms: float) -> set[str]:
        """Note all values as they are now. Returns the keys whose values have changed since the look before."""
        before = self._seen
        changed = {key for key, value in values.items() if key in before and before[key][0] != value}
        self._seen = {
            key: before[key] if key in before and key not in changed else (value, now_ms)
            for key, value in values.items()
        }
        return changed

    def unchanged_ms(self, now_ms: float) -> dict[str, float]:
        """How long the value of each key has been the same."""
        return {key: now_ms - since_ms for key, (_, since_ms) in self._seen.items()}

    def restart(self, now_ms: float) -> None:
        """Count from now."""
        self._seen = {key: (value, now_ms) for key, (value, _) in self._seen.items()}
