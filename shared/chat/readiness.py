"""Whether a new turn would be accepted now: the store accepts writes, and the loops of the service work."""

from __future__ import annotations

import asyncio
import time

from shared.errors import ChatError
from shared.store.protocol import Store

# After a write that succeeded less than this long ago, the next write is expected to succeed.
_FRESH_S = 1.0
# A check that takes longer means that a new turn would have to wait as well.
_PATIENCE_S = 2.0
# A loop that failed less than this long ago counts as broken.
_FAILED_S = 5.0


class Readiness:
    """Knows how the service's last writes and loops went, and tries a small write where none was made lately."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wrote_at = 0.0
        self._refused_since: float | None = None
        # A full store may accept other writes, and refuse new turns.
        self._refuses_turns = False
        self._loops_failed_at: dict[str, float] = {}
        self._checking: asyncio.Task[None] | None = None

    def wrote(self, *, new_turn: bool = False) -> None:
        """Note that the store has accepted a write; ``new_turn``: that of a new turn."""
        self._wrote_at = time.monotonic()
        self._refused_since = None
        self._refuses_turns = self._refuses_turns and not new_turn

    def refused(self, *, new_turn: bool = False) -> None:
        """Note that the store has refused a write; ``new_turn``: that of a new turn."""
        if self._refused_since is None:
            self._refused_since = time.monotonic()
        self._refuses_turns = self._refuses_turns or new_turn

    @property
    def refused_s(self) -> float:
        """For how long the store has refused every write; 0 while the store accepts writes."""
        return time.monotonic() - self._refused_since if self._refused_since is not None else 0.0

    def loop_failed(self, name: str) -> None:
        """Note that a loop of the service has failed, and begins again."""
        self._loops_failed_at[name] = time.monotonic()

    async def ready(self) -> bool:
        """Whether a new turn would be accepted."""
        now = time.monotonic()
        if any(now - failed_at < _FAILED_S for failed_at in self._loops_failed_at.values()):
            return False
        if self._accepts and now - self._wrote_at < _FRESH_S:
            return True
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self.check())
        await asyncio.wait((self._checking,), timeout=_PATIENCE_S)
        return self._checking.done() and self._accepts

    @property
    def _accepts(self) -> bool:
        return self._refused_since is None and not self._refuses_turns

    async def check(self) -> None:
        """Try the write of a new turn."""
        try:
            await self._store.check_write()
        except ChatError:
            self.refused(new_turn=True)
        else:
            self.wrote(new_turn=True)
