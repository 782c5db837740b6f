"""HTTP/2 and HTTP/3 for the HTTP clients of a lane, by pyqwest.

httpx's own HTTP/2 shows tokens late when many streams share a connection, and httpx has no HTTP/3.
"""

from __future__ import annotations

from pathlib import Path

import httpx

from shared.client.tls import trusted_certificates

_CONNECT_S = 5.0


def http2_sender(ca: Path | None, silence_s: float) -> httpx.AsyncBaseTransport:
    """What sends requests over HTTP/2 alone: by prior knowledge without TLS, by ALPN with it."""
    return _sender("HTTP2", ca, silence_s)


def http3_sender(ca: Path | None, silence_s: float) -> httpx.AsyncBaseTransport:
    """What sends requests over HTTP/3 alone, to an address that begins with https://."""
    return _sender("HTTP3", ca, silence_s)


def _sender(version: str, ca: Path | None, silence_s: float) -> httpx.AsyncBaseTransport:
    # Imported here, because the extra may not be installed.
    from pyqwest import HTTPTransport, HTTPVersion
    from pyqwest.httpx import AsyncPyqwestTransport

    sender: httpx.AsyncBaseTransport = AsyncPyqwestTransport(
        HTTPTransport(
            tls_ca_cert=trusted_certificates(ca),
            http_version=getattr(HTTPVersion, version),
            read_timeout=silence_s,
            connect_timeout=_CONNECT_S,
            follow_redirects=False,
            enable_gzip=False,
            enable_brotli=False,
            enable_zstd=False,
            enable_otel=False,
        )
    )
    return sender
