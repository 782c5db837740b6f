"""The configurations that people have: what each proxy's own documentation or package begins with, and nothing else."""

from __future__ import annotations

from functools import partial

from compare.probing.planted import configs
from compare.probing.planted.paths import ProbedPath
from protocols import TRANSPORTS

# Longer than the 60 s after which nginx gives up by default. The servers send heartbeats as they do by default.
PATIENCE_S = 65.0
HEARTBEAT_S = 15.0


def _nginx(port: int, target: str, wire: str) -> str:
    if wire == "grpc":
        return f"server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://{target}; }} }}"
    return f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{target}; }} }}"


def _haproxy(port: int, target: str, wire: str) -> str:
    """The time-outs of Debian's package."""
    proto = " proto h2" if wire == "grpc" else ""
    return f"""
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
frontend in
    bind 127.0.0.1:{port}{proto}
    default_backend chat
backend chat
    server one {target}{proto}
"""


def _envoy(port: int, target: str, wire: str) -> str:
    return (
        configs.envoy(port, target, wire, manager={"upgrade_configs": []}, route={"timeout": None})
        .replace('"timeout": null, ', "")
        .replace(', "timeout": null', "")
        .replace('"stream_idle_timeout": "600s", ', "")
    )


_CONFIGS = {"nginx": _nginx, "haproxy": _haproxy, "caddy": configs.caddy, "envoy": _envoy, "traefik": configs.traefik}
PLAIN: tuple[ProbedPath, ...] = tuple(
    ProbedPath(
        name=f"{program} plain",
        wire=wire,
        program=program,
        config=partial(config),
        patience_s=PATIENCE_S,
        heartbeat_s=HEARTBEAT_S,
    )
    for program, config in _CONFIGS.items()
    for wire in TRANSPORTS
)
