"""The settings of balancers that cannot be run here, AWS's ALB and Cloudflare, each with the page of its documentation.

Each sentence was compared with a copy of its page in November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compare.probing.outcome import Kind

PRODUCTS = ("ALB", "Cloudflare")
_ALB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/application"
_ALB_ATTRIBUTES = f"{_ALB}/edit-load-balancer-attributes.html"
_ALB_LAMBDA = f"{_ALB}/lambda-functions.html"
_ALB_LISTENERS = f"{_ALB}/load-balancer-listeners.html"
_ALB_TARGETS = f"{_ALB}/load-balancer-target-groups.html"
_CLOUDFLARE = "https://developers.cloudflare.com"
_LIMITS = f"{_CLOUDFLARE}/fundamentals/reference/connection-limits/"
_ERROR_524 = f"{_CLOUDFLARE}/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-524/"
_BUFFERING = f"{_CLOUDFLARE}/network/response-buffering/"
_INSPECTION = f"{_CLOUDFLARE}/rules/configuration-rules/response-body-inspection/"
_COMPRESSION = f"{_CLOUDFLARE}/speed/optimization/content/compression/"
_UPLOADS = f"{_CLOUDFLARE}/cache/concepts/default-cache-behavior/"
_GRPC = f"{_CLOUDFLARE}/network/grpc-connections/"
_WEBSOCKETS = f"{_CLOUDFLARE}/network/websockets/"


@dataclass(frozen=True, slots=True)
class Documented:
    """A setting of a service, or the limit where there is none, and the address of the page that says so."""

    setting: str
    page: str


# By the finding, then by the product.
SERVICES: Mapping[Kind, Mapping[str, Documented]] = {
    "refused": {
        "ALB": Documented("for gRPC an HTTPS listener and a target group with protocol version gRPC", _ALB_TARGETS),
        "Cloudflare": Documented(
            "for gRPC: Network, gRPC: on; the server on port 443 with TLS, and HTTP/2 offered over ALPN", _GRPC
        ),
    },
    "upgrade_refused": {
        "ALB": Documented(
            "no setting: it passes `Upgrade` on, but to no Lambda target (400) and to no target group with a target optimizer",
            _ALB_LISTENERS,
        ),
        "Cloudflare": Documented("Network, WebSockets: on (every plan has it)", _WEBSOCKETS),
    },
    "trailers_removed": {
        "ALB": Documented("a target group with protocol version gRPC", _ALB_TARGETS),
        "Cloudflare": Documented("Network, gRPC: on", _GRPC),
    },
    "cut_in_silence": {
        "ALB": Documented(
            "`idle_timeout.timeout_seconds` (60 by default, 4,000 at most); HTTP/2's PING does not count",
            _ALB_ATTRIBUTES,
        ),
        "Cloudflare": Documented("heartbeats closer than its Proxy Read Timeout (120 s by default)", _ERROR_524),
    },
    "waiting_cut": {
        "ALB": Documented("`idle_timeout.timeout_seconds` (60 by default, 4,000 at most)", _ALB_ATTRIBUTES),
        "Cloudflare": Documented(
            "120 s by default, then error 524; up to 6,000 s with Enterprise (`proxy_read_timeout`), else ask by polling",
            _ERROR_524,
        ),
    },
    "cut_in_flow": {
        "Cloudflare": Documented(
            "no setting: WebSockets end when Cloudflare restarts a server for new code", _WEBSOCKETS
        ),
    },
    "held": {
        "ALB": Documented(
            "an instance or an IP address as the target: a Lambda target answers with one JSON object", _ALB_LAMBDA
        ),
        "Cloudflare": Documented(
            "Network, Response Buffering: off (the default; only Enterprise can switch it on)", _BUFFERING
        ),
    },
    "slow_start": {
        "Cloudflare": Documented(
            "a Configuration Rule with `response_body_buffering: none`: features that inspect answers may hold their start",
            _INSPECTION,
        ),
    },
    "few_at_once": {
        "ALB": Documented("no setting: one HTTP/2 connection carries up to 128 requests at once", _ALB_LISTENERS),
    },
    "upload_limit": {
        "ALB": Documented("no setting: a Lambda target gets 1 MB at most", _ALB_LAMBDA),
        "Cloudflare": Documented(
            "no setting: 100 MB (Free, Pro), 200 MB (Business), 500 MB or more (Enterprise)", _UPLOADS
        ),
    },
    "idle_closed": {
        "ALB": Documented(
            "`idle_timeout.timeout_seconds` (60 by default); `client_keep_alive.seconds` (3,600) limits a connection's whole life",
            _ALB_ATTRIBUTES,
        ),
        "Cloudflare": Documented("no setting: 400 s without a request", _LIMITS),
    },
    "compressed": {
        "Cloudflare": Documented(
            "`Cache-Control: no-transform`, and no Compression Rule for the stream; neither stream type is compressed by default",
            _COMPRESSION,
        ),
    },
}
