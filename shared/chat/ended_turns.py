"""The turns that this process has ended lately, with their events: a store on another machine may lose what it acknowledged.

A failover or a power cut takes such a store back in time. The owner of a running turn sees that at its next commit. A turn that
has ended has no next commit, and its owner's lease is renewed, so no other process would end it either.
"""

from __future__ import annotations

import time

from shared.chat.running_turn import RunningTurn

_KEPT_S = 60.0
_MAX_BYTES = 32 * 1024 * 1024


class EndedTurns:
    """Keeps each turn for a minute, and at most 32 MiB of events and pictures; the oldest go first."""

    def __init__(self) -> None:
        self._turns: dict[str, tuple[RunningTurn, int, float]] = {}
        self._bytes = 0

    def add(self, turn: RunningTurn) -> None:
        """Keep a turn whose terminal event is committed."""
        # A record refers to the bytes of its picture and does not hold them.
        pictures = sum(len(image.data) for image in turn.images)
        size = pictures + sum(len(record.stored) for record in turn.turn_log.records)
        self._turns[turn.turn_id] = (turn, size, time.monotonic())
        self._bytes += size
        while self._bytes > _MAX_BYTES:
            self._forget_oldest()

    def get(self, turn_id: str) -> RunningTurn | None:
        """The turn, while it is kept."""
        kept = self._turns.get(turn_id)
        return kept[0] if kept else None

    def forget_old(self) -> None:
        """Forget the turns that have been kept for long enough."""
        while self._turns and time.monotonic() - next(iter(self._turns.values()))[2] > _KEPT_S:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, size, _ = self._turns.pop(next(iter(self._turns)))
        self._bytes -= size
