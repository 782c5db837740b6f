"""Real servers in processes of their own: what ``serve all``, the demo, the comparison, the diagrams and the tests start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from protocols import TRANSPORTS
from shared.client.protocol import ChatClient

START_S = 30.0
_LOG_LINES = 2000

Relay = Callable[[str, bytes], None]


@dataclass(slots=True)
class Server:
    """A running server; ``address`` is ``host:port``, ``log`` its JSON lines so far (the newest 2,000)."""

    word: str
    address: str
    process: asyncio.subprocess.Process
    log: list[dict[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def client(self, **options: Any) -> ChatClient:
        """A client of this server; ``options`` are ChatClient's."""
        return TRANSPORTS[self.word].client(self.address, **options)

    def kill(self) -> None:
        """SIGKILL: the process is gone without a word."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def send(self, number: int) -> None:
        """Send a signal. Windows has none to send: the process is ended at once."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                if sys.platform == "win32":
                    self.process.terminate()
                else:
                    self.process.send_signal(number)

    async def stop(self, number: int = signal.SIGINT, timeout_s: float = 20.0) -> int:
        """Send a signal and wait; the exit status. A server that does not end in time is killed."""
        self.send(number)
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
    relay: Relay | None = None,
    apart: bool = False,
) -> AsyncIterator[Server]:
    """One server, ready to be asked; ``port`` 0 takes a free one, ``env`` is added to ours, ``relay`` gets each line it logs.

    Raises RuntimeError with the server's own words when it does not start.
    """
    server = await start(word, port=port, env=env, arguments=arguments, apart=apart)
    reading = asyncio.create_task(_read_log(server, relay))
    try:
        yield server
    finally:
        await server.stop()
        await reading


@asynccontextmanager
async def serving_all(
    words: Sequence[str] = tuple(TRANSPORTS),
    *,
    env: Mapping[str, str] | None = None,
    default_ports: bool = False,
    ports: Mapping[str, int] | None = None,
    arguments: Sequence[str] = (),
    relay: Relay | None = None,
    apart: bool = False,
) -> AsyncIterator[dict[str, Server]]:
    """Several servers side by side, started and stopped together; ``ports`` by word, else free ones.

    Raises RuntimeError with the words of the first that does not start, when the others have been stopped again.
    """
    if default_ports:
        ports = {word: TRANSPORTS[word].default_port for word in words}
    async with contextlib.AsyncExitStack() as stack:
        starting = [
            asyncio.create_task(
                stack.enter_async_context(
                    serving(
                        word, port=(ports or {}).get(word, 0), env=env, arguments=arguments, relay=relay, apart=apart
                    )
                )
            )
            for word in words
        ]
        try:
            servers = await asyncio.gather(*starting)
        except BaseException:
            # None may come up after we have left.
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise
        try:
            yield dict(zip(words, servers, strict=True))
        finally:
            for server in servers:
                server.send(signal.SIGINT)


async def start(
    word: str, *, port: int, env: Mapping[str, str] | None, arguments: Sequence[str], apart: bool = False
) -> Server:
    """Start a server and wait for its ``listening`` line; the caller reads on (see ``serving``).

    ``apart``: in a process group of its own, so that Ctrl-C in a terminal reaches it only through us (see ``catching_signals``).
    """
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
        process_group=0 if apart else None,
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
    except BaseException:
        process.kill()
        await process.wait()
        raise
    await process.wait()
    raise RuntimeError(" | ".join(said) or f"the {word} server did not start: status {process.returncode}")


async def _read_log(server: Server, relay: Relay | None = None) -> None:
    assert server.process.stderr is not None
    while line := await server.process.stderr.readline():
        if relay is not None:
            relay(server.word, line)
        try:
            server.log.append(json.loads(line))
            del server.log[:-_LOG_LINES]
        except json.JSONDecodeError:
            server.said.append(line.decode(errors="replace").rstrip())
            del server.said[:-_LOG_LINES]


class Watched:
    """How ``run_together`` ended: 0 when it was asked to stop; else 1, and ``why`` says which server ended and how."""

    status = 0
    why = ""


async def run_together(servers: Mapping[str, Server], signals: asyncio.Queue[int], drain_s: float) -> Watched:
    """Until all have ended: pass signals on, and end the others when one dies by itself."""
    ended = Watched()
    deaths = {asyncio.create_task(server.process.wait()): server for server in servers.values()}
    asking = asyncio.create_task(signals.get())
    stopping_s: float | None = None
    try:
        while deaths:
            done, _ = await asyncio.wait((asking, *deaths), timeout=stopping_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                for server in deaths.values():
                    server.kill()
            if asking in done:
                number = asking.result()
                asking = asyncio.create_task(signals.get())
                stopping_s = drain_s + 10
                for server in deaths.values():
                    server.send(number)
            for task in done & deaths.keys():
                server = deaths.pop(task)
                if stopping_s is None:
                    stopping_s = drain_s + 10
                    ended.status, ended.why = 1, f"the {server.word} server ended by itself: {_last_words(server)}"
                    for other in deaths.values():
                        other.send(signal.SIGTERM)
    finally:
        asking.cancel()
    return ended


def _last_words(server: Server) -> str:
    code = server.process.returncode
    status = f"exit status {code}"
    if code is not None and code < 0:
        status = f"killed by {signal.Signals(-code).name}"
    return f"{status} ({server.said[-1]})" if server.said else status


@contextlib.contextmanager
def catching_signals() -> Iterator[asyncio.Queue[int]]:
    """SIGINT, SIGTERM and SIGHUP (a closed terminal, as SIGINT) as a queue, while this lasts."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[int] = asyncio.Queue()
    numbers = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}
    if sys.platform != "win32":
        numbers[signal.SIGHUP] = signal.SIGINT

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, int(numbers[signal.Signals(number)]))

    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield queue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
