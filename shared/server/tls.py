"""TLS on a server: the certificate and the key of ``TLS_CERT`` and ``TLS_KEY``, read and checked before a port is bound."""

from __future__ import annotations

import ssl
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from shared.config import Settings


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate with its chain, and its private key: two PEM files that belong together."""

    cert: Path
    key: Path

    def context(self, *, http2: bool = False) -> ssl.SSLContext:
        """What Python's servers need: TLS 1.2 and newer (RFC 9325), without certificates of clients.

        ``http2``: offer HTTP/2 and HTTP/1.1 (RFC 7301, ALPN).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # OpenSSL would ask for a password on the terminal.
        context.load_cert_chain(self.cert, self.key, password=_no_password)
        if http2:
            context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def key_is_exposed(self) -> bool:
        """Whether other users of this machine can read the key. Windows has no such bits."""
        return sys.platform != "win32" and bool(self.key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def certificate(settings: Settings) -> Certificate | None:
    """The certificate of the settings; None without TLS. Raises ValueError, which names the setting that is wrong."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        there, missing = ("TLS_CERT", "TLS_KEY") if settings.tls_key is None else ("TLS_KEY", "TLS_CERT")
        raise ValueError(f"{there} is set and {missing} is not; TLS needs both (docs/tls.md)")
    found = Certificate(settings.tls_cert, settings.tls_key)
    for name, path in (("TLS_CERT", found.cert), ("TLS_KEY", found.key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ValueError(f"{name}: {path} cannot be read ({error.strerror})") from error
    try:
        found.context()
    except (ssl.SSLError, _PasswordAsked) as error:
        why = "the key has a password" if isinstance(error, _PasswordAsked) else error.reason or str(error)
        raise ValueError(f"TLS_CERT and TLS_KEY are no certificate and its key as PEM files: {why}") from error
    return found


class _PasswordAsked(Exception):
    """OpenSSL needs a password for the key."""


def _no_password() -> str:
    raise _PasswordAsked
