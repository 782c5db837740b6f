"""Whether this node has been in contact with the store for long enough to judge the other nodes."""

from __future__ import annotations

import math
import time

# How often each node asks where the turns that it follows stand, and who the primary is.
CHECK_S = 1.0


class Contact:
    """The time of unbroken contact, on this node's monotonic clock.

    A lease that ended while this node, or the store, was away proves nothing about the node that held it: no node could
    renew. So a node ends another's turn only after a whole lease of unbroken contact. The thread that renews the lease
    asks three times a lease, so a silence of two thirds of it is a break (a machine that was suspended).

    ``primary`` is the address that the Sentinels name, as far as this node has asked them. With a new primary the contact
    begins anew: the other nodes may have renewed their leases at the old one until they, too, have noticed.
    """

    def __init__(self, lease_s: float) -> None:
        self.offset_s = 0.0
        self.primary: object = None
        self._lease_s = lease_s
        self._since_s = self._last_s = time.monotonic()
        self._later_s = 0.0

    def now_s(self) -> float:
        """This node's monotonic clock; tests move it with ``offset_s``."""
        return time.monotonic() + self.offset_s

    def heard(self) -> None:
        """Note that the store has answered."""
        now_s = self.now_s()
        if now_s - self._last_s > self._lease_s * 2 / 3 or self._since_s == math.inf:
            self._since_s, self._later_s = now_s + self._later_s, 0.0
        self._last_s = now_s

    def lost(self) -> None:
        """The store has not answered, or cannot do its work."""
        self._since_s = math.inf

    def moved(self) -> None:
        """The store has another primary now. The other nodes notice it as much as ``CHECK_S`` later than this node."""
        self._since_s, self._later_s = math.inf, CHECK_S

    def since_s(self) -> float:
        """When the contact that goes on began; infinity while there is none."""
        return self._since_s if self.now_s() - self._last_s <= self._lease_s * 2 / 3 else math.inf
