"""TLS on a server: the certificate and the key of ``TLS_CERT`` and ``TLS_KEY``, read and checked before a port is bound."""

from __future__ import annotations

import contextlib
import ssl
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from shared.config import Settings

# How a PEM file begins (RFC 7468). A key has several names: PRIVATE KEY, EC PRIVATE KEY, ENCRYPTED PRIVATE KEY.
_BEGINS = {"TLS_CERT": (b"-----BEGIN CERTIFICATE-----", "certificate"), "TLS_KEY": (b"PRIVATE KEY-----", "private key")}
# OpenSSL's reasons that need other words.
_REASONS = {
    "KEY_VALUES_MISMATCH": "the key is not the key of the file's first certificate, which must be the server's own",
    None: "one of them is damaged",
}


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

    def warnings(self) -> list[str]:
        """What an operator should know at the start, a line each."""
        found = []
        if self.key_is_exposed():
            found.append(f"other users of this machine can read {self.key}: chmod 600")
        refused = self.refused_by_clients()
        if refused is not None:
            found.append(f"clients will refuse {self.cert} ({refused}): replace it, and start the server again")
        return found

    def key_is_exposed(self) -> bool:
        """Whether other users of this machine can read the key. Windows has no such bits."""
        return sys.platform != "win32" and bool(self.key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))

    def refused_by_clients(self) -> str | None:
        """Why a client that trusts this very certificate refuses it, such as ``certificate has expired``. None: it accepts it."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (
            client.wrap_bio(to_client, to_server, server_side=False),
            self.context().wrap_bio(to_server, to_client, server_side=True),
        )
        try:
            client.load_verify_locations(self.cert)
            # A handshake in memory. Each end says several times that it waits for the other end.
            for end in ends * 3:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except ssl.SSLError:
            # Another fault of the handshake is no matter of the certificate's validity.
            pass
        return None


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
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{name}: {path} cannot be read ({error.strerror})") from error
        begin, kind = _BEGINS[name]
        if begin not in data:
            raise ValueError(f"{name}: {path} holds no {kind} in PEM form")
    try:
        found.context()
    except _PasswordAsked:
        raise ValueError(f"TLS_KEY: {found.key} has a password; a server needs the key without one") from None
    except ssl.SSLError as error:
        why = _REASONS.get(error.reason, error.reason)
        raise ValueError(f"TLS_CERT and TLS_KEY are no certificate and its key: {why}") from error
    return found


class _PasswordAsked(Exception):
    """OpenSSL needs a password for the key."""


def _no_password() -> str:
    raise _PasswordAsked
