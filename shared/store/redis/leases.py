"""The thread that renews this node's lease, also while the event loop is busy. It ends with the process."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from redis.exceptions import NoScriptError

from shared.store.redis.address import Address
from shared.store.redis.commands import LuaScript
from shared.store.redis.connections import ANSWER_TIMEOUT_S, sync_client
from shared.store.redis.contact import Contact
from shared.store.redis.errors import FAILURES
from shared.store.redis.keys import Keys

_LEASE = LuaScript("lease")


class LeaseThread:
    """Renews the lease of ``owner`` three times in ``lease_s`` until it is closed."""

    def __init__(self, address: Address, keys: Keys, contact: Contact, owner: str, lease_s: float) -> None:
        self._address = address
        self._arguments = (1, keys.owners, 0, "0", "PUBLISH", owner, lease_s * 1000)
        self._contact = contact
        self._pause_s = lease_s / 3
        # A renewal whose answer is lost leaves time for another one before the lease is over.
        self._answer_timeout_s = min(ANSWER_TIMEOUT_S, lease_s / 3)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._renew_forever, name="lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop renewing."""
        self._closed.set()
        self._thread.join()

    def _renew_forever(self) -> None:
        client: Any = None
        primary = self._contact.primary
        while not self._closed.is_set():
            pause_s = self._pause_s
            try:
                if client is not None and primary != self._contact.primary:
                    client.connection_pool.disconnect()
                primary = self._contact.primary
                # A cluster's client connects when it is made.
                client = client or sync_client(self._address, self._answer_timeout_s)
                try:
                    client.execute_command("EVALSHA", _LEASE.sha1, *self._arguments)
                except NoScriptError:
                    client.execute_command("EVAL", _LEASE.source, *self._arguments)
                self._contact.heard()
            except FAILURES:
                self._contact.lost()
                pause_s = self._pause_s / 4
            self._closed.wait(pause_s)
        with contextlib.suppress(*FAILURES):
            if client is not None:
                client.close()
