"""nginx between clients and servers, in the configurations that people have: what a proxy does to a stream."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from protocols.ports import free_port

CONFIGURATIONS = {
    "plain": "nginx with its defaults: it buffers answers unless they have X-Accel-Buffering: no; our streams have it.",
    "buffering": "nginx that ignores X-Accel-Buffering, so it buffers all answers over HTTP/1.1.",
    "compressing": "nginx with gzip for every media type; it honours X-Accel-Buffering.",
    "gzip and buffering": "nginx with gzip for every media type; it ignores X-Accel-Buffering.",
}
_IGNORE = "proxy_ignore_headers X-Accel-Buffering;"
_GZIP = "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;"
_DIRECTIVES = {
    "plain": "",
    "buffering": _IGNORE,
    "compressing": _GZIP,
    "gzip and buffering": f"{_GZIP} {_IGNORE}",
}
_START_TRIES = 100


def available() -> bool:
    """Whether nginx is installed."""
    return _nginx() is not None


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def nginx(configuration: str, targets: Mapping[str, tuple[str, bool]]) -> AsyncIterator[dict[str, str]]:
    """Run one nginx before all targets. Yields the addresses for their clients, by the targets' names.

    A target is an address and whether it speaks gRPC. Raises RuntimeError with nginx's own words when nginx does not start.
    """
    program = _nginx()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="compare-nginx-") as path:
        folder = Path(path)
        ports = {name: free_port() for name in targets}
        servers = "\n".join(_server(configuration, ports[name], *targets[name]) for name in targets)
        paths = "\n".join(
            f"{module}_temp_path {folder}/{module};" for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log stderr warn;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ access_log off; {paths}\n"
            "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }\n"
            f"{servers} }}\n"
        )
        process = await asyncio.create_subprocess_exec(
            program, "-p", path, "-c", str(config), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            for port in ports.values():
                await _listens(process, port)
            yield {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.communicate()


def _server(configuration: str, port: int, address: str, grpc: bool) -> str:
    if grpc:
        return (
            f"server {{ listen 127.0.0.1:{port} http2; {_GZIP if _GZIP in _DIRECTIVES[configuration] else ''}"
            f" location / {{ grpc_pass grpc://{address}; }} }}"
        )
    return (
        f"server {{ listen 127.0.0.1:{port}; {_DIRECTIVES[configuration]}\n"
        f"location / {{ proxy_pass http://{address}; proxy_http_version 1.1; proxy_set_header Host {address};"
        " proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; } }"
    )


async def _listens(process: asyncio.subprocess.Process, port: int) -> None:
    for _ in range(_START_TRIES):
        if process.returncode is not None:
            assert process.stderr is not None
            raise RuntimeError(f"nginx did not start: {(await process.stderr.read()).decode().strip()}")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise RuntimeError("nginx did not start in time")
