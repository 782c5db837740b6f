"""Servers in processes of their own, for ``serve all``, the demo, the comparison, the diagrams and the tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from protocols import TRANSPORTS
from shared.client.protocol import ChatClient

START_S = 60.0
_KEPT_LINES = 2000
LONGEST_LINE_BYTES = 4 * 1024 * 1024

# Gets the word of a server and a line that the server has logged.
OnLine = Callable[[str, bytes], None]


class RunningProcess(Protocol):
    """A server's process: the part of ``asyncio.subprocess.Process`` that is used here, which a forked server has too."""

    pid: int

    @property
    def stderr(self) -> asyncio.StreamReader | None: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


# Starts a server and gives its process, whose stderr is a pipe.
Start = Callable[[], Awaitable[RunningProcess]]


@dataclass(slots=True)
class Server:
    """A running server; ``url`` is its address with the scheme, as it logs it, and ``address`` is ``host:port``.

    ``ca``: the CA that its clients trust (``TLS_CA``). ``log`` has the newest 2,000 of its log lines, parsed; ``said`` has
    its other lines on stderr.
    """

    word: str
    url: str
    process: RunningProcess
    log: list[dict[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    ca: Path | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        return self.url.rpartition("/")[2]

    @property
    def page_url(self) -> str | None:
        """Where pages reach a server that has a port of its own for them; None where there is none."""
        said = str(self.log[0].get("for_pages", ""))
        return said if "://" in said else None

    def client(self, **options: Any) -> ChatClient:
        """A client of this server; ``options`` are ChatClient's."""
        return TRANSPORTS[self.word].client(self.url, **{"ca": self.ca, **options})

    def kill(self) -> None:
        """Send SIGKILL: the process ends without any clean-up."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def send(self, number: int) -> None:
        """Send a signal. Windows has no signals, so there the process is ended at once."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                if sys.platform == "win32":
                    self.process.terminate()
                else:
                    self.process.send_signal(number)

    async def stop(self, number: int = signal.SIGINT, timeout_s: float = 20.0) -> int:
        """Send a signal, wait, and return the exit status. A server that does not end in time is killed."""
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
    on_line: OnLine | None = None,
    apart: bool = False,
    within: Sequence[str] = (),
    start: Start | None = None,
) -> AsyncIterator[Server]:
    """One server that is ready for requests. Port 0 means any free port; ``env`` is added to this process's environment.

    The server speaks TLS where ``env`` names a certificate, whatever the settings of this process say.
    ``on_line`` gets each line that the server logs. ``apart`` puts the server into a process group of its own, so that Ctrl-C in a
    terminal reaches only this process. ``within``: the beginning of a command line that becomes the server's process, such as
    ``ip netns exec NAME``. ``start`` gives a process that has been started with all these options already. Raises RuntimeError
    with the server's own words when the server does not start.
    """
    environment = {**os.environ, **without_tls(), **(env or {})}
    if start is None:
        process = await _start(word, port, environment, arguments, apart=apart, within=within)
    else:
        process = await start()
    ca = environment.get("TLS_CA")
    server = await _listening(word, process, Path(ca) if ca else None)
    reading = asyncio.create_task(_read_log(server, on_line))
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
    ports: Mapping[str, int] | None = None,
    arguments: Sequence[str] = (),
    on_line: OnLine | None = None,
    apart: bool = False,
    starts: Mapping[str, Start] | None = None,
) -> AsyncIterator[dict[str, Server]]:
    """Several servers side by side, started and stopped together, with the options of ``serving``; ``ports``, ``starts`` by word.

    Raises RuntimeError with the words of the first server that does not start, after the others have been stopped.
    """
    async with contextlib.AsyncExitStack() as stack:
        starting = [
            asyncio.create_task(
                stack.enter_async_context(
                    serving(
                        word,
                        port=(ports or {}).get(word, 0),
                        env=env,
                        arguments=arguments,
                        on_line=on_line,
                        apart=apart,
                        start=(starts or {}).get(word),
                    )
                )
            )
            for word in words
        ]
        try:
            servers = await asyncio.gather(*starting)
        except BaseException:
            # The stack stops only servers that have entered it, so no server may still be starting when this block ends.
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise
        try:
            yield dict(zip(words, servers, strict=True))
        finally:
            for server in servers:
                server.send(signal.SIGINT)


async def start_process(
    command: Sequence[str], env: Mapping[str, str], *, apart: bool, limit: int, folder: Path | None = None
) -> asyncio.subprocess.Process:
    """A process whose stderr is read here, in lines of at most ``limit`` bytes; ``apart``: in a process group of its own.

    ``folder`` is where it runs; None: where this process runs.
    """
    return await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=limit,
        process_group=0 if apart else None,
        cwd=folder,
    )


def without_tls() -> dict[str, str]:
    """The variables that keep a server from speaking TLS, whatever the settings of this process say."""
    return {"TLS_CERT": "", "TLS_KEY": ""}


async def _start(
    word: str,
    port: int,
    environment: Mapping[str, str],
    arguments: Sequence[str],
    *,
    apart: bool,
    within: Sequence[str],
) -> RunningProcess:
    command = [*within, sys.executable, "-m", f"protocols.{TRANSPORTS[word].folder}.server", "--port", str(port)]
    return await start_process([*command, *arguments], environment, apart=apart, limit=LONGEST_LINE_BYTES)


async def _listening(word: str, process: RunningProcess, ca: Path | None) -> Server:
    """Read a server's stderr up to the line ``listening``."""
    assert process.stderr is not None
    said = []
    try:
        async with asyncio.timeout(START_S):
            while line := await process.stderr.readline():
                with contextlib.suppress(json.JSONDecodeError):
                    entry = json.loads(line)
                    if entry.get("event") == "listening":
                        return Server(word, str(entry["address"]), process, [entry], ca=ca)
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


async def _read_log(server: Server, on_line: OnLine | None) -> None:
    assert server.process.stderr is not None
    while line := await server.process.stderr.readline():
        if on_line is not None:
            on_line(server.word, line)
        try:
            server.log.append(json.loads(line))
            del server.log[:-_KEPT_LINES]
        except json.JSONDecodeError:
            server.said.append(line.decode(errors="replace").rstrip())
            del server.said[:-_KEPT_LINES]
