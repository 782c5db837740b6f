"""The paths on which the probe has to be silent."""

from __future__ import annotations

from functools import partial
from typing import Any

from compare.lines.faults import Faults
from compare.probing.planted import configs
from compare.probing.planted.paths import ProbedPath, caddy, haproxy, nginx, relay, traefik
from compare.probing.planted.readmes import LANGUAGES, readme_config
from protocols import TRANSPORTS

_QUICK = {("nginx", "sse"), ("haproxy", "rest"), ("caddy", "websocket"), ("nginx", "grpc")}


def _clean(name: str, wire: str, *, quick: bool = False, **parts: Any) -> ProbedPath:
    return ProbedPath(name=name, wire=wire, quick=quick, **parts)


CLEAN: tuple[ProbedPath, ...] = (
    *(_clean("direct", wire, quick=wire == "sse") for wire in TRANSPORTS),
    *(
        _clean("our relay, on a busy machine", wire, faults=Faults(), loaded=True, quick=wire == "grpc")
        for wire in TRANSPORTS
    ),
    *(
        _clean(
            f"{program} as in the README",
            wire,
            program=program,
            config=partial(readme_config, program),
            quick=(program, wire) in _QUICK,
        )
        for program in LANGUAGES
        for wire in TRANSPORTS
    ),
    *(
        _clean("Envoy with long time-outs", wire, program="envoy", config=configs.envoy)
        for wire in ("sse", "websocket", "grpc")
    ),
    *(
        _clean("Traefik with long time-outs", wire, program="traefik", config=configs.traefik)
        for wire in ("sse", "grpc")
    ),
)

# Settings that look harmful and do nothing to a stream.
HARMLESS: tuple[ProbedPath, ...] = (
    nginx("buffering alone", "sse", None, location="proxy_ignore_headers X-Accel-Buffering;"),
    nginx("buffering alone", "ndjson", None, location="proxy_ignore_headers X-Accel-Buffering;"),
    nginx(
        "small proxy_buffers",
        "sse",
        None,
        location="proxy_ignore_headers X-Accel-Buffering; proxy_buffers 4 4k; proxy_buffer_size 4k; "
        "proxy_busy_buffers_size 8k;",
    ),
    nginx(
        "send_timeout 2s and client_body_timeout 1s",
        "ndjson",
        None,
        location="send_timeout 2s; client_body_timeout 1s;",
    ),
    nginx("limit_rate 1k", "sse", None, location="limit_rate 1k;"),
    nginx(
        "sub_filter", "ndjson", None, location="sub_filter 'http://' 'https://'; sub_filter_types application/x-ndjson;"
    ),
    nginx("adds Cache-Control public", "sse", None, location="add_header Cache-Control public;"),
    haproxy("compression", "ndjson", None, backend="compression algo gzip\n    compression type application/x-ndjson"),
    haproxy("cookie insert nocache", "sse", None, backend="cookie SERVER insert indirect nocache", server="cookie one"),
    caddy("encode by default", "sse", None, site="encode zstd gzip"),
    traefik("readTimeout 2s", "websocket", None, responding={"readTimeout": "2s"}),
    relay("300 ms there and back", "sse", Faults(delay_s=0.15), None),
    relay("300 ms there and back", "grpc", Faults(delay_s=0.15), None),
    relay("3 % of packets 300 ms late", "ndjson", Faults(delay_s=0.05, late_share=0.03, late_s=0.3), None),
    haproxy("option http-buffer-request", "sse", None, frontend="option http-buffer-request"),
    caddy("flush_interval 2s", "sse", None, proxy="flush_interval 2s"),
    caddy("flush_interval 2s", "ndjson", None, proxy="flush_interval 2s"),
)
