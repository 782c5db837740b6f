"""The configuration of each proxy with room for one fault; without the fault it has the lines that the READMEs recommend."""

from __future__ import annotations

import json
from typing import Any

_TYPE = "type.googleapis.com/envoy"


def nginx(
    port: int, target: str, wire: str, *, http: str = "", server: str = "", location: str = "", without: str = ""
) -> str:
    """nginx; the texts are added to its blocks, and the line ``without`` is left out."""
    if wire == "grpc":
        listen, lines = f"{port} http2", [f"grpc_pass grpc://{target};", "grpc_read_timeout 600s;"]
    else:
        listen, lines = (
            str(port),
            [
                f"proxy_pass http://{target};",
                "proxy_http_version 1.1;",
                "proxy_set_header Host $http_host;",
                "proxy_read_timeout 600s;",
            ],
        )
    if wire == "websocket":
        lines += ["proxy_set_header Upgrade $http_upgrade;", 'proxy_set_header Connection "upgrade";']
    size = "client_max_body_size 8m;"
    kept = "\n".join([*(line for line in lines if not (without and line.startswith(without))), location])
    server = server if without == "client_max_body_size" else f"{size} {server}"
    return f"{http}\nserver {{ listen 127.0.0.1:{listen}; {server}\nlocation / {{ {kept} }} }}"


def haproxy(
    port: int, target: str, wire: str, *, defaults: str = "", frontend: str = "", backend: str = "", server: str = ""
) -> str:
    """HAProxy; a later time-out wins over the recommended one."""
    proto = " proto h2" if wire == "grpc" else ""
    return f"""
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout tunnel 600s
    option http-no-delay
    option abortonclose
    {defaults}
frontend in
    bind 127.0.0.1:{port}{proto}
    {frontend}
    default_backend chat
backend chat
    {backend}
    server one {target}{proto} {server}
"""


def caddy(
    port: int, target: str, wire: str, *, servers: str = "", site: str = "", proxy: str = "", transport: str = ""
) -> str:
    """Caddy; ``site`` stands before ``reverse_proxy``, ``proxy`` inside it."""
    scheme = "h2c" if wire == "grpc" else "http"
    inside = f"transport http {{\n{transport}\n}}" if transport else ""
    return f"""{{
    servers {{
        protocols h1 h2c
        {servers}
    }}
}}
http://:{port} {{
    bind 127.0.0.1
    {site}
    reverse_proxy {scheme}://{target} {{
        {proxy}
        {inside}
    }}
}}
"""


def envoy(
    port: int,
    target: str,
    wire: str,
    *,
    manager: dict[str, Any] | None = None,
    route: dict[str, Any] | None = None,
    host: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    filters: list[dict[str, Any]] | None = None,
) -> str:
    """Envoy; the objects are merged into its connection manager, its route, its virtual host and its cluster."""
    http2 = wire == "grpc"
    router = {"name": "router", "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}}
    action = {"cluster": "chat", "timeout": "0s", **(route or {})}
    hosts = [
        {"name": "chat", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}], **(host or {})}
    ]
    connections = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "stream_idle_timeout": "600s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [*(filters or []), router],
        "route_config": {"virtual_hosts": hosts},
        **(manager or {}),
    }
    options = {
        "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options" if http2 else "http_protocol_options": {}},
    }
    upstream = {
        "name": "chat",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": "chat",
            "endpoints": [{"lb_endpoints": [envoy_endpoint(target)]}],
        },
        **(cluster or {}),
    }
    listener = {
        "address": _address(f"127.0.0.1:{port}"),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": connections}]}],
    }
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [upstream]}})


def envoy_endpoint(target: str) -> dict[str, Any]:
    """A server of Envoy's cluster."""
    return {"endpoint": {"address": _address(target)}}


def _address(target: str) -> dict[str, Any]:
    host, _, port = target.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def envoy_filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    """An HTTP filter of Envoy; ``kind`` is the protobuf type after ``envoy.extensions.``."""
    return {"name": name, "typed_config": {"@type": f"{_TYPE}.extensions.{kind}", **fields}}


def traefik(
    port: int,
    target: str,
    wire: str,
    *,
    responding: dict[str, Any] | None = None,
    forwarding: dict[str, Any] | None = None,
    middleware: dict[str, Any] | None = None,
    entry: dict[str, Any] | None = None,
) -> str:
    """Traefik; ``responding`` and ``forwarding`` are its time-outs, ``middleware`` is one middleware of its router."""
    url = f"{'h2c' if wire == 'grpc' else 'http'}://{target}"
    times = {"readTimeout": "0s", "writeTimeout": "0s", "idleTimeout": "180s", **(responding or {})}
    router: dict[str, Any] = {"rule": "PathPrefix(`/`)", "service": "chat", "entryPoints": ["in"]}
    http: dict[str, Any] = {
        "routers": {"chat": router},
        "services": {"chat": {"loadBalancer": {"servers": [{"url": url}]}}},
    }
    if forwarding:
        http["services"]["chat"]["loadBalancer"]["serversTransport"] = "line"
        http["serversTransports"] = {"line": {"forwardingTimeouts": forwarding}}
    if middleware:
        router["middlewares"] = ["planted"]
        http["middlewares"] = {"planted": middleware}
    static = {
        "entryPoints": {
            "in": {"address": f"127.0.0.1:{port}", "transport": {"respondingTimeouts": times}, **(entry or {})}
        },
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
    }
    return json.dumps({"static": static, "dynamic": {"http": http}})
