"""Proxies in front of a server as browsers meet them: TLS with HTTP/2 to the client (ALPN), HTTP/1.1 to the server.

Each has the lines that the READMEs recommend for streams, and one process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compare.probing.planted import configs


@dataclass(frozen=True, slots=True)
class Certificate:
    """The PEM files of a front: ``cert`` with the chain, ``key``, and ``both`` with the chain and the key."""

    cert: Path
    key: Path
    both: Path


def _nginx(port: int, target: str, found: Certificate) -> str:
    # Newer versions of nginx warn of "http2" on this line; versions before 1.25.1 have no other place for it.
    plain = configs.nginx(port, target, "sse", server=f"ssl_certificate {found.cert}; ssl_certificate_key {found.key};")
    kept = 'proxy_set_header Connection "";'
    return plain.replace(f"listen 127.0.0.1:{port};", f"listen 127.0.0.1:{port} ssl http2;").replace(
        "proxy_http_version 1.1;", f"proxy_http_version 1.1; {kept}"
    )


def _haproxy(port: int, target: str, found: Certificate) -> str:
    plain = configs.haproxy(port, target, "sse")
    return plain.replace(f"bind 127.0.0.1:{port}", f"bind 127.0.0.1:{port} ssl crt {found.both} alpn h2,http/1.1")


def _caddy(port: int, target: str, found: Certificate) -> str:
    plain = configs.caddy(port, target, "sse", site=f"tls {found.cert} {found.key}")
    return plain.replace("protocols h1 h2c", "protocols h1 h2").replace(f"http://:{port}", f"https://:{port}")


def _envoy(port: int, target: str, found: Certificate) -> str:
    both = {"certificate_chain": {"filename": str(found.cert)}, "private_key": {"filename": str(found.key)}}
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [both]},
    }
    document = json.loads(configs.envoy(port, target, "sse"))
    (listener,) = document["static_resources"]["listeners"]
    listener["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": tls}
    return json.dumps(document)


def _traefik(port: int, target: str, found: Certificate) -> str:
    document = json.loads(configs.traefik(port, target, "sse"))
    dynamic = document["dynamic"]
    dynamic["http"]["routers"]["chat"]["tls"] = {}
    pair = {"certFile": str(found.cert), "keyFile": str(found.key)}
    dynamic["tls"] = {"stores": {"default": {"defaultCertificate": pair}}}
    return json.dumps(document)


# The configuration of each, given its port, the server's address and the certificate.
FRONTS: dict[str, Callable[[int, str, Certificate], str]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "caddy": _caddy,
    "envoy": _envoy,
    "traefik": _traefik,
}
