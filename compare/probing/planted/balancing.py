"""Planted faults of a hop that divides requests among servers: servers that do not know each other, dead ones, removed ones."""

from __future__ import annotations

from compare.probing.planted import configs
from compare.probing.planted.paths import ProbedPath, caddy, envoy, haproxy, planted, traefik

# No program listens on the discard port.
_DEAD = "127.0.0.1:9"


def _nginx(port: int, targets: str, wire: str, *, options: str = "", location: str = "") -> str:
    """nginx with every address in one ``upstream``."""
    servers = " ".join(f"server {target} {options};" for target in targets.split())
    return f"upstream all {{ {servers} }}\n{configs.nginx(port, 'all', wire, location=location)}"


def _nginx_removes(port: int, target: str, wire: str) -> str:
    """nginx knows a second server, or it would not remove the only one."""
    lines = _nginx(
        port, target, wire, options="max_fails=1", location="proxy_next_upstream error http_502 non_idempotent;"
    )
    return lines.replace(" }", f" server {_DEAD} backup; }}", 1)


def _haproxy(port: int, targets: str, wire: str) -> str:
    first, *others = targets.split()
    proto = " proto h2" if wire == "grpc" else ""
    return configs.haproxy(port, first, wire) + "".join(
        f"    server other{number} {target}{proto}\n" for number, target in enumerate(others)
    )


def _haproxy_dead(port: int, target: str, wire: str) -> str:
    return _haproxy(port, f"{target} {_DEAD}", wire)


def _caddy(port: int, targets: str, wire: str) -> str:
    scheme = "h2c" if wire == "grpc" else "http"
    return configs.caddy(port, f" {scheme}://".join(targets.split()), wire, proxy="lb_policy round_robin")


def _caddy_dead(port: int, target: str, wire: str) -> str:
    return _caddy(port, f"{target} {_DEAD}", wire)


def _envoy(port: int, targets: str, wire: str) -> str:
    hosts = [configs.envoy_endpoint(target) for target in targets.split()]
    load = {"cluster_name": "chat", "endpoints": [{"lb_endpoints": hosts}]}
    return configs.envoy(port, targets.split()[0], wire, cluster={"load_assignment": load})


def _envoy_dead(port: int, target: str, wire: str) -> str:
    return _envoy(port, f"{target} {_DEAD}", wire)


def _traefik(port: int, targets: str, wire: str) -> str:
    first, *others = targets.split()
    scheme = "h2c" if wire == "grpc" else "http"
    added = "".join(f', {{"url": "{scheme}://{target}"}}' for target in others)
    own = f'{{"url": "{scheme}://{first}"}}'
    return configs.traefik(port, first, wire).replace(own, own + added)


def _traefik_dead(port: int, target: str, wire: str) -> str:
    return _traefik(port, f"{target} {_DEAD}", wire)


BALANCING: tuple[ProbedPath, ...] = (
    planted("nginx", _nginx, "with two servers", "sse", "several_servers", servers=2),
    planted("nginx", _nginx, "with two servers", "websocket", "several_servers", servers=2),
    planted("haproxy", _haproxy, "with two servers", "rest", "several_servers", servers=2),
    planted("caddy", _caddy, "with two servers", "ndjson", "several_servers", servers=2),
    planted("envoy", _envoy, "with two servers", "grpc", "several_servers", servers=2),
    planted("traefik", _traefik, "with two servers", "websocket", "several_servers", servers=2),
    planted("nginx", _nginx_removes, "max_fails 1 and http_502", "rest", "server_removed"),
    haproxy(
        "observe layer7",
        "rest",
        "server_removed",
        server="check inter 60s observe layer7 error-limit 1 on-error mark-down",
    ),
    caddy("unhealthy_status 5xx", "rest", "server_removed", proxy="fail_duration 30s\nunhealthy_status 5xx"),
    envoy(
        "outlier_detection",
        "rest",
        "server_removed",
        cluster={
            "outlier_detection": {"consecutive_5xx": 1, "base_ejection_time": "30s", "max_ejection_percent": 100},
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        },
    ),
    traefik(
        "circuitBreaker",
        "rest",
        "server_removed",
        middleware={
            "circuitBreaker": {
                "expression": "ResponseCodeRatio(500, 600, 0, 600) > 0.001",
                "checkPeriod": "100ms",
                "fallbackDuration": "10s",
            }
        },
    ),
    planted("haproxy", _haproxy_dead, "with a dead second server", "sse", "unreliable"),
    planted("caddy", _caddy_dead, "with a dead second server", "rest", "unreliable"),
    planted("envoy", _envoy_dead, "with a dead second server", "ndjson", "unreliable"),
    planted("envoy", _envoy_dead, "with a dead second server", "grpc", "unreliable"),
    planted("traefik", _traefik_dead, "with a dead second server", "websocket", "unreliable"),
)
