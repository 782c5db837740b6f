"""The connection for appends: one command at a time, sent and read in the task that asks.

The library's client sends each command in a task of its own, and adds a pool, a retry and two measurements. A node that
generates many turns appends some hundred times a second, and every further pass of the event loop makes each event later.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import ResponseError

from shared.store.redis.address import Address
from shared.store.redis.connections import ANSWER_TIMEOUT_S, close_client, line_client


class AppendLine:
    """Runs one command after the other on one connection, which is made anew when it has broken."""

    def __init__(self, address: Address) -> None:
        self._client = line_client(address)
        self._connection: Any = None
        self._free = asyncio.Lock()
        self._unread = False

    async def run(self, *command: str | bytes | int | float) -> Any:
        """The answer to one command. Raises RedisError, OSError and RuntimeError; the command may have been run all the same."""
        async with self._free:
            connection = await self._connected()
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await connection.send_command(*command)
                try:
                    answer = await connection.read_response()
                except ResponseError:
                    self._unread = False
                    raise
            self._unread = False
            return answer

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await self._client.connection_pool.get_connection()
        if self._connection.is_connected and await self._is_stale():
            await self._connection.disconnect(nowait=True)
        self._unread = True
        if not self._connection.is_connected:
            await self._connection.connect()
        return self._connection

    async def _is_stale(self) -> bool:
        """Whether nobody read the last answer, which the next command would take for its own, or the server has left."""
        return self._unread or bool(await self._connection.can_read())

    async def disconnect(self) -> None:
        """Break the connection, also under a command. The next command makes a new one."""
        await self._client.connection_pool.disconnect()

    async def close(self) -> None:
        """Close the connection for good."""
        await close_client(self._client)
