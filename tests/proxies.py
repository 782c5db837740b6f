"""Real proxies in front of a server, for the tests: nginx, HAProxy, Caddy, Envoy, Traefik, each as a process of its own.

``proxy`` runs one with any configuration. ``silence_config`` is the configuration of a proxy whose time-outs for silence
are short, as an operator's may be.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compare.lines.programs import ARGUMENTS
from tests.parts import PARTS, find

_START_S = 30.0

NGINX_HTTP = """
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://{target};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
        proxy_read_timeout {idle_s}s;
        proxy_send_timeout {idle_s}s;
        send_timeout {idle_s}s;
    }}
}}
"""
NGINX_GRPC = """
server {{
    listen 127.0.0.1:{port} http2;
    location / {{
        grpc_pass grpc://{target};
        grpc_read_timeout {idle_s}s;
        grpc_send_timeout {idle_s}s;
        send_timeout {idle_s}s;
    }}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client {idle_s}s
    timeout server {idle_s}s
    timeout tunnel {idle_s}s
frontend in
    bind 127.0.0.1:{port}{proto}
    default_backend chat
backend chat
    server one {target}{proto}
"""
CADDY = """
{{
    servers {{
        protocols h1 h2c
    }}
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy {scheme}://{target} {{
        transport http {{
            read_timeout {idle_s}s
            write_timeout {idle_s}s
        }}
    }}
}}
"""


# By name, in the order of the tests; ``tests/parts.py`` reads the names here.
COMMANDS = {
    "nginx": ARGUMENTS["nginx"],
    "haproxy": ARGUMENTS["haproxy"],
    "caddy": ARGUMENTS["caddy"],
    "envoy": ARGUMENTS["envoy"],
    "traefik": ARGUMENTS["traefik"],
}
# Compression is on for every type, as it is in many installations.
GZIP = "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;"


def silence_config(name: str, port: int, target: str, *, grpc: bool, idle_s: int) -> str:
    """The configuration of a proxy on ``port`` that ends every connection or answer that is silent for ``idle_s``."""
    match name:
        case "nginx":
            return (NGINX_GRPC if grpc else NGINX_HTTP).format(port=port, target=target, idle_s=idle_s)
        case "haproxy":
            return HAPROXY.format(port=port, target=target, idle_s=idle_s, proto=" proto h2" if grpc else "")
        case "caddy":
            return CADDY.format(port=port, target=target, idle_s=idle_s, scheme="h2c" if grpc else "http")
        case "envoy":
            return json.dumps(_envoy_silence(port, target, grpc=grpc, idle_s=idle_s))
        case "traefik":
            return json.dumps(_traefik_silence(port, target, grpc=grpc, idle_s=idle_s))
    raise KeyError(name)


def _envoy_silence(port: int, target: str, *, grpc: bool, idle_s: int) -> dict[str, object]:
    host, _, target_port = target.rpartition(":")
    socket_address = {"socket_address": {"address": host, "port_value": int(target_port)}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "stream_idle_timeout": f"{idle_s}s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "chat",
                    "domains": ["*"],
                    # Without this Envoy ends every answer after 15 s.
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "chat", "timeout": "0s"}}],
                }
            ]
        },
    }
    upstream = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options" if grpc else "http_protocol_options": {}},
    }
    cluster = {
        "name": "chat",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": upstream},
        "load_assignment": {
            "cluster_name": "chat",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address}}]}],
        },
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _traefik_silence(port: int, target: str, *, grpc: bool, idle_s: int) -> dict[str, object]:
    responding = {"idleTimeout": f"{idle_s}s", "readTimeout": "0s", "writeTimeout": "0s"}
    forwarding = {"idleConnTimeout": f"{idle_s}s", "readIdleTimeout": f"{idle_s}s", "pingTimeout": f"{idle_s}s"}
    entry = {"address": f"127.0.0.1:{port}", "transport": {"respondingTimeouts": responding}}
    return {
        "static": {"entryPoints": {"in": entry}, "global": {"checkNewVersion": False}},
        "dynamic": {
            "http": {
                "routers": {"chat": {"rule": "PathPrefix(`/`)", "service": "chat", "entryPoints": ["in"]}},
                "services": {
                    "chat": {
                        "loadBalancer": {
                            "servers": [{"url": f"{'h2c' if grpc else 'http'}://{target}"}],
                            "serversTransport": "short",
                        }
                    }
                },
                "serversTransports": {"short": {"forwardingTimeouts": forwarding}},
            }
        },
    }


def _ready(name: str, port: int) -> bool:
    """Whether the proxy is ready.

    Traefik accepts connections before it has read its routes, and answers 404 until then.
    """
    try:
        if name == "traefik":
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                return connection.getresponse().status != 404
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def proxy(name: str, folder: Path, port: int, lines: str) -> Iterator[str]:
    """Run a proxy that this machine has. Yields its address, ``127.0.0.1:port``.

    Raises AssertionError with the proxy's words.
    """
    found = find(PARTS[name])
    assert found is not None, f"{name} is not installed"
    said_path = folder / "said"
    with said_path.open("w+") as said:
        text = f"{GZIP}\n{lines}" if name == "nginx" else lines
        command = [str(found.path), *COMMANDS[name](folder, text)]
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder)
        try:
            deadline = time.monotonic() + _START_S
            while True:
                if _ready(name, port):
                    break
                assert process.poll() is None and time.monotonic() < deadline, said_path.read_text()
                time.sleep(0.02)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)
