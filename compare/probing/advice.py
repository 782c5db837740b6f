"""What each finding means for an answer, where it usually comes from, and the setting that cures it, as data.

The terminal, ``docs/symptoms.md`` and ``compare/ATLAS.md`` are written from these rows. The self-test runs the settings of nginx,
HAProxy, Caddy, Envoy and Traefik in the versions of ``CHECKED``. The settings of ALB and Cloudflare are in ``services.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compare.probing.outcome import Finding, Kind
from compare.probing.services import SERVICES, Documented

# The version of each program with which the self-test ran.
CHECKED: Mapping[str, str] = {
    "nginx": "1.22.1",
    "HAProxy": "2.6.12",
    "Caddy": "2.11.7",
    "Envoy": "1.40.0",
    "Traefik": "3.7.15",
}
TRIED = f"tried with {', '.join(f'{name} {version}' for name, version in CHECKED.items())}"
_HELD_LINES = ("websocket", "grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A row. ``means`` is a format for the numbers of a finding; ``cures`` has a setting for each program.

    ``sees`` is what people say who have the problem, ``here`` what the servers and clients of this project do about it.
    ``unharmed``: the wires that do not suffer from this cause.
    """

    kind: Kind
    check: str
    title: str
    sees: str
    means: str
    cause: str
    cures: Mapping[str, str] = field(default_factory=dict)
    here: str = ""
    unharmed: tuple[str, ...] = ()

    def meaning(self, finding: Finding) -> str:
        """What the finding means for an answer."""
        return self.means.format(**finding.numbers)

    @property
    def documented(self) -> Mapping[str, Documented]:
        """The settings of services, which come from their documentation."""
        return SERVICES.get(self.kind, {})


_ROWS = (
    Advice(
        kind="repeated",
        check="repeat",
        title="one request became several turns",
        sees="You paid twice for one answer",
        means="the model is asked, and paid, {turns} times for one message",
        cause="A hop sends a POST again after an error or a broken connection",
        cures={
            "nginx": "remove `non_idempotent` from `proxy_next_upstream`",
            "HAProxy": "`retry-on conn-failure` alone, or `http-request disable-l7-retry if METH_POST`",
            "Caddy": "remove `lb_retry_match` for POST",
            "Envoy": "remove `5xx`, `reset` and `gateway-error` from the route's `retry_on`",
            "Traefik": "remove the retry middleware, or its `retryNonIdempotentMethod`",
        },
        here="Send `Idempotency-Key` (`request_id` on WebSocket and gRPC): the second request joins the first turn.",
        unharmed=("ndjson", "sse", "websocket", "grpc"),
    ),
    Advice(
        kind="cached",
        check="cache",
        title="answers come from a cache",
        sees="Two users get the same answer, or the statistics stand still",
        means="an answer of one user is given to another one, and a question about a turn gets an old answer",
        cause="A hop stores answers though the server sends `Cache-Control: no-store`",
        cures={
            "nginx": "`proxy_cache off;`, or no `Cache-Control` in `proxy_ignore_headers` and no `POST` in `proxy_cache_methods`",
            "HAProxy": "no `http-request cache-use` for these paths",
            "Caddy": "no cache module for these paths",
            "Envoy": "no cache filter on the route",
        },
        unharmed=_HELD_LINES,
    ),
    Advice(
        kind="several_servers",
        check="servers",
        title="requests reach servers that do not know each other",
        sees="404 `turn_not_found` now and then, and a reconnect finds nothing",
        means="of {of} requests about a turn {unknown} are answered 404, and so is a client that comes back or cancels",
        cause="A hop divides the requests among several servers, and each has a store of its own",
        cures={
            "nginx": "`ip_hash;` or `hash $remote_addr consistent;` in the `upstream`",
            "HAProxy": "`balance source`, or a `cookie`",
            "Caddy": "`lb_policy ip_hash` or `cookie`",
            "Envoy": "`lb_policy: RING_HASH` with a `hash_policy` on the route",
            "Traefik": "`sticky: {cookie: {}}` of the loadBalancer, and clients that keep cookies",
        },
        here="One `STORE_URL=redis://…` for all servers: then every server knows every turn.",
    ),
    Advice(
        kind="server_removed",
        check="repeat",
        title="one error takes the server away",
        sees="After one failed answer nobody gets any, for ten seconds or more",
        means="one error of one user's model is an outage for all users",
        cause="A hop counts errors of the server and then sends nothing to it for a while",
        cures={
            "nginx": "`max_fails=0` on the `server` lines of the `upstream`, and no `http_502` in `proxy_next_upstream`",
            "HAProxy": "no `observe layer7` on `server`; `check` alone asks the server itself",
            "Caddy": "remove `unhealthy_status`, or a larger `max_fails`",
            "Envoy": "remove `outlier_detection` from the cluster, or a larger `consecutive_5xx`",
            "Traefik": "remove the circuitBreaker middleware, or a larger share in its `expression`",
        },
    ),
    Advice(
        kind="refused",
        check="pace",
        title="no turn passes",
        sees="Nothing works behind the proxy",
        means="your users get an error instead of an answer",
        cause="The path does not reach the server, speaks another protocol to it, or a hop answers by itself",
        cures={
            "nginx": "`proxy_pass http://…` and a `listen` without `http2` (unless `ssl`) for the HTTP wires; `listen … http2` and "
            "`grpc_pass grpc://…` for gRPC; then `location`, `deny`, `limit_except`, `auth_request` and the address",
            "HAProxy": "`proto h2` on `bind` and `server` for gRPC; then `http-request deny`, `http-response wait-for-body` "
            "and the address",
            "Caddy": "`protocols h1 h2c` and `reverse_proxy h2c://…` for gRPC; then `forward_auth`, `respond` and the address",
            "Envoy": "`http2_protocol_options: {}` in the cluster for gRPC; then `ext_authz`, `rbac` and the endpoints",
            "Traefik": "`url: h2c://…` for gRPC; then `forwardAuth`, `ipAllowList` and the rule of the router",
        },
    ),
    Advice(
        kind="redirected",
        check="key",
        title="requests are sent to another address",
        sees="301, 302 or 308 in place of an answer",
        means="clients that do not follow redirects get nothing, and a POST that follows one may become a GET",
        cause="A hop wants https, another host name or a login page",
        cures={
            "nginx": "the https address for the clients; `return 301 https://…` for port 80 alone, no login page for these paths",
            "HAProxy": "the https address for the clients; `http-request redirect` in the frontend of port 80 alone",
            "Caddy": "the https address for the clients; no `redir` for these paths",
            "Envoy": "the https address for the clients; no `redirect` on the route, no `require_tls` on the virtual host",
            "Traefik": "the https address for the clients; no redirectScheme middleware, and no `redirections` of the entry point",
        },
        here="The clients take an https address as it is: `https://…`, `wss://…`, `grpcs://…`.",
    ),
    Advice(
        kind="unreliable",
        check="rate",
        title="some requests fail",
        sees="502 or 503 for every second request, and a retry passes",
        means="an answer fails now and then though its server is well",
        cause="A hop still sends requests to a server that is gone, or one of several servers is broken",
        cures={
            "nginx": "remove the dead `server` from the `upstream`; keep `error timeout` in `proxy_next_upstream` (the default)",
            "HAProxy": "`check` on each `server`, and `option redispatch`",
            "Caddy": "remove the dead address; `lb_try_duration 5s`, and `fail_duration 30s` or `health_uri /health`",
            "Envoy": "`health_checks` in the cluster, and no fault filter",
            "Traefik": "`healthCheck: {path: /health}` in the loadBalancer",
        },
        here="The clients ask again by themselves, with the same idempotency key.",
    ),
    Advice(
        kind="path_changed",
        check="pace",
        title="the path of a request is changed",
        sees="404 behind the proxy, and the same address works without it",
        means="your users get 404 instead of an answer",
        cause="A hop removes or adds a part of the path; the servers need the root of a host name",
        cures={
            "nginx": "`location /` and `proxy_pass http://…;` without a slash after the address",
            "HAProxy": "remove `http-request set-path` and `replace-path`",
            "Caddy": "`handle` in place of `handle_path`, no `uri strip_prefix`",
            "Envoy": "remove `prefix_rewrite` and `regex_rewrite` from the route",
            "Traefik": "no stripPrefix, addPrefix or replacePath middleware on the router",
        },
        unharmed=("grpc",),
    ),
    Advice(
        kind="host_changed",
        check="origin",
        title="the name of the host is changed",
        sees="403 `permission_denied` behind the proxy, mostly in pages",
        means="pages, and where the server checks names every client, get 403 instead of an answer",
        cause="A hop sends another `Host` to the server than the client has sent",
        cures={
            "nginx": "`proxy_set_header Host $http_host;`",
            "HAProxy": "remove `http-request set-header host`",
            "Caddy": "remove `header_up Host`",
            "Envoy": "remove `host_rewrite_literal` and `auto_host_rewrite` from the route",
            "Traefik": "`passHostHeader: true` (the default), no `Host` in `customRequestHeaders`",
        },
        here="`ALLOWED_ORIGINS` names further origins of pages.",
        unharmed=("grpc",),
    ),
    Advice(
        kind="https_unknown",
        check="origin",
        title="the server does not know that pages come over https",
        sees="403 `permission_denied` in pages over https, and programs work",
        means="pages get 403 instead of an answer, and programs are not concerned",
        cause="A hop ends TLS, and the servers do not believe `X-Forwarded-Proto`, which every client could send",
        here="`ALLOWED_ORIGINS=https://chat.example.com` in the server's environment, with your own host name.",
        unharmed=("grpc",),
    ),
    Advice(
        kind="rate_limited",
        check="rate",
        title="quick requests are refused or delayed",
        sees="429 or 503 now and then, or every request takes half a second",
        means="a user who opens a page, a stream and its statistics at once meets the limit",
        cause="A hop limits the rate of requests or connections",
        cures={
            "nginx": "a larger `rate` of `limit_req_zone`, and `burst=… nodelay` on `limit_req`",
            "HAProxy": "a larger `rate-limit sessions`, or the rule on `sc_http_req_rate`",
            "Caddy": "no limit by default; look for a `rate_limit` module",
            "Envoy": "a larger `token_bucket` of the local_ratelimit filter",
            "Traefik": "a larger `rateLimit.average` and `burst`; the expression of a circuitBreaker",
        },
        here="The clients wait and ask again; `Retry-After` is honoured.",
    ),
    Advice(
        kind="upgrade_refused",
        check="upgrade",
        title="the WebSocket handshake is refused",
        sees="It works locally, and the WebSocket fails behind nginx",
        means="no WebSocket opens",
        cause="`Upgrade`, `Connection` or `Sec-WebSocket-Protocol` is not passed on",
        cures={
            "nginx": '`proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";`',
            "HAProxy": "remove the rule that refuses `Upgrade`",
            "Caddy": "remove the `header_up -Upgrade` or `-Sec-WebSocket-Protocol`",
            "Envoy": "`upgrade_configs: [{upgrade_type: websocket}]`",
            "Traefik": "remove the `customRequestHeaders` that empty `Upgrade` or `Sec-WebSocket-Protocol`",
        },
        unharmed=("rest", "ndjson", "sse", "grpc"),
    ),
    Advice(
        kind="key_removed",
        check="key",
        title="the key does not arrive",
        sees="401 behind the proxy, and the same key works without it",
        means="every request is answered 401",
        cause="A hop removes or replaces `Authorization` or wants a password of its own, or the key is wrong",
        cures={
            "nginx": 'remove `proxy_set_header Authorization ""` (`grpc_set_header` for gRPC), `auth_basic`, '
            "`proxy_pass_request_headers off`",
            "HAProxy": "remove `http-request del-header authorization` and `http-request auth`",
            "Caddy": "remove `header_up -Authorization` and `basic_auth`",
            "Envoy": "remove `authorization` from `request_headers_to_remove`",
            "Traefik": "no basicAuth middleware on the router: its password takes the place of the key",
        },
        here="The servers accept the key in `X-API-Key` too.",
    ),
    Advice(
        kind="trailers_removed",
        check="trailers",
        title="gRPC's status does not arrive",
        sees="gRPC calls end with INTERNAL or UNKNOWN though every message came",
        means="every call ends as a failure though its messages are whole",
        cause="A hop drops HTTP/2 trailers, mostly because it speaks HTTP/1.1 to the server",
        cures={
            "nginx": "`grpc_pass` instead of `proxy_pass`",
            "HAProxy": "`proto h2` on `bind` and `server`",
            "Caddy": "`reverse_proxy h2c://…`",
            "Envoy": "`http2_protocol_options: {}` in the cluster; no filter that changes trailers",
            "Traefik": "`url: h2c://…`",
        },
        unharmed=("rest", "ndjson", "sse", "websocket"),
    ),
    Advice(
        kind="cut_in_silence",
        check="silence",
        title="a silent stream is cut",
        sees="The stream drops after 60 s without a token",
        means="an answer whose model thinks for longer than {after_s:.1f} s is cut in the middle",
        cause="The idle time-out of a hop is shorter than the distance of the heartbeats",
        cures={
            "nginx": "`proxy_read_timeout 600s;` (`grpc_read_timeout` for gRPC; 60 s by default)",
            "HAProxy": "`timeout server 600s`, `timeout client 600s`, and `timeout tunnel 600s` for the WebSocket",
            "Caddy": "remove `read_timeout` and `write_timeout` of the transport (none by default)",
            "Envoy": "`stream_idle_timeout: 600s` (5 min by default), and the route's `idle_timeout`",
            "Traefik": "`respondingTimeouts.readTimeout` and `writeTimeout: 0`",
        },
        here="Set `HEARTBEAT_S` (15) below the shortest idle time-out of the path.",
    ),
    Advice(
        kind="waiting_cut",
        check="silence",
        title="a reply that takes long does not arrive",
        sees="A long reply ends in 504",
        means="a reply that takes longer than {after_s:.1f} s is lost, and its model goes on",
        cause="A waiting POST is silent, and a hop limits the time for an answer",
        cures={
            "nginx": "`proxy_read_timeout 600s;`",
            "HAProxy": "`timeout server 600s`",
            "Caddy": "remove `read_timeout` and `response_header_timeout` of the transport",
            "Envoy": "the route's `timeout: 0s` (15 s by default) and `stream_idle_timeout: 600s`",
            "Traefik": "`forwardingTimeouts.responseHeaderTimeout: 0` and `respondingTimeouts.writeTimeout: 0`",
        },
        here="The client repeats the POST with its key and gets the whole reply; a streaming wire has heartbeats.",
        unharmed=("ndjson", "sse", "websocket", "grpc"),
    ),
    Advice(
        kind="cut_in_flow",
        check="length",
        title="a stream is cut while tokens flow",
        sees="Every answer ends after the same time, such as 15 s",
        means="an answer that takes longer than {after_s:.1f} s is cut in the middle",
        cause="A hop limits the duration or the size of an answer",
        cures={
            "nginx": "none has this by default; look for a limit in a script",
            "HAProxy": "remove `timeout` rules on the answer",
            "Caddy": "`servers { timeouts { write 0 } }`, no `stream_timeout` of `reverse_proxy`",
            "Envoy": "the route's `timeout: 0s` (15 s by default), no `max_stream_duration` on it or the listener",
            "Traefik": "`respondingTimeouts.writeTimeout: 0`",
        },
        here="The clients come back at their cursor; each cut costs them one reconnect.",
    ),
    Advice(
        kind="gone_silent",
        check="silence",
        title="the stream falls silent for ever",
        sees="The answer stops in the middle, and no error comes",
        means="your users wait for an answer that does not go on, and no error tells them",
        cause="A hop dropped the connection and told only one side",
        cures={
            "HAProxy": "`option clitcpka`, `option srvtcpka`",
        },
        here="A client gives up a line after `silence_s` without a heartbeat and comes back at its cursor.",
    ),
    Advice(
        kind="held",
        check="pace",
        title="tokens are held back",
        sees="All tokens arrive at once",
        means="your users see nothing for {late_s:.1f} s, then about {tokens} events at once",
        cause="A hop collects the answer: a buffer, or a compressor that waits for enough bytes",
        cures={
            "nginx": "`proxy_buffering off;` and `gzip off;`, or let `X-Accel-Buffering: no` through",
            "HAProxy": "`option http-no-delay`, no `filter compression` for the stream",
            "Caddy": "no `response_buffers`, `flush_interval -1`, no `encode` for the stream",
            "Envoy": "no buffer filter and no compressor filter on the route",
            "Traefik": "no buffering middleware on the router",
        },
        here="The servers send `X-Accel-Buffering: no` and `Cache-Control: no-transform`. In curl: `curl -N`.",
        unharmed=("rest",),
    ),
    Advice(
        kind="slow_start",
        check="pace",
        title="the start is held back",
        sees="The first words come late, then the answer flows",
        means="the first words come {first_late_s:.1f} s late",
        cause="A hop waits for a first amount of bytes, or inspects the start of an answer",
        cures={
            "nginx": "`proxy_buffering off;`",
            "HAProxy": "no `http-response wait-for-body`",
            "Caddy": "no `response_buffers`, `flush_interval -1`, no `encode` for the stream",
            "Traefik": "no buffering middleware on the router",
        },
        unharmed=("rest",),
    ),
    Advice(
        kind="slow_line",
        check="pace",
        title="the line is slower than the model",
        sees="The answer falls behind more and more",
        means="the last words of a short answer come {last_late_s:.1f} s late, and a longer answer falls behind more",
        cause="A hop limits the rate of bytes",
        cures={
            "nginx": "`limit_rate 0;` and `proxy_limit_rate 0;`",
            "HAProxy": "no `filter bwlim-out` (from 2.7 on, so it was not tried here)",
            "Envoy": "no bandwidth_limit filter",
        },
        here="gRPC needs the fewest bytes a token, then NDJSON.",
        unharmed=("rest",),
    ),
    Advice(
        kind="cursor_removed",
        check="cursor",
        title="the cursor does not arrive",
        sees="After a reconnect the answer begins again",
        means="a client that comes back gets the whole answer again; one that does not count shows it twice",
        cause="A hop removes `Last-Event-ID`, or the query",
        cures={
            "nginx": 'remove `proxy_set_header Last-Event-ID ""`; keep `$is_args$args` in a `proxy_pass` with variables',
            "HAProxy": "remove `http-request del-header last-event-id`, `set-query` or `set-uri`",
            "Caddy": "remove `header_up -Last-Event-ID`, or the `uri` rewrite",
            "Envoy": "remove `last-event-id` from `request_headers_to_remove`",
            "Traefik": "remove `Last-Event-ID` from `customRequestHeaders`",
        },
        here="The clients drop events that they have already.",
        unharmed=("websocket", "grpc"),
    ),
    Advice(
        kind="leaving_unnoticed",
        check="leaving",
        title="the server does not hear that a client left",
        sees="The stop button does nothing: the model goes on after the tab is closed",
        means="the server goes on streaming to nobody until the next write fails, and pays for the model meanwhile",
        cause="A hop keeps its connection to the server open after the client has closed its own",
        cures={
            "nginx": "`proxy_ignore_client_abort off;` (the default)",
            "HAProxy": "`option abortonclose` (off by default)",
        },
        here="Stop with cancel, which is a request. A turn that nobody reads is cancelled after `DISCONNECT_GRACE_S` (30).",
    ),
    Advice(
        kind="few_at_once",
        check="many",
        title="few streams at once",
        sees="The seventh tab hangs",
        means="of one user's streams only {streams} run at once; the next one waits or is refused",
        cause="A hop limits connections, requests or HTTP/2 streams",
        cures={
            "nginx": "a larger `limit_conn`; `http2_max_concurrent_streams 128;`; no `max_conns` on the upstream's `server`",
            "HAProxy": "a larger `maxconn` on `server`, `frontend` and in `global`",
            "Caddy": "no `max_conns_per_host` of the transport",
            "Envoy": "larger `circuit_breakers` thresholds; `max_concurrent_streams`",
            "Traefik": "a larger `inFlightReq.amount`",
        },
        here="A browser itself opens six HTTP/1.1 connections to a host; HTTP/2, WebSocket and gRPC share one.",
    ),
    Advice(
        kind="upload_limit",
        check="upload",
        title="large requests are refused by a hop",
        sees="413 from the proxy",
        means="a message of {kib:,} KiB is refused before the server sees it",
        cause="A hop limits the body of a request below `MAX_BODY_BYTES` (8 MiB)",
        cures={
            "nginx": "`client_max_body_size 8m;` (1 MiB by default)",
            "HAProxy": "remove the rule on `req.body_size` or `content-length`",
            "Caddy": "`request_body { max_size 8MiB }`",
            "Envoy": "`max_request_bytes` of the buffer filter",
            "Traefik": "`buffering.maxRequestBodyBytes`",
        },
        here="The servers' own limit is `MAX_BODY_BYTES`, with `payload_too_large`.",
    ),
    Advice(
        kind="headers_removed",
        check="headers",
        title="headers of the answer are changed",
        sees="A hop behind the first one caches or compresses the stream",
        means="behind the hop {names} is not what the server said: a cache or a compressor takes the stream, or a page refuses it",
        cause="A hop hides or replaces headers of the answer",
        cures={
            "nginx": "remove `proxy_hide_header`, `add_header` and `expires` for it",
            "HAProxy": "remove `http-response del-header` and `set-header` for it",
            "Caddy": "remove `header_down` for it",
            "Envoy": "remove it from `response_headers_to_remove`",
            "Traefik": "remove it from `customResponseHeaders`",
        },
        unharmed=_HELD_LINES,
    ),
    Advice(
        kind="errors_replaced",
        check="upload",
        title="errors of the server are replaced",
        sees="Every error is the proxy's own page",
        means="a client sees a status or a page of the hop instead of the server's code, and retries what is hopeless",
        cause="A hop answers with a page of its own when the server answers with an error",
        cures={
            "nginx": "`proxy_intercept_errors off;` (the default)",
            "HAProxy": "remove `http-response return` and `http-error` for the server's statuses",
            "Caddy": "remove `handle_response`",
            "Envoy": "remove `local_reply_config` mappers and custom_response filters",
            "Traefik": "no errors middleware on the router",
        },
        unharmed=("grpc",),
    ),
    Advice(
        kind="continue_refused",
        check="100-continue",
        title="Expect: 100-continue is refused",
        sees="Uploads with curl fail, small ones pass",
        means="clients that ask before they send a body fail",
        cause="A hop does not know `Expect`",
        cures={
            "nginx": "remove the rule on `$http_expect`",
            "HAProxy": "remove the rule on `expect`",
            "Caddy": "remove the matcher on `Expect`",
        },
        here="The clients here do not send it. In curl: `-H 'Expect:'`.",
        unharmed=_HELD_LINES,
    ),
    Advice(
        kind="idle_closed",
        check="idle",
        title="idle connections are closed early",
        sees="The first message after a pause is slow",
        means="each message after a pause of {after_s:.1f} s pays for a new connection, two to four round trips",
        cause="A hop's keep-alive time-out is short",
        cures={
            "nginx": "`keepalive_timeout 75s;` and `keepalive_requests 1000;`",
            "HAProxy": "`timeout http-keep-alive 60s` and `timeout client 60s`, no `option httpclose`",
            "Caddy": "`servers { timeouts { idle 5m } }`",
            "Envoy": "`common_http_protocol_options: {idle_timeout: 1h}`, no `max_requests_per_connection`",
            "Traefik": "`respondingTimeouts.idleTimeout: 180s`",
        },
        unharmed=("websocket",),
    ),
    Advice(
        kind="compressed",
        check="pace",
        title="the stream is compressed",
        sees="The stream has Content-Encoding though nobody asked the server for it",
        means="the hop needs CPU for each token, and holds tokens back wherever it does not flush",
        cause="A hop compresses though the server sends `Cache-Control: no-transform`",
        cures={
            "nginx": "`gzip off;`, or no `*` in `gzip_types`",
            "HAProxy": "no `compression type` for the stream's media type",
            "Caddy": "no `match` for the stream's media type in `encode`",
            "Envoy": "no compressor filter on the route",
            "Traefik": "`compress.excludedContentTypes` with the stream's media type",
        },
        unharmed=("websocket", "grpc"),
    ),
)
# In the order of their harm.
ADVICE: Mapping[Kind, Advice] = {row.kind: row for row in _ROWS}
HARM: Mapping[Kind, int] = {kind: number for number, kind in enumerate(ADVICE)}
