"""nginx, HAProxy, Caddy, Envoy and Traefik as programs: how each is started with a configuration, and when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

# Debian puts the servers' programs outside a user's PATH; pip puts programs beside the interpreter.
_FOLDERS = os.pathsep.join((str(Path(sys.executable).parent), "/usr/sbin", "/usr/local/sbin"))
_LISTENERS_PORTS = (10_000, 32_000)
_START_S = 30.0
_STOP_S = 20.0


def nginx(folder: Path, lines: str) -> list[str]:
    """The arguments of nginx; ``lines`` stand inside its ``http`` block."""
    config = folder / "nginx.conf"
    paths = " ".join(
        f"{what}_temp_path {folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = f"daemon off; master_process off; pid {folder}/pid; error_log stderr error; events {{}}"
    config.write_text(f"{head}\nhttp {{ access_log off; {paths}\n{lines}\n}}\n", encoding="utf-8")
    return ["-c", str(config), "-e", "stderr", "-p", str(folder)]


def caddy(folder: Path, lines: str) -> list[str]:
    """The arguments of Caddy; ``lines`` are a Caddyfile."""
    config = folder / "Caddyfile"
    options = "\n    admin off\n    auto_https off\n    persist_config off\n"
    lines = lines.lstrip()
    text = lines.replace("{", "{" + options, 1) if lines.startswith("{") else f"{{{options}}}\n{lines}"
    config.write_text(text, encoding="utf-8")
    return ["run", "--config", str(config), "--adapter", "caddyfile"]


def haproxy(folder: Path, lines: str) -> list[str]:
    """The arguments of HAProxy; ``lines`` follow its ``global`` section."""
    config = folder / "haproxy.cfg"
    config.write_text(f"global\n    log stderr local0 err\n{lines}", encoding="utf-8")
    return ["-db", "-f", str(config)]


def envoy(folder: Path, lines: str) -> list[str]:
    """The arguments of Envoy; ``lines`` are its bootstrap configuration in JSON."""
    config = folder / "envoy.json"
    config.write_text(lines, encoding="utf-8")
    return ["-c", str(config), "--log-level", "error", "--concurrency", "1", "--use-dynamic-base-id"]


def traefik(folder: Path, lines: str) -> list[str]:
    """The arguments of Traefik; ``lines`` are JSON with its static and its dynamic configuration."""
    both = json.loads(lines)
    # Traefik reads YAML and not JSON; every JSON document is a YAML document.
    dynamic = folder / "dynamic.yaml"
    dynamic.write_text(json.dumps(both["dynamic"]), encoding="utf-8")
    static = folder / "traefik.yaml"
    static.write_text(
        json.dumps(both["static"] | {"providers": {"file": {"filename": str(dynamic)}}}), encoding="utf-8"
    )
    return [f"--configFile={static}"]


ARGUMENTS: dict[str, Callable[[Path, str], list[str]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "caddy": caddy,
    "envoy": envoy,
    "traefik": traefik,
}


def program(name: str) -> str | None:
    """Where the program is on this machine; None where it is not installed."""
    return shutil.which(name) or shutil.which(name, path=_FOLDERS)


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A TCP port for a listener of this block, which no other block in any process gets meanwhile.

    The UDP port of the same number is the mark. The number is below those from which systems take a client's ports, because such a
    connection could take it before the listener does.
    """
    with socket.socket(type=socket.SOCK_DGRAM) as mark:
        while True:
            port = random.randrange(*_LISTENERS_PORTS)
            with contextlib.suppress(OSError), socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
                mark.bind(("127.0.0.1", port))
                break
        yield port


@dataclass(frozen=True, slots=True)
class RunningProgram:
    """A proxy that takes requests at ``address``, ``127.0.0.1:port``, and its process id."""

    address: str
    pid: int


@asynccontextmanager
async def running(name: str, port: int, lines: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[RunningProgram]:
    """Run a program; ``tls``: what a client needs where the program speaks TLS.

    Raises RuntimeError with the program's words when it does not start.
    """
    path = program(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed")
    with tempfile.TemporaryDirectory(prefix=f"compare-{name}-") as folder_name:
        folder = Path(folder_name)
        said = folder / "said"
        with said.open("w") as out:
            process = await asyncio.create_subprocess_exec(
                path, *ARGUMENTS[name](folder, lines), stdout=out, stderr=out, cwd=folder
            )
        try:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + _START_S
            while not await _ready(name, port, tls):
                if process.returncode is not None or loop.time() > deadline:
                    raise RuntimeError(f"{name} did not start: {said.read_text(errors='replace')[-2000:]}")
                await asyncio.sleep(0.05)
            yield RunningProgram(f"127.0.0.1:{port}", process.pid)
        finally:
            await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _ready(name: str, port: int, tls: ssl.SSLContext | None) -> bool:
    """Whether the program is ready.

    Traefik accepts connections before it has read its routes, and answers 404 until then.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    except OSError:
        return False
    try:
        if name != "traefik":
            return True
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(2):
            return b" 404 " not in await reader.readline()
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
