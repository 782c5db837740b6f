"""A power cut of a machine whose store is a file of SQLite: the newest commits are gone, and every server process with them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

from protocols.ports import free_port
from protocols.processes import Server, serving
from tests.conftest import FAST


class Machine:
    """One server of each transport on one store. ``remember`` keeps what the store has now; ``cut_power`` goes back to that."""

    def __init__(self, store: Path, ports: Mapping[str, int], env: Mapping[str, str], stack: AsyncExitStack) -> None:
        self.servers: dict[str, Server] = {}
        self._store = store
        self._kept = store.with_name("kept.db")
        self._ports = {word: port or free_port() for word, port in ports.items()}
        self._env = {**FAST, "STORE_URL": f"sqlite:///{store}", **env}
        self._stack = stack

    async def start(self) -> None:
        """Start the servers, each on its port."""
        starting = [
            self._stack.enter_async_context(serving(word, port=port, env=self._env))
            for word, port in self._ports.items()
        ]
        self.servers = dict(zip(self._ports, await asyncio.gather(*starting), strict=True))

    def remember(self) -> None:
        """Copy the committed store."""
        with closing(sqlite3.connect(self._store)) as now, closing(sqlite3.connect(self._kept)) as kept:
            now.backup(kept)

    async def cut_power(self) -> None:
        """Kill every server, put back the store that ``remember`` has copied, and start the servers again."""
        for server in self.servers.values():
            server.kill()
        await asyncio.gather(*(server.process.wait() for server in self.servers.values()))
        self._go_back()
        await self.start()

    def _go_back(self) -> None:
        for suffix in ("-wal", "-shm"):
            Path(f"{self._store}{suffix}").unlink(missing_ok=True)
        self._kept.replace(self._store)


@asynccontextmanager
async def machine(folder: Path, ports: Mapping[str, int], **env: str) -> AsyncIterator[Machine]:
    """A machine with these servers. They are stopped at the end."""
    async with AsyncExitStack() as stack:
        made = Machine(folder / "chat.db", ports, env, stack)
        await made.start()
        yield made
