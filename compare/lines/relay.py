"""A relay on the line between clients and a server: it counts TCP payload, cuts, stalls, delays, throttles and slices.

The relay knows no protocol. ``python -m compare relay`` runs it by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Self

from compare.lines.connection import RelayedConnection, SharedState
from compare.lines.direction import READ_BYTES, OneDirection
from compare.lines.faults import Faults

_FIN_WAIT_S = 1.0


class _Cut(Exception):
    """The connection is cut."""


class Relay(SharedState):
    """``async with Relay("127.0.0.1:8001", Faults(...)) as relay``: clients connect to ``relay.address``.

    With ``capture=True`` the relay keeps all payload in ``captured``, with ``timed=True`` the times of each piece in ``passed``.
    ``seed`` decides which packets are late.
    """

    def __init__(
        self,
        target: str,
        faults: Faults | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        capture: bool = False,
        timed: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(faults or Faults(), capture=capture, timed=timed, seed=seed)
        name, _, number = target.rpartition("/")[2].rpartition(":")
        self.target = (name.strip("[]"), int(number))
        self.connections: list[RelayedConnection] = []
        self.finished: asyncio.Queue[RelayedConnection] = asyncio.Queue()
        self._listen_on = (host, port)
        self._listener: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        host, port = self._listen_on
        limit = self.faults.window_bytes or READ_BYTES
        self._listener = await asyncio.start_server(self._accept, host, port, limit=limit, backlog=1024)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._listener is not None:
            self._listener.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        assert self._listener is not None
        host, port = self._listener.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def up_bytes(self) -> int:
        """Payload that the clients have sent."""
        return sum(connection.up_bytes for connection in self.connections)

    @property
    def down_bytes(self) -> int:
        """Payload that the clients have been given."""
        return sum(connection.down_bytes for connection in self.connections)

    def cut(self, *, reset: bool = False) -> int:
        """Cut all open connections and go on accepting new ones. Returns the number of connections that were cut."""
        open_connections = [connection for connection in self.connections if connection.state == "open"]
        for connection in open_connections:
            connection.cut(reset=reset)
        return len(open_connections)

    def discard(self) -> None:
        """Discard from now on everything on the open connections, their end too. New connections are not affected."""
        for connection in self.connections:
            connection.discarding = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = RelayedConnection(self, len(self.connections), writer)
        self.connections.append(connection)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            # With a limit of 0, drain() returns when the kernel has every byte, so a cut loses none of the counted bytes.
            writer.transport.set_write_buffer_limits(0)
            await self._relay(connection, reader, writer)
        except asyncio.CancelledError:
            # The relay closes. asyncio would log the cancellation of this task as an error.
            pass
        finally:
            connection.abort()
            self._running.discard(task)
            self.finished.put_nowait(connection)

    async def _relay(
        self, connection: RelayedConnection, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        """Relay until both ends have closed or the connection is cut."""
        if self.refusing:
            connection.close("refused", reset=True)
            return
        try:
            server_reader, server = await _connect(self.target, self.faults.window_bytes)
        except OSError:
            connection.close("refused", reset=True)
            return
        connection.add_server(server)
        try:
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(_wait_for_cut(connection))
                directions = (
                    group.create_task(OneDirection(connection, "up", client_reader, server).run()),
                    group.create_task(OneDirection(connection, "down", server_reader, client).run()),
                )
                await asyncio.wait(directions)
                waiting.cancel()
            connection.close("closed", reset=False)
        except* _Cut:
            connection.close("cut", reset=connection.reset)
            if not connection.reset:
                # A socket that is closed with unread bytes sends RST instead of FIN, so the unread bytes are read first.
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(_FIN_WAIT_S):
                        await asyncio.gather(_read_to_end(client_reader), _read_to_end(server_reader))
        except* OSError:
            connection.close("closed", reset=True)


async def _wait_for_cut(connection: RelayedConnection) -> None:
    await connection.cut_asked.wait()
    raise _Cut


async def _connect(
    target: tuple[str, int], window_bytes: int | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if window_bytes is None:
        reader, writer = await asyncio.open_connection(*target)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, target)
        except BaseException:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock, limit=window_bytes)
    writer.transport.set_write_buffer_limits(0)
    return reader, writer


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(READ_BYTES):
        pass
