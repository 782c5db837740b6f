"""Servers as on machines of their own: each reaches one Valkey through a relay, which may be slow, silent or cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import redis.asyncio

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.valkey import Replicated, Valkey
from tests.faults.harness import Logs, World

SETTINGS = ("save ''", "appendonly yes", "appendfsync everysec")


class Machines(World):
    """A World whose store is a Valkey, in ``valkey``; ``relays`` are the servers' lines to it, by the names of the servers."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, **given: Any) -> None:
        super().__init__(folder, env, **given)
        self.valkey = Valkey(folder / "valkey", SETTINGS)
        self.relays: dict[str, Relay] = {}
        self._lines = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.valkey.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        await self._lines.aclose()
        self.valkey.kill()

    async def store_url(self, name: str) -> str:
        """STORE_URL of a server: its relay."""
        if name not in self.relays:
            self.relays[name] = await self._lines.enter_async_context(Relay(f"127.0.0.1:{self.valkey.port}"))
        return f"redis://{self.relays[name].address}/0"

    async def _start(self, name: str, env: Mapping[str, str]) -> None:
        await super()._start(name, {"STORE_URL": await self.store_url(name), **env})

    async def ask(self, *words: str | int) -> bytes:
        """Send one command to the store, not through a relay."""
        return await asyncio.to_thread(self.valkey.ask, *words)

    def shape(self, faults: Faults) -> None:
        """Give all lines to the store these faults; the open connections are cut, because they keep the old ones."""
        for relay in self.relays.values():
            relay.faults = faults
            relay.cut()

    async def settle(self) -> None:
        """Wait until ``valkey`` is the store that the servers use."""

    def aof(self) -> Path:
        """The newest part of the append-only file."""
        return sorted(self.valkey.folder.glob("appendonlydir/*.incr.aof"))[-1]

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        client: Any = redis.asyncio.Redis(port=self.valkey.port, decode_responses=True)
        try:
            yield client
        finally:
            await client.aclose()

    async def count_running(self) -> int:
        async with self._client() as client:
            owners = [key async for key in client.scan_iter("{genai}:run:*", count=1000)]
            return sum([await client.scard(owner) for owner in owners])

    async def read_logs(self) -> Logs:
        turns: Logs = {}
        async with self._client() as client:
            async for key in client.scan_iter("{genai}:t:*", count=1000):
                turn = await client.hgetall(key)
                turn_id = key.rpartition(":")[2]
                segments = await client.xrange("{genai}:l:" + turn_id)
                lines = [msgspec.json.decode(line) for _, fields in segments for line in fields["e"].split("\n")]
                found = {**turn, "turn_id": turn_id, "last_seq": int(turn["last_seq"])}
                turns[turn_id] = ({**found, "session_id": turn["session"] or None}, lines)
        return turns

    def integrity(self) -> str:
        return "ok"


class SentinelMachines(Machines):
    """The same without relays: the servers ask a Sentinel for the primary. ``valkey`` is the primary.

    ``down_s``: the Sentinel waits this long before it promotes the replica.
    """

    down_s = 1.0

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, **given: Any) -> None:
        super().__init__(folder, env, **given)
        self._pair = Replicated(folder, SETTINGS, down_s=self.down_s)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._pair.start)
        self.valkey = self._pair.primary
        return self

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        self._pair.kill()

    async def store_url(self, name: str) -> str:
        return self._pair.url

    async def settle(self) -> None:
        await asyncio.to_thread(self._pair.settle)
        self.valkey = self._pair.primary

    @asynccontextmanager
    async def failover(self) -> AsyncIterator[None]:
        """The primary dies in the block, and the replica is promoted; afterwards the dead server is the replica of the other."""
        await asyncio.to_thread(self._pair.lose_primary)
        self.valkey = self._pair.primary
        yield
        await asyncio.to_thread(self._pair.recover)


class SlowSentinelMachines(SentinelMachines):
    """A Sentinel that is as slow as those of a deployment: an outage of about 15 s."""

    down_s = 12.0
