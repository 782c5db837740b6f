"""Servers as forks of one process that has imported all of them, for ``serve all``: the imports are most of a start.

A fork is safe before there is a thread, an event loop or an object of gRPC (grpc/doc/fork_support.md, "use after fork").
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from protocols import TRANSPORTS

# On macOS a library of the system may have started a thread, and Windows has no fork.
CAN_FORK = sys.platform == "linux"
# A server with the default settings imports these modules at its start.
_LATE_MODULES = ("shared.llm.offline", "shared.images.offline", "shared.store.sqlite.store")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if sys.platform != "win32" else ()


@dataclass(frozen=True, slots=True)
class Fork:
    """A server that has been forked, and the descriptor of the pipe that the server's stderr is written to."""

    process: BaseProcess
    stderr_fd: int

    async def attached(self, limit_bytes: int) -> ForkedProcess:
        """The server as a process of the running event loop. Lines on stderr may be as long as ``limit_bytes``."""
        loop = asyncio.get_running_loop()
        stderr = asyncio.StreamReader(limit_bytes)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(self.stderr_fd, "rb", 0))
        return ForkedProcess(self.process, stderr)


class ForkedProcess:
    """A forked server with the methods of ``asyncio.subprocess.Process``."""

    def __init__(self, process: BaseProcess, stderr: asyncio.StreamReader) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self.stderr = stderr
        self._process = process
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._on_end)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        # The sentinel is readable a moment before the process has ended.
        self._process.join()
        self._ended.set()

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the number of the signal that ended the process; None while it runs."""
        return self._process.exitcode if self._ended.is_set() else None

    async def wait(self) -> int:
        """Wait for the end, and return the exit status."""
        await self._ended.wait()
        return self._process.exitcode or 0

    def send_signal(self, number: int) -> None:
        """Send a signal. A process that has ended gets none."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def forked(
    ports: Mapping[str, int], environment: Mapping[str, str], arguments: Sequence[str]
) -> Iterator[dict[str, Fork]]:
    """Servers by word, each in a process group of its own; call it before the event loop starts.

    A signal that arrives before ``signals_unblocked`` waits. A server that still runs at the end of the block is killed.
    """
    modules = [*(f"protocols.{TRANSPORTS[word].folder}.server" for word in ports), *_LATE_MODULES]
    _import(modules)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    forks: dict[str, Fork] = {}
    try:
        for word, port in ports.items():
            parents_fds = [fork.stderr_fd for fork in forks.values()]
            forks[word] = _fork(word, ["--port", str(port), *arguments], environment, parents_fds)
        yield forks
    finally:
        for fork in forks.values():
            fork.process.kill()
            fork.process.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def signals_unblocked() -> None:
    """Deliver the signals that ``forked`` has held back; call it when they are caught."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _import(modules: Sequence[str]) -> None:
    """Import modules, and exclude what they made from garbage collection: a collection would copy the pages that forks share."""
    gc.disable()
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        gc.enable()
    gc.collect()
    gc.freeze()


def _fork(word: str, arguments: Sequence[str], environment: Mapping[str, str], parents_fds: Sequence[int]) -> Fork:
    reading_fd, writing_fd = os.pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(word, arguments, environment, writing_fd, [*parents_fds, reading_fd]), name=word
    )
    process.start()
    os.close(writing_fd)
    return Fork(process, reading_fd)


def _serve(
    word: str, arguments: Sequence[str], environment: Mapping[str, str], stderr_fd: int, parents_fds: Sequence[int]
) -> None:
    """The forked process: a server that writes its log lines to ``stderr_fd``, as a program that was started would do.

    ``parents_fds`` are closed, so that the death of the parent closes the pipes.
    """
    os.setpgid(0, 0)
    for fd in parents_fds:
        os.close(fd)
    with Path(os.devnull).open("r+b", buffering=0) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    os.dup2(stderr_fd, 2)
    os.close(stderr_fd)
    os.environ.update(environment)
    # The name that ps -e and top show.
    Path("/proc/self/comm").write_text(f"serve {word}", encoding="ascii")
    signals_unblocked()
    sys.exit(TRANSPORTS[word].server_main()(arguments))
