"""Real servers in processes of their own: what ``serve all``, the demo, the comparison, the diagrams and the tests start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from protocols import TRANSPORTS
from shared.client import ChatClient

START_S = 30.0
_LOG_LINES = 2000


@dataclass(slots=True)
class Server:
    """A running server; ``address`` is ``host:port``, ``log`` its JSON lines so far (the newest 2,000)."""

    word: str
    address: str
    process: asyncio.subprocess.Process
    log: list[dict[str, Any]] = field(default_factory=list)

    def client(self, **options: Any) -> ChatClient:
        """A client of this server; ``options`` are ChatClient's."""
        return TRANSPORTS[self.word].client(self.address, **options)

    def kill(self) -> None:
        """SIGKILL: the process is gone without a word."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def stop(self, number: int = signal.SIGINT, timeout_s: float = 20.0) -> int:
        """Send a signal and wait; the exit status. A server that does not end in time is killed."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            return await asyncio.wait_for(self.process.wait(), timeout_s)
        except TimeoutError:
            self.kill()
            return await self.process.wait()


@asynccontextmanager
async def serving(
    word: str,
    *,
    port: int = 0,
    env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> AsyncIterator[Server]:
    """One server, ready to be asked; ``port`` 0 takes a free one, ``env`` is added to ours.

    Raises RuntimeError with the server's own words when it does not start.
    """
    server = await start(word, port=port, env=env, arguments=arguments)
    reading = asyncio.create_task(_read_log(server))
    try:
        yield server
    finally:
        await server.stop()
        await reading


@asynccontextmanager
async def serving_all(
    words: Sequence[str] = tuple(TRANSPORTS), *, env: Mapping[str, str] | None = None, default_ports: bool = False
) -> AsyncIterator[dict[str, Server]]:
    """Several servers side by side, started and stopped together."""
    async with contextlib.AsyncExitStack() as stack:
        servers = await asyncio.gather(
            *(
                stack.enter_async_context(
                    serving(word, port=TRANSPORTS[word].default_port if default_ports else 0, env=env)
                )
                for word in words
            )
        )
        yield dict(zip(words, servers, strict=True))


async def start(word: str, *, port: int, env: Mapping[str, str] | None, arguments: Sequence[str]) -> Server:
    """Start a server and wait for its ``listening`` line; the caller reads on (see ``serving``)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"protocols.{TRANSPORTS[word].folder}.server",
        "--port",
        str(port),
        *arguments,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=4 * 1024 * 1024,
    )
    assert process.stderr is not None
    said = []
    try:
        async with asyncio.timeout(START_S):
            while line := await process.stderr.readline():
                with contextlib.suppress(json.JSONDecodeError):
                    entry = json.loads(line)
                    if entry.get("event") == "listening":
                        address = str(entry["address"]).rpartition("/")[2]
                        return Server(word, address, process, [entry])
                said.append(line.decode(errors="replace").rstrip())
    except TimeoutError:
        process.kill()
        said.append(f"no answer within {START_S:g} s")
    await process.wait()
    raise RuntimeError(f"the {word} server did not start: {' | '.join(said) or process.returncode}")


async def _read_log(server: Server) -> None:
    assert server.process.stderr is not None
    while line := await server.process.stderr.readline():
        with contextlib.suppress(json.JSONDecodeError):
            server.log.append(json.loads(line))
            del server.log[:-_LOG_LINES]
