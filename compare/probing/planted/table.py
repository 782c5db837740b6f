"""The planted faults, each with the finding that names it."""

from __future__ import annotations

from compare.lines.faults import Faults
from compare.probing.planted import configs
from compare.probing.planted.balancing import BALANCING
from compare.probing.planted.configs import envoy_filter
from compare.probing.planted.paths import ProbedPath, caddy, envoy, haproxy, nginx, planted, relay, traefik

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
    lines = configs.nginx(port, "two", wire, location="proxy_next_upstream error http_502 non_idempotent;")
    return f"{_TWICE.format(target)}\n{lines}"


_CACHE_ZONE = "proxy_cache_path cache keys_zone=c:1m;"
_CACHE = "proxy_cache c; proxy_cache_valid 200 1m; proxy_ignore_headers Cache-Control X-Accel-Buffering Vary;"
_CACHE_POST = f"{_CACHE} proxy_cache_methods GET HEAD POST; proxy_cache_key $request_uri$request_body;"
_LOCAL_LIMIT = envoy_filter(
    "limit",
    "filters.http.local_ratelimit.v3.LocalRateLimit",
    stat_prefix="limit",
    token_bucket={"max_tokens": 5, "tokens_per_fill": 5, "fill_interval": "5s"},
    filter_enabled={"default_value": {"numerator": 100}},
    filter_enforced={"default_value": {"numerator": 100}},
)
_STICK_TABLE = """stick-table type ip size 1k expire 10s store http_req_rate(10s)
    http-request track-sc0 src
    http-request deny deny_status 429 if { sc_http_req_rate(0) gt 10 }"""
_SORRY = '@bad status 4xx\nhandle_response @bad {\nrespond "sorry" 500\n}'


def _nginx_http2_for_http1(port: int, target: str, wire: str) -> str:
    return configs.nginx(port, target, wire).replace(f"{port};", f"{port} http2;", 1)


def _nginx_path(port: int, target: str, wire: str) -> str:
    lines = configs.nginx(port, target, wire).replace("location / ", "location /chat/ ")
    return lines.replace(f"proxy_pass http://{target};", f"proxy_pass http://{target}/;")


def _nginx_http_for_grpc(port: int, target: str, wire: str) -> str:
    return configs.nginx(port, target, wire).replace("grpc_pass grpc://", "proxy_pass http://")


def _nginx_https(port: int, target: str, wire: str) -> str:
    return f"server {{ listen 127.0.0.1:{port}; return 301 https://$host$request_uri; }}"


def _nginx_no_server(port: int, target: str, wire: str) -> str:
    return configs.nginx(port, "127.0.0.1:9", wire)


def _nginx_page(port: int, target: str, wire: str) -> str:
    return (
        f"server {{ listen 127.0.0.1:{port}; location / {{ default_type text/html; return 200 '<h1>Welcome</h1>'; }} }}"
    )


def _nginx_max_conns(port: int, target: str, wire: str) -> str:
    return f"upstream one {{ zone one 64k; server {target} max_conns=4; }}\n{configs.nginx(port, 'one', wire)}"


def _haproxy_tcp(port: int, target: str, wire: str) -> str:
    times = "\n    ".join(f"timeout {name} 3s" for name in ("connect", "client", "server"))
    return f"""
defaults
    mode tcp
    {times}
listen chat
    bind 127.0.0.1:{port}
    server one {target}
"""


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
    nginx(
        "gzip * and buffering",
        "sse",
        "held",
        "compressed",
        quick=True,
        server=f"{_GZIP} proxy_ignore_headers X-Accel-Buffering;",
    ),
    nginx(
        "gzip * and buffering",
        "ndjson",
        "held",
        "compressed",
        server=f"{_GZIP} proxy_ignore_headers X-Accel-Buffering;",
    ),
    nginx("gzip *", "sse", "compressed", server=_GZIP),
    nginx("gzip *", "ndjson", "compressed", server=_GZIP),
    nginx(
        "proxy_read_timeout 2s",
        "rest",
        "waiting_cut",
        quick=True,
        without="proxy_read_timeout",
        location="proxy_read_timeout 2s;",
    ),
    nginx(
        "proxy_read_timeout 2s",
        "ndjson",
        "cut_in_silence",
        without="proxy_read_timeout",
        location="proxy_read_timeout 2s;",
    ),
    nginx(
        "proxy_read_timeout 2s",
        "sse",
        "cut_in_silence",
        without="proxy_read_timeout",
        location="proxy_read_timeout 2s;",
    ),
    nginx(
        "proxy_read_timeout 2s",
        "websocket",
        "cut_in_silence",
        without="proxy_read_timeout",
        location="proxy_read_timeout 2s;",
    ),
    nginx(
        "grpc_read_timeout 2s", "grpc", "cut_in_silence", without="grpc_read_timeout", location="grpc_read_timeout 2s;"
    ),
    nginx(
        "client_max_body_size 64k",
        "sse",
        "upload_limit",
        without="client_max_body_size",
        server="client_max_body_size 64k;",
    ),
    nginx(
        "client_max_body_size 64k",
        "grpc",
        "upload_limit",
        without="client_max_body_size",
        server="client_max_body_size 64k;",
    ),
    nginx("client_max_body_size by default", "rest", "upload_limit", without="client_max_body_size"),
    nginx("without Upgrade", "websocket", "upgrade_refused", quick=True, without="proxy_set_header Upgrade"),
    nginx("strips Last-Event-ID", "sse", "cursor_removed", quick=True, location='proxy_set_header Last-Event-ID "";'),
    nginx("drops the query", "ndjson", "cursor_removed", location="rewrite ^(.*)$ $1? break;"),
    nginx("strips Authorization", "sse", "key_removed", location='proxy_set_header Authorization "";'),
    nginx("strips Authorization", "grpc", "key_removed", location='grpc_set_header Authorization "";'),
    nginx("proxy_ignore_client_abort on", "sse", "leaving_unnoticed", location="proxy_ignore_client_abort on;"),
    nginx(
        "limit_conn 6",
        "ndjson",
        "few_at_once",
        http="limit_conn_zone $binary_remote_addr zone=z:1m;",
        server="limit_conn z 6;",
    ),
    nginx("http2_max_concurrent_streams 6", "grpc", "few_at_once", server="http2_max_concurrent_streams 6;"),
    planted("nginx", _nginx_http_for_grpc, "proxy_pass for gRPC", "grpc", "refused"),
    planted("nginx", _nginx_http2_for_http1, "listen http2 without TLS", "sse", "refused"),
    planted("nginx", _nginx_path, "proxy_pass with a path", "sse", "path_changed"),
    nginx("without proxy_set_header Host", "rest", "host_changed", without="proxy_set_header Host"),
    nginx(
        "sends another Host",
        "sse",
        "host_changed",
        without="proxy_set_header Host",
        location="proxy_set_header Host chat.example.com;",
    ),
    nginx("proxy_http_version 1.0", "websocket", "upgrade_refused", without="proxy_http_version"),
    nginx("without the Connection header", "websocket", "upgrade_refused", without="proxy_set_header Connection"),
    nginx("proxy_cache for POST", "sse", "cached", http=_CACHE_ZONE, location=_CACHE_POST),
    nginx("proxy_cache for POST", "rest", "cached", http=_CACHE_ZONE, location=_CACHE_POST),
    nginx(
        "proxy_cache for GET", "ndjson", "cached", http=_CACHE_ZONE, location=f"{_CACHE} proxy_cache_key $request_uri;"
    ),
    nginx(
        "limit_req 1r/s",
        "ndjson",
        "rate_limited",
        http="limit_req_zone $binary_remote_addr zone=r:1m rate=1r/s;",
        location="limit_req zone=r;",
    ),
    nginx(
        "limit_req 2r/s with a burst of 50",
        "sse",
        "rate_limited",
        http="limit_req_zone $binary_remote_addr zone=r:1m rate=2r/s;",
        location="limit_req zone=r burst=50;",
    ),
    nginx("keepalive_requests 1", "rest", "idle_closed", server="keepalive_requests 1;"),
    nginx(
        "proxy_intercept_errors on",
        "rest",
        "errors_replaced",
        location="proxy_intercept_errors on; error_page 400 401 404 409 413 422 502 =500 /sorry;",
    ),
    nginx("keepalive_timeout 1s", "rest", "idle_closed", server="keepalive_timeout 1s;"),
    nginx("hides Cache-Control", "sse", "headers_removed", location="proxy_hide_header Cache-Control;"),
    planted("nginx", _nginx_retry, "proxy_next_upstream non_idempotent", "rest", "repeated"),
    nginx("refuses Expect", "ndjson", "continue_refused", server="if ($http_expect) { return 417; }"),
    planted("nginx", _nginx_https, "return 301 to https", "sse", "redirected"),
    planted("nginx", _nginx_https, "return 301 to https", "websocket", "redirected"),
    planted("nginx", _nginx_no_server, "without a server behind it", "ndjson", "refused"),
    planted("nginx", _nginx_page, "with a page of its own", "sse", "refused"),
    planted("nginx", _nginx_max_conns, "max_conns 4", "sse", "few_at_once"),
    nginx("auth_basic", "rest", "key_removed", location='auth_basic "Chat"; auth_basic_user_file /dev/null;'),
    nginx("proxy_pass_request_headers off", "ndjson", "key_removed", location="proxy_pass_request_headers off;"),
    nginx("keepalive_timeout 3s", "sse", "idle_closed", server="keepalive_timeout 3s;"),
    nginx(
        "limit_rate 1k without X-Accel-Buffering",
        "sse",
        "slow_line",
        "held",
        "cut_in_flow",
        "few_at_once",
        location="limit_rate 1k; proxy_ignore_headers X-Accel-Buffering;",
    ),
    nginx("hides grpc-status", "grpc", "trailers_removed", location="grpc_hide_header grpc-status;"),
    nginx("keepalive_timeout 1s", "grpc", "idle_closed", server="keepalive_timeout 1s;"),
    haproxy("timeout server 2s", "rest", "waiting_cut", defaults="timeout server 2s"),
    haproxy("timeout server 2s", "sse", "cut_in_silence", quick=True, defaults="timeout server 2s"),
    haproxy("timeout tunnel 2s", "websocket", "cut_in_silence", defaults="timeout tunnel 2s"),
    haproxy("timeout server 2s", "grpc", "cut_in_silence", defaults="timeout server 2s"),
    haproxy("timeout client 2s", "ndjson", "idle_closed", defaults="timeout client 2s"),
    haproxy("timeout http-keep-alive 1s", "rest", "idle_closed", defaults="timeout http-keep-alive 1s"),
    planted("haproxy", _haproxy_compression, "compression", "sse", "compressed", "headers_removed"),
    haproxy("maxconn 6", "sse", "few_at_once", server="maxconn 6"),
    haproxy("without abortonclose", "sse", "leaving_unnoticed", defaults="no option abortonclose"),
    haproxy("without abortonclose", "rest", "leaving_unnoticed", quick=True, defaults="no option abortonclose"),
    haproxy("strips Last-Event-ID", "sse", "cursor_removed", frontend="http-request del-header last-event-id"),
    haproxy(
        "denies Upgrade", "websocket", "upgrade_refused", frontend="http-request deny if { req.hdr(upgrade) -m found }"
    ),
    haproxy(
        "refuses bodies above 64 KiB",
        "ndjson",
        "upload_limit",
        frontend="http-request deny deny_status 413 if { req.hdr_val(content-length) gt 65536 }",
    ),
    haproxy(
        "refuses Expect",
        "rest",
        "continue_refused",
        frontend="http-request return status 417 if { req.hdr(expect) -m found }",
    ),
    haproxy("replaces the query", "ndjson", "cursor_removed", frontend="http-request set-query x=1"),
    haproxy(
        "timeout client 2s and server 2s",
        "ndjson",
        "cut_in_silence",
        "idle_closed",
        defaults="timeout client 2s\n    timeout server 2s",
    ),
    haproxy("option httpclose", "rest", "idle_closed", defaults="option httpclose"),
    haproxy("retry-on 502", "rest", "repeated", backend="retry-on 502"),
    haproxy("wait-for-body", "sse", "refused", backend="http-response wait-for-body time 900ms at-least 4k"),
    haproxy("denies more than 10 requests in 10 s", "ndjson", "rate_limited", frontend=_STICK_TABLE),
    haproxy("rate-limit sessions 2", "sse", "rate_limited", frontend="rate-limit sessions 2"),
    haproxy(
        "replaces Cache-Control",
        "sse",
        "headers_removed",
        frontend='http-response set-header cache-control "public, max-age=60"',
    ),
    planted("haproxy", _haproxy_tcp, "mode tcp with 3 s", "sse", "cut_in_silence", "idle_closed"),
    planted("haproxy", _haproxy_tcp, "mode tcp with 3 s", "grpc", "cut_in_silence", "idle_closed"),
    haproxy("redirect scheme https", "rest", "redirected", frontend="http-request redirect scheme https"),
    haproxy("silent-drop", "ndjson", "refused", frontend="http-request silent-drop if METH_POST"),
    haproxy(
        "retry-on response-timeout",
        "rest",
        "repeated",
        "waiting_cut",
        defaults="timeout server 2s",
        backend="retry-on response-timeout",
    ),
    haproxy(
        "replaces Content-Type", "sse", "headers_removed", frontend="http-response set-header content-type text/plain"
    ),
    caddy("request_body 64KB", "ndjson", "upload_limit", quick=True, site="request_body {\nmax_size 64KB\n}"),
    caddy(
        "encode gzip",
        "sse",
        "compressed",
        "headers_removed",
        proxy="header_down -Cache-Control",
        site="encode {\ngzip\nminimum_length 1\nmatch {\nheader Content-Type text/event-stream*\n}\n}",
    ),
    caddy("read_timeout 2s", "rest", "waiting_cut", transport="read_timeout 2s"),
    caddy("read_timeout 2s", "sse", "cut_in_silence", transport="read_timeout 2s"),
    caddy("strips Authorization", "rest", "key_removed", proxy="header_up -Authorization"),
    caddy("strips Last-Event-ID", "sse", "cursor_removed", proxy="header_up -Last-Event-ID"),
    caddy("idle 1s", "ndjson", "idle_closed", servers="timeouts {\nidle 1s\n}"),
    caddy("strips the subprotocol", "websocket", "upgrade_refused", proxy="header_up -Sec-WebSocket-Protocol"),
    caddy("write timeout 3s", "sse", "cut_in_flow", "cut_in_silence", "gone_silent", servers="timeouts {\nwrite 3s\n}"),
    caddy(
        "retries POST", "rest", "repeated", proxy="request_buffers 64k\nlb_retries 2\nlb_retry_match {\nmethod POST\n}"
    ),
    caddy("response_header_timeout 2s", "rest", "waiting_cut", transport="response_header_timeout 2s"),
    caddy("max_conns_per_host 6", "sse", "few_at_once", transport="max_conns_per_host 6"),
    caddy("response_buffers 4k", "sse", "slow_start", proxy="response_buffers 4k"),
    caddy("stream_timeout 3s", "websocket", "cut_in_flow", "cut_in_silence", proxy="stream_timeout 3s"),
    caddy("sends another Host", "ndjson", "host_changed", proxy="header_up Host chat.example.com"),
    caddy("handles errors", "rest", "errors_replaced", proxy=_SORRY),
    caddy("response_buffers unlimited", "ndjson", "held", proxy="response_buffers unlimited"),
    caddy("max_conns_per_host 1", "sse", "few_at_once", transport="max_conns_per_host 1"),
    caddy("redir", "rest", "redirected", site="redir https://{host}{uri}"),
    envoy("stream_idle_timeout 2s", "rest", "waiting_cut", manager={"stream_idle_timeout": "2s"}),
    envoy("stream_idle_timeout 2s", "ndjson", "cut_in_silence", manager={"stream_idle_timeout": "2s"}),
    envoy("stream_idle_timeout 2s", "websocket", "cut_in_silence", manager={"stream_idle_timeout": "2s"}),
    envoy("stream_idle_timeout 2s", "grpc", "cut_in_silence", quick=True, manager={"stream_idle_timeout": "2s"}),
    envoy(
        "route timeout 3s", "sse", "cut_in_flow", "cut_in_silence", "few_at_once", quick=True, route={"timeout": "3s"}
    ),
    envoy("route timeout 3s", "grpc", "cut_in_flow", "cut_in_silence", "few_at_once", route={"timeout": "3s"}),
    envoy("route timeout 3s", "rest", "waiting_cut", "few_at_once", route={"timeout": "3s"}),
    envoy("route idle_timeout 2s", "sse", "cut_in_silence", route={"idle_timeout": "2s"}),
    envoy(
        "route max_stream_duration 3s",
        "grpc",
        "cut_in_flow",
        "cut_in_silence",
        "few_at_once",
        route={"max_stream_duration": {"max_stream_duration": "3s"}},
    ),
    envoy(
        "max_requests_per_connection 1",
        "rest",
        "idle_closed",
        manager={"common_http_protocol_options": {"max_requests_per_connection": 1}},
    ),
    envoy("local_ratelimit of 5 requests in 5 s", "sse", "rate_limited", filters=[_LOCAL_LIMIT]),
    envoy(
        "max_stream_duration 3s",
        "ndjson",
        "cut_in_flow",
        "cut_in_silence",
        "few_at_once",
        manager={"common_http_protocol_options": {"max_stream_duration": "3s"}},
    ),
    envoy(
        "retry_on 5xx", "rest", "repeated", quick=True, route={"retry_policy": {"retry_on": "5xx", "num_retries": 2}}
    ),
    envoy("retry_on reset", "rest", "repeated", route={"retry_policy": {"retry_on": "reset", "num_retries": 2}}),
    envoy(
        "compressor",
        "sse",
        "compressed",
        "held",
        "headers_removed",
        host={"response_headers_to_remove": ["cache-control"]},
        filters=[_GZIP_FILTER],
    ),
    envoy(
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
    envoy(
        "buffer filter of 64 KiB",
        "ndjson",
        "upload_limit",
        filters=[envoy_filter("buffer", "filters.http.buffer.v3.Buffer", max_request_bytes=65536)],
    ),
    envoy(
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
    envoy("without upgrade_configs", "websocket", "upgrade_refused", manager={"upgrade_configs": []}),
    envoy(
        "circuit breaker of 6",
        "sse",
        "few_at_once",
        cluster={"circuit_breakers": {"thresholds": [{"max_connections": 6, "max_pending_requests": 1}]}},
    ),
    envoy("removes authorization", "grpc", "key_removed", host={"request_headers_to_remove": ["authorization"]}),
    envoy(
        "max_concurrent_streams 6",
        "grpc",
        "few_at_once",
        manager={"http2_protocol_options": {"max_concurrent_streams": 6}},
    ),
    envoy(
        "idle_timeout 1s",
        "rest",
        "idle_closed",
        manager={"common_http_protocol_options": {"idle_timeout": "1s"}, "drain_timeout": "0.2s"},
    ),
    envoy(
        "idle_timeout 1s",
        "grpc",
        "idle_closed",
        manager={"common_http_protocol_options": {"idle_timeout": "1s"}, "drain_timeout": "0.2s"},
    ),
    envoy(
        "per_try_timeout 2s",
        "rest",
        "repeated",
        "waiting_cut",
        route={"retry_policy": {"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "2s"}},
    ),
    envoy("host_rewrite_literal", "ndjson", "host_changed", route={"host_rewrite_literal": "chat.internal"}),
    envoy("require_tls ALL", "sse", "redirected", host={"require_tls": "ALL"}),
    traefik(
        "writeTimeout 3s",
        "sse",
        "cut_in_flow",
        "cut_in_silence",
        "gone_silent",
        "few_at_once",
        responding={"writeTimeout": "3s"},
    ),
    traefik("writeTimeout 3s", "rest", "waiting_cut", "few_at_once", responding={"writeTimeout": "3s"}),
    traefik(
        "responseHeaderTimeout 2s", "rest", "waiting_cut", "few_at_once", forwarding={"responseHeaderTimeout": "2s"}
    ),
    traefik("buffering", "sse", "held", quick=True, middleware={"buffering": {"maxRequestBodyBytes": 0}}),
    traefik("buffering", "ndjson", "held", middleware={"buffering": {"maxRequestBodyBytes": 0}}),
    traefik("compress", "sse", "compressed", middleware={"compress": {"minResponseBodyBytes": 1}}),
    traefik(
        "retries POST",
        "rest",
        "repeated",
        middleware={
            "retry": {"attempts": 3, "initialInterval": "10ms", "status": ["500-599"], "retryNonIdempotentMethod": True}
        },
    ),
    traefik("inFlightReq 6", "ndjson", "few_at_once", middleware={"inFlightReq": {"amount": 6}}),
    traefik("rateLimit 2", "ndjson", "rate_limited", middleware={"rateLimit": {"average": 2, "burst": 1}}),
    traefik(
        "forwardAuth without an answer",
        "sse",
        "refused",
        middleware={"forwardAuth": {"address": "http://127.0.0.1:9/"}},
    ),
    traefik("ipAllowList", "sse", "refused", middleware={"ipAllowList": {"sourceRange": ["10.0.0.0/8"]}}),
    traefik(
        "basicAuth",
        "rest",
        "key_removed",
        middleware={"basicAuth": {"users": ["ada:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/"]}},
    ),
    traefik("stripPrefix", "ndjson", "path_changed", middleware={"stripPrefix": {"prefixes": ["/chat"]}}),
    traefik(
        "buffering.maxRequestBodyBytes 64 KiB",
        "rest",
        "upload_limit",
        middleware={"buffering": {"maxRequestBodyBytes": 65536}},
    ),
    traefik("idleTimeout 1s", "rest", "idle_closed", responding={"idleTimeout": "1s"}),
    traefik(
        "strips Last-Event-ID",
        "sse",
        "cursor_removed",
        middleware={"headers": {"customRequestHeaders": {"Last-Event-ID": ""}}},
    ),
    traefik(
        "changes Cache-Control",
        "ndjson",
        "headers_removed",
        middleware={"headers": {"customResponseHeaders": {"Cache-Control": "public, max-age=60"}}},
    ),
    traefik("redirectScheme", "ndjson", "redirected", middleware={"redirectScheme": {"scheme": "https"}}),
    *BALANCING,
    relay("buffer of 4 KiB or 1 s", "sse", Faults(buffer_bytes=4096, buffer_s=1.0), "held"),
    relay("buffer of 4 KiB or 1 s", "ndjson", Faults(buffer_bytes=4096, buffer_s=1.0), "held"),
    relay("buffer of 4 KiB or 1 s", "websocket", Faults(buffer_bytes=4096, buffer_s=1.0), "held"),
    relay("buffer of 4 KiB or 1 s", "grpc", Faults(buffer_bytes=4096, buffer_s=1.0), "held", quick=True),
    relay("buffer of 1 s", "sse", Faults(buffer_bytes=1_000_000, buffer_s=1.0), "held"),
    relay("buffer of 2 KiB or 1.5 s", "ndjson", Faults(buffer_bytes=2048, buffer_s=1.5), "held"),
    relay(
        "cuts after 3,000 B",
        "grpc",
        Faults(cut_after_bytes=3000, times=None),
        "cut_in_flow",
        "upload_limit",
        "few_at_once",
    ),
    relay(
        "1,200 B/s", "sse", Faults(bytes_per_s=1200), "slow_line", "held", "cut_in_flow", "few_at_once", "upload_limit"
    ),
    relay("black hole after 2,500 B", "ndjson", Faults(black_hole_after_bytes=2500, times=None), "gone_silent"),
    relay("holds the first bytes", "sse", Faults(stall_after_bytes=60, stall_s=0.9, times=None), "slow_start"),
)
