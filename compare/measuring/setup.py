"""The set-up that is printed beside every number."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata

from compare.lines.faults import Faults, describe

_PACKAGES = (
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "sse-starlette",
    "websockets",
    "grpcio",
    "protobuf",
    "httpx",
    "msgspec",
    "apsw",
)


def setup(faults: Faults | None = None, *, tls: bool = False) -> dict[str, str]:
    """What a reader must know to judge the numbers; ``faults`` are the relay's, ``tls``: the lines are encrypted."""
    versions = []
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}",
        "python": f"CPython {platform.python_version()}",
        "versions": ", ".join(versions),
        "model": "offline, the same tokens on the same schedule in every lane; no provider's SDK",
        "store": "in memory (sqlite://), so that only the transport is measured",
        "processes": "a server process for each lane; the clients and the relay share one process",
        "wire": "HTTP/1.1 (REST, NDJSON, SSE, WebSocket, gRPC-Web) and HTTP/2 (gRPC, lanes with h2 or asgi in their name), "
        f"{'TLS' if tls else 'no TLS'}, TCP_NODELAY on, no compression (permessage-deflate off, gRPC identity)",
        "limits": "MAX_BODY_BYTES is 8 MiB; the limits of the libraries are higher",
        "network": describe(faults),
        "clock": "wall clock of one machine; an event's `at` and its arrival are read from the same clock",
    }
