"""The connections that wait for their next request. Where there are too many, the one that has waited longest is closed."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Protocol

if sys.platform != "win32":
    import resource

_MOST = 10_000


class Connection(Protocol):
    """A connection as uvicorn's classes are: the method closes the connection while it is idle."""

    def timeout_keep_alive_handler(self) -> None: ...


class IdleConnections:
    """At most ``most`` idle connections of one server.

    Any client can hold one for ``KEEP_ALIVE_S``, also without a key, and each takes a file descriptor that others need.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: OrderedDict[Connection, None] = OrderedDict()

    def add(self, connection: Connection) -> None:
        """The connection is idle from now on. Above the limit, the oldest one is closed."""
        self._waiting[connection] = None
        if len(self._waiting) > self._most:
            oldest, _ = self._waiting.popitem(last=False)
            oldest.timeout_keep_alive_handler()

    def discard(self, connection: Connection) -> None:
        """The connection is in use again, or closed."""
        self._waiting.pop(connection, None)


def most_idle() -> int:
    """Half of the files that this process may open, and 10,000 at most."""
    if sys.platform == "win32":
        return _MOST
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if files == resource.RLIM_INFINITY else max(1, min(_MOST, files // 2))
