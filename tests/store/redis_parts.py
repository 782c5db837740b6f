"""What the tests of the Redis store share: a Valkey that may be killed, stores of several nodes, and a node that follows a turn."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from compare.valkey import Valkey
from shared.chat.turn_log import TurnLog
from shared.chat.turn_logs import TurnLogs
from shared.errors import ChatError
from shared.store.protocol import Appended, Moved, News, NewsLost, Pushed
from shared.store.redis.store import RedisStore
from tests.conftest import until

Make = Callable[..., RedisStore]
SETTINGS = ("save ''", "appendonly yes", "appendfsync everysec")


@asynccontextmanager
async def listening(store: RedisStore) -> AsyncIterator[list[News]]:
    """The news of the store, in the order of their arrival, from the moment of the connection."""
    heard: list[News] = []

    async def listen() -> None:
        async for news in store.news(lambda: True):
            heard.append(news)

    task = asyncio.create_task(listen())
    try:
        await until(lambda: any(isinstance(news, NewsLost) for news in heard))
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Follower:
    """One turn's log on a node that follows the turn: the news of the store go to the logs of the service.

    ``pushes`` counts the pushes, with or without text.
    """

    def __init__(self, store: RedisStore, turn_id: str) -> None:
        self.store = store
        self.turn_id = turn_id
        self.turn_logs = TurnLogs(store)
        self.pushes = 0
        self._log: TurnLog | None = None

    @property
    def lines(self) -> list[bytes]:
        """The stored JSON of each event."""
        return [record.stored for record in self._log.records] if self._log else []

    async def run(self) -> None:
        """Follow until the task is cancelled."""
        async for news in self.store.news(lambda: True):
            match news:
                case Pushed():
                    self.pushes += 1
                    await self.turn_logs.apply(news)
                case Moved():
                    await self.turn_logs.look(news.turn_id)
                case NewsLost() if self._log is None:
                    self._log = await self.turn_logs.open(self.turn_id)
                case NewsLost():
                    await self.turn_logs.look(self.turn_id)


@asynccontextmanager
async def following(store: RedisStore, turn_id: str) -> AsyncIterator[Follower]:
    """A node that has read the turn so far and follows it."""
    follower = Follower(store, turn_id)
    task = asyncio.create_task(follower.run())
    try:
        await until(lambda: follower.lines)
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def persistent(store: RedisStore, *entries: Any) -> list[Appended]:
    """Append as the committer does: again and again with the same entries, until there is an answer."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.append(entries)
            except ChatError:
                await asyncio.sleep(0.05)


def aof_bytes(server: Valkey) -> int:
    """The size of the append-only file."""
    return sorted(server.folder.glob("appendonlydir/*.incr.aof"))[-1].stat().st_size


def cut_tail(server: Valkey, keep_bytes: int) -> None:
    """Kill the server and cut its append-only file, as a power cut does to what was not on the disk."""
    server.kill()
    os.truncate(sorted(server.folder.glob("appendonlydir/*.incr.aof"))[-1], keep_bytes)
