"""One answer that is read piece by piece, whatever its wire."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from compare.probing.heard import Heard

Stop = Callable[[Heard], bool]


class Stream(ABC):
    """An answer that has been asked for. ``heard`` grows while ``read`` runs."""

    heard: Heard

    @abstractmethod
    async def read(self, seconds: float, stop: Stop | None = None) -> Heard:
        """Read until the answer has ended, until ``stop`` is true after a piece, or until the time is over."""

    @abstractmethod
    async def leave(self) -> None:
        """Leave: the connection is closed at once (gRPC: the call is reset, then the connection is closed)."""


async def read_whole(stream: Stream, seconds: float) -> Heard:
    """Read an answer to its end, and leave; an answer that takes longer stays ``open``."""
    try:
        return await stream.read(seconds)
    finally:
        await stream.leave()
