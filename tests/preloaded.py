"""Servers that begin as forks of one process which has imported their modules: importing is most of what a start costs.

Each is a process of its own, with the pid, the signals, the environment, the stderr and the exit status of
``python -m protocols.….server``. A start with other settings of the interpreter is done by the interpreter itself, and so is
each start on a system without pidfd (Linux has it).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from protocols import processes

_SERVERS = tuple(
    f"protocols.{folder}.server" for folder in ("http_rest", "streamable_http", "sse", "websocket", "grpc")
)
# Modules that a server imports when it starts. One whose optional library is not installed is left out.
_MODULES = (
    *_SERVERS,
    *("protocols.grpc.web", "shared.images.offline", "shared.llm.offline", "shared.store.sqlite.store"),
    *("shared.store.starting", "uvicorn.lifespan.off", "concurrent.futures.thread", "uvloop"),
)
# What the interpreter and its libraries read when they are loaded.
_READ_AT_LOADING = ("PYTHON", "LD_", "GRPC_", "MALLOC", "UV")
_LONGEST_REQUEST_BYTES = 256 * 1024
_SIZE = 4
_POSSIBLE = sys.platform == "linux" and hasattr(os, "pidfd_open")
_start_process = processes.start_process


class Preloaded:
    """The process that has imported the modules; its forks are the servers. It begins with the first start."""

    def __init__(self) -> None:
        self._environment = _loading(os.environ)
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def start_process(
        self, command: Sequence[str], env: Mapping[str, str], *, apart: bool, limit: int, folder: Path | None = None
    ) -> asyncio.subprocess.Process:
        """As ``protocols.processes.start_process``."""
        interpreter, module = [sys.executable, "-m"], command[2] if len(command) > 2 else ""
        elsewhere = folder is not None or _loading(env) != self._environment
        if list(command[:2]) != interpreter or module not in _SERVERS or elsewhere:
            return await _start_process(command, env, apart=apart, limit=limit, folder=folder)
        request = {"module": module, "arguments": command[3:], "env": dict(env), "cwd": str(Path.cwd()), "apart": apart}
        stderr, its_stderr = os.pipe()
        ends, its_ends = os.pipe()
        try:
            socket.send_fds(self._open(), [json.dumps(request).encode()], [its_stderr, its_ends])
        finally:
            os.close(its_stderr)
            os.close(its_ends)
        said = os.read(ends, _SIZE)
        if len(said) != _SIZE:
            os.close(ends)
            os.close(stderr)
            raise RuntimeError("the process that the servers are forks of has ended")
        process = _Process(int.from_bytes(said, sys.byteorder), ends, limit)
        await process.listen(stderr)
        return cast(asyncio.subprocess.Process, process)

    def _open(self) -> socket.socket:
        with self._lock:
            if self._channel is None:
                self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LONGEST_REQUEST_BYTES)
                    self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_REQUEST_BYTES)
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())],
                        cwd=Path(__file__).parents[1],
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        process_group=0,
                    )
            return self._channel

    def close(self) -> None:
        """End the process, and with it the servers that still run."""
        if self._channel is not None and self._process is not None:
            self._channel.close()
            self._process.wait()


class _Process:
    """The part of ``asyncio.subprocess.Process`` that a ``Server`` uses, for a process that is no child of this one."""

    def __init__(self, pid: int, ends: int, limit: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stderr = asyncio.StreamReader(limit=limit)
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(ends, self._end, ends)

    async def listen(self, stderr: int) -> None:
        file = os.fdopen(stderr, "rb", 0)
        await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.stderr), file)

    def _end(self, ends: int) -> None:
        """Read the exit status. The pipe closes without one when the process before the fork was ended."""
        self._loop.remove_reader(ends)
        said = os.read(ends, _SIZE)
        os.close(ends)
        self.returncode = int.from_bytes(said, sys.byteorder, signed=True) if said else -signal.SIGKILL
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def preloaded_servers() -> Iterator[None]:
    """Within this block the servers of ``protocols.processes`` begin as forks, where the system can do that."""
    preloaded = Preloaded()
    processes.start_process = preloaded.start_process if _POSSIBLE else _start_process
    try:
        yield
    finally:
        processes.start_process = _start_process
        preloaded.close()


def _loading(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that must be the same in a fork. A fork imports what a test plants with a ``sitecustomize.py``."""
    found = {name: value for name, value in env.items() if name.startswith(_READ_AT_LOADING)}
    # Importing the gRPC client sets this variable in the tests' process. The variable changes only what grpcio prints.
    found.pop("GRPC_VERBOSITY", None)
    if _planted(env) is not None:
        del found["PYTHONPATH"]
    return found


def _planted(env: Mapping[str, str]) -> Path | None:
    planted = Path(env.get("PYTHONPATH", "")) / "sitecustomize.py"
    return planted if env.get("PYTHONPATH") and planted.is_file() else None


class _Child(Exception):
    """Leaves the loop of the process before the fork, in the process after the fork, which is the server."""


def _fork_servers(channel: socket.socket) -> None:
    """Fork a server for each request, and write its pid and its exit status into its pipe, until the channel closes.

    Raises _Child in each server.
    """
    running: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    try:
        while True:
            for ready, _ in poll.poll():
                if ready != channel.fileno():
                    poll.unregister(ready)
                    pid, ends = running.pop(ready)
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    os.close(ready)
                    with contextlib.suppress(BrokenPipeError):
                        os.write(ends, status.to_bytes(_SIZE, sys.byteorder, signed=True))
                    os.close(ends)
                    continue
                data, descriptors, _, _ = socket.recv_fds(channel, _LONGEST_REQUEST_BYTES, 2)
                if not data:
                    return
                stderr, ends = descriptors
                pid = os.fork()
                if not pid:
                    os.dup2(stderr, 2)
                    for opened in (stderr, ends, channel.detach(), *running, *(end for _, end in running.values())):
                        os.close(opened)
                    running.clear()
                    raise _Child(json.loads(data))
                os.close(stderr)
                os.write(ends, pid.to_bytes(_SIZE, sys.byteorder))
                descriptor = os.pidfd_open(pid)
                running[descriptor] = pid, ends
                poll.register(descriptor, select.POLLIN)
    finally:
        for pid, _ in running.values():
            os.kill(pid, signal.SIGKILL)


def _serve(request: dict[str, Any]) -> int:
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if request["apart"]:
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = [request["module"], *request["arguments"]]
    planted = _planted(os.environ)
    if planted is not None:
        spec = importlib.util.spec_from_file_location("planted", planted)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    status: int = importlib.import_module(request["module"]).main(request["arguments"])
    return status


def _main(descriptor: int) -> int:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    for module in _MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    try:
        _fork_servers(socket.socket(fileno=descriptor))
    except _Child as child:
        (request,) = child.args
    else:
        return 0
    return _serve(request)


if __name__ == "__main__":
    raise SystemExit(_main(int(sys.argv[1])))
