"""The planted faults, each with the finding that names it, and the paths on which the probe has to be silent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from compare.lines.faults import Faults
from compare.probing.outcome import Kind
from compare.probing.planted import configs
from compare.probing.planted.configs import envoy_filter
from compare.probing.planted.readmes import LANGUAGES, readme_config
from protocols import TRANSPORTS

# Above the time-outs that are planted, of 2 and 3 s.
PATIENCE_S = 4.5
Config = Callable[[int, str, str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedPath:
    """A path between the probe and a server: a proxy with a configuration, the relay of this project, or neither
    (direct).

    ``expected`` names what the probe has to find, nothing on a clean path; ``also`` are findings that the same setting
    causes. ``loaded``: the machine is kept busy meanwhile. ``quick``: part of ``make test``. ``heartbeat_s`` is the
    server's.
    """

    name: str
    wire: str
    program: str = ""
    config: Config | None = None
    faults: Faults | None = None
    expected: Kind | None = None
    also: tuple[Kind, ...] = ()
    loaded: bool = False
    quick: bool = False
    patience_s: float = PATIENCE_S
    heartbeat_s: float = 60.0


def _planted(
    program: str, config: Config, name: str, wire: str, expected: Kind, *also: Kind, quick: bool = False
) -> ProbedPath:
    title = {"nginx": "nginx", "haproxy": "HAProxy", "caddy": "Caddy", "envoy": "Envoy", "traefik": "Traefik"}[program]
    return ProbedPath(
        name=f"{title} {name}",
        wire=wire,
        program=program,
        config=config,
        expected=expected,
        also=also,
        quick=quick,
    )


def _nginx(name: str, wire: str, expected: Kind, *also: Kind, quick: bool = False, **lines: Any) -> ProbedPath:
    return _planted("nginx", partial(configs.nginx, **lines), name, wire, expected, *also, quick=quick)


def _haproxy(name: str, wire: str, expected: Kind, *also: Kind, quick: bool = False, **lines: Any) -> ProbedPath:
    return _planted("haproxy", partial(configs.haproxy, **lines), name, wire, expected, *also, quick=quick)


def _caddy(name: str, wire: str, expected: Kind, *also: Kind, quick: bool = False, **lines: Any) -> ProbedPath:
    return _planted("caddy", partial(configs.caddy, **lines), name, wire, expected, *also, quick=quick)


def _envoy(name: str, wire: str, expected: Kind, *also: Kind, quick: bool = False, **parts: Any) -> ProbedPath:
    return _planted("envoy", partial(configs.envoy, **parts), name, wire, expected, *also, quick=quick)


def _traefik(name: str, wire: str, expected: Kind, *also: Kind, quick: bool = False, **parts: Any) -> ProbedPath:
    return _planted("traefik", partial(configs.traefik, **parts), name, wire, expected, *also, quick=quick)


def _relay(name: str, wire: str, faults: Faults, expected: Kind, *also: Kind, quick: bool = False) -> ProbedPath:
    return ProbedPath(name=f"relay {name}", wire=wire, faults=faults, expected=expected, also=also, quick=quick)


_GZIP = "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;"
_TWICE = "upstream two {{ server {0} max_fails=0; server {0} max_fails=0; }}"
_GZIP_FILTER = envoy_filter(
    "compressor",
    "filters.http.compressor.v3.Compressor",
    response_direction_config={
        "common_config": {"min_content_length": 30, "content_type": ["text/event-stream", "application/x-ndjson"]}
    },
    compressor_library={
        "name": "gzip",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip"},
    },
)


def _nginx_retry(port: int, target: str, wire: str) -> str:
    lines = configs.nginx(
        port, "two", wire, location="proxy_next_upstream error http_502 non_idempotent; proxy_set_header Host two.test;"
    )
    return f"{_TWICE.format(target)}\n{lines.replace('two.test', target)}"


def _nginx_http_for_grpc(port: int, target: str, wire: str) -> str:
    return configs.nginx(port, target, wire).replace("grpc_pass grpc://", "proxy_pass http://")


def _haproxy_compression(port: int, target: str, wire: str) -> str:
    """Two hops, because HAProxy does not compress what says no-transform: the hop behind removes that header."""
    inner = f"abns@probe-{port}"
    lines = configs.haproxy(
        port,
        inner,
        wire,
        backend="filter compression\n    compression algo gzip\n    compression type text/event-stream",
    )
    return f"""{lines}
listen strip
    bind {inner}
    http-response del-header cache-control
    server one {target}
"""


PLANTED: tuple[ProbedPath, ...] = (
    _nginx(
        "gzip * and buffering",
        "sse",
        "held",
        "compressed",
        quick=True,
        server=f"{_GZIP} proxy_ignore_headers X-Accel-Buffering;",
    ),
    _nginx(
        "gzip * and buffering",
        "ndjson",
        "held",
        "compressed",
        server=f"{_GZIP} proxy_ignore_headers X-Accel-Buffering;",
    ),
    _nginx("gzip *", "sse", "compressed", server=_GZIP),
    _nginx("gzip *", "ndjson", "compressed", server=_GZIP),
    _nginx(
        "proxy_read_timeout 2s",
        "rest",
        "waiting_cut",
        quick=True,
        without="proxy_read_timeout",
        location="proxy_read_timeout 2s;",
    ),
    _nginx(
        "proxy_read_timeout 2s",
        "ndjson",
        "cut_in_silence",
        without="proxy_read_timeout",
        location="proxy_read_timeout 2s;",
    ),
    _nginx(
        "proxy_read_timeout 2s",
        "sse",
        "cut_in_silence",
        without="proxy_read_timeout",
        location="proxy_read_timeout 2s;",
    ),
    _nginx(
        "proxy_read_timeout 2s",
        "websocket",
        "cut_in_silence",
        without="proxy_read_timeout",
        location="proxy_read_timeout 2s;",
    ),
    _nginx(
        "grpc_read_timeout 2s", "grpc", "cut_in_silence", without="grpc_read_timeout", location="grpc_read_timeout 2s;"
    ),
    _nginx(
        "client_max_body_size 64k",
        "sse",
        "upload_limit",
        without="client_max_body_size",
        server="client_max_body_size 64k;",
    ),
    _nginx(
        "client_max_body_size 64k",
        "grpc",
        "upload_limit",
        without="client_max_body_size",
        server="client_max_body_size 64k;",
    ),
    _nginx("client_max_body_size by default", "rest", "upload_limit", without="client_max_body_size"),
    _nginx("without Upgrade", "websocket", "upgrade_refused", quick=True, without="proxy_set_header Upgrade"),
    _nginx("strips Last-Event-ID", "sse", "cursor_removed", quick=True, location='proxy_set_header Last-Event-ID "";'),
    _nginx("drops the query", "ndjson", "cursor_removed", location="rewrite ^(.*)$ $1? break;"),
    _nginx("strips Authorization", "sse", "key_removed", location='proxy_set_header Authorization "";'),
    _nginx("strips Authorization", "grpc", "key_removed", location='grpc_set_header Authorization "";'),
    _nginx("proxy_ignore_client_abort on", "sse", "leaving_unnoticed", location="proxy_ignore_client_abort on;"),
    _nginx(
        "limit_conn 6",
        "ndjson",
        "few_at_once",
        http="limit_conn_zone $binary_remote_addr zone=z:1m;",
        server="limit_conn z 6;",
    ),
    _nginx("http2_max_concurrent_streams 6", "grpc", "few_at_once", server="http2_max_concurrent_streams 6;"),
    _planted("nginx", _nginx_http_for_grpc, "proxy_pass for gRPC", "grpc", "refused", "upload_limit"),
    _nginx("keepalive_timeout 1s", "rest", "idle_closed", server="keepalive_timeout 1s;"),
    _nginx("hides Cache-Control", "sse", "headers_removed", location="proxy_hide_header Cache-Control;"),
    _planted("nginx", _nginx_retry, "proxy_next_upstream non_idempotent", "rest", "repeated"),
    _nginx("refuses Expect", "ndjson", "continue_refused", server="if ($http_expect) { return 417; }"),
    _haproxy("timeout server 2s", "rest", "waiting_cut", defaults="timeout server 2s"),
    _haproxy("timeout server 2s", "sse", "cut_in_silence", quick=True, defaults="timeout server 2s"),
    _haproxy("timeout tunnel 2s", "websocket", "cut_in_silence", defaults="timeout tunnel 2s"),
    _haproxy("timeout server 2s", "grpc", "cut_in_silence", defaults="timeout server 2s"),
    _haproxy("timeout client 2s", "ndjson", "idle_closed", defaults="timeout client 2s"),
    _haproxy("timeout http-keep-alive 1s", "rest", "idle_closed", defaults="timeout http-keep-alive 1s"),
    _planted("haproxy", _haproxy_compression, "compression", "sse", "compressed", "headers_removed"),
    _haproxy("maxconn 6", "sse", "few_at_once", server="maxconn 6"),
    _haproxy("without abortonclose", "sse", "leaving_unnoticed", defaults="no option abortonclose"),
    _haproxy("without abortonclose", "rest", "leaving_unnoticed", quick=True, defaults="no option abortonclose"),
    _haproxy("strips Last-Event-ID", "sse", "cursor_removed", frontend="http-request del-header last-event-id"),
    _haproxy(
        "denies Upgrade", "websocket", "upgrade_refused", frontend="http-request deny if { req.hdr(upgrade) -m found }"
    ),
    _haproxy(
        "refuses bodies above 64 KiB",
        "ndjson",
        "upload_limit",
        frontend="http-request deny deny_status 413 if { req.hdr_val(content-length) gt 65536 }",
    ),
    _haproxy(
        "refuses Expect",
        "rest",
        "continue_refused",
        frontend="http-request return status 417 if { req.hdr(expect) -m found }",
    ),
    _haproxy("replaces the query", "ndjson", "cursor_removed", frontend="http-request set-query x=1"),
    _caddy("request_body 64KB", "ndjson", "upload_limit", quick=True, site="request_body {\nmax_size 64KB\n}"),
    _caddy(
        "encode gzip",
        "sse",
        "compressed",
        "headers_removed",
        proxy="header_down -Cache-Control",
        site="encode {\ngzip\nminimum_length 1\nmatch {\nheader Content-Type text/event-stream*\n}\n}",
    ),
    _caddy("read_timeout 2s", "rest", "waiting_cut", transport="read_timeout 2s"),
    _caddy("read_timeout 2s", "sse", "cut_in_silence", transport="read_timeout 2s"),
    _caddy("strips Authorization", "rest", "key_removed", proxy="header_up -Authorization"),
    _caddy("strips Last-Event-ID", "sse", "cursor_removed", proxy="header_up -Last-Event-ID"),
    _caddy("idle 1s", "ndjson", "idle_closed", servers="timeouts {\nidle 1s\n}"),
    _caddy("strips the subprotocol", "websocket", "upgrade_refused", proxy="header_up -Sec-WebSocket-Protocol"),
    _caddy(
        "write timeout 3s", "sse", "cut_in_flow", "cut_in_silence", "gone_silent", servers="timeouts {\nwrite 3s\n}"
    ),
    _caddy(
        "retries POST", "rest", "repeated", proxy="request_buffers 64k\nlb_retries 2\nlb_retry_match {\nmethod POST\n}"
    ),
    _envoy("stream_idle_timeout 2s", "rest", "waiting_cut", manager={"stream_idle_timeout": "2s"}),
    _envoy("stream_idle_timeout 2s", "ndjson", "cut_in_silence", manager={"stream_idle_timeout": "2s"}),
    _envoy("stream_idle_timeout 2s", "websocket", "cut_in_silence", manager={"stream_idle_timeout": "2s"}),
    _envoy("stream_idle_timeout 2s", "grpc", "cut_in_silence", quick=True, manager={"stream_idle_timeout": "2s"}),
    _envoy(
        "route timeout 3s", "sse", "cut_in_flow", "cut_in_silence", "few_at_once", quick=True, route={"timeout": "3s"}
    ),
    _envoy("route timeout 3s", "grpc", "cut_in_flow", "cut_in_silence", "few_at_once", route={"timeout": "3s"}),
    _envoy(
        "max_stream_duration 3s",
        "ndjson",
        "cut_in_flow",
        "cut_in_silence",
        "few_at_once",
        manager={"common_http_protocol_options": {"max_stream_duration": "3s"}},
    ),
    _envoy(
        "retry_on 5xx", "rest", "repeated", quick=True, route={"retry_policy": {"retry_on": "5xx", "num_retries": 2}}
    ),
    _envoy("retry_on reset", "rest", "repeated", route={"retry_policy": {"retry_on": "reset", "num_retries": 2}}),
    _envoy(
        "compressor",
        "sse",
        "compressed",
        "held",
        "headers_removed",
        host={"response_headers_to_remove": ["cache-control"]},
        filters=[_GZIP_FILTER],
    ),
    _envoy(
        "bandwidth_limit of 1 KiB/s",
        "sse",
        "slow_line",
        "held",
        "cut_in_flow",
        "few_at_once",
        filters=[
            envoy_filter(
                "bandwidth",
                "filters.http.bandwidth_limit.v3.BandwidthLimit",
                stat_prefix="slow",
                enable_mode="RESPONSE",
                limit_kbps=1,
            )
        ],
    ),
    _envoy(
        "buffer filter of 64 KiB",
        "ndjson",
        "upload_limit",
        filters=[envoy_filter("buffer", "filters.http.buffer.v3.Buffer", max_request_bytes=65536)],
    ),
    _envoy(
        "removes the trailer grpc-status",
        "grpc",
        "trailers_removed",
        filters=[
            envoy_filter(
                "mutation",
                "filters.http.header_mutation.v3.HeaderMutation",
                mutations={"response_trailers_mutations": [{"remove": "grpc-status"}]},
            )
        ],
    ),
    _envoy("without upgrade_configs", "websocket", "upgrade_refused", manager={"upgrade_configs": []}),
    _envoy(
        "circuit breaker of 6",
        "sse",
        "few_at_once",
        cluster={"circuit_breakers": {"thresholds": [{"max_connections": 6, "max_pending_requests": 1}]}},
    ),
    _envoy("removes authorization", "grpc", "key_removed", host={"request_headers_to_remove": ["authorization"]}),
    _envoy(
        "max_concurrent_streams 6",
        "grpc",
        "few_at_once",
        manager={"http2_protocol_options": {"max_concurrent_streams": 6}},
    ),
    _envoy(
        "idle_timeout 1s",
        "rest",
        "idle_closed",
        manager={"common_http_protocol_options": {"idle_timeout": "1s"}, "drain_timeout": "0.2s"},
    ),
    _envoy(
        "idle_timeout 1s",
        "grpc",
        "idle_closed",
        manager={"common_http_protocol_options": {"idle_timeout": "1s"}, "drain_timeout": "0.2s"},
    ),
    _traefik(
        "writeTimeout 3s",
        "sse",
        "cut_in_flow",
        "cut_in_silence",
        "gone_silent",
        "few_at_once",
        responding={"writeTimeout": "3s"},
    ),
    _traefik("writeTimeout 3s", "rest", "waiting_cut", "few_at_once", responding={"writeTimeout": "3s"}),
    _traefik(
        "responseHeaderTimeout 2s", "rest", "waiting_cut", "few_at_once", forwarding={"responseHeaderTimeout": "2s"}
    ),
    _traefik("buffering", "sse", "held", quick=True, middleware={"buffering": {"maxRequestBodyBytes": 0}}),
    _traefik("buffering", "ndjson", "held", middleware={"buffering": {"maxRequestBodyBytes": 0}}),
    _traefik("compress", "sse", "compressed", middleware={"compress": {"minResponseBodyBytes": 1}}),
    _traefik(
        "retries POST",
        "rest",
        "repeated",
        middleware={
            "retry": {"attempts": 3, "initialInterval": "10ms", "status": ["500-599"], "retryNonIdempotentMethod": True}
        },
    ),
    _traefik("inFlightReq 6", "ndjson", "few_at_once", middleware={"inFlightReq": {"amount": 6}}),
    _traefik(
        "buffering.maxRequestBodyBytes 64 KiB",
        "rest",
        "upload_limit",
        middleware={"buffering": {"maxRequestBodyBytes": 65536}},
    ),
    _traefik("idleTimeout 1s", "rest", "idle_closed", responding={"idleTimeout": "1s"}),
    _traefik(
        "strips Last-Event-ID",
        "sse",
        "cursor_removed",
        middleware={"headers": {"customRequestHeaders": {"Last-Event-ID": ""}}},
    ),
    _traefik(
        "changes Cache-Control",
        "ndjson",
        "headers_removed",
        middleware={"headers": {"customResponseHeaders": {"Cache-Control": "public, max-age=60"}}},
    ),
    _relay("buffer of 4 KiB or 1 s", "sse", Faults(buffer_bytes=4096, buffer_s=1.0), "held"),
    _relay("buffer of 4 KiB or 1 s", "ndjson", Faults(buffer_bytes=4096, buffer_s=1.0), "held"),
    _relay("buffer of 4 KiB or 1 s", "websocket", Faults(buffer_bytes=4096, buffer_s=1.0), "held"),
    _relay("buffer of 4 KiB or 1 s", "grpc", Faults(buffer_bytes=4096, buffer_s=1.0), "held", quick=True),
    _relay(
        "cuts after 3,000 B",
        "grpc",
        Faults(cut_after_bytes=3000, times=None),
        "cut_in_flow",
        "upload_limit",
        "few_at_once",
    ),
    _relay(
        "1,200 B/s", "sse", Faults(bytes_per_s=1200), "slow_line", "held", "cut_in_flow", "few_at_once", "upload_limit"
    ),
    _relay("black hole after 2,500 B", "ndjson", Faults(black_hole_after_bytes=2500, times=None), "gone_silent"),
    _relay("holds the first bytes", "sse", Faults(stall_after_bytes=60, stall_s=0.9, times=None), "slow_start"),
)

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
