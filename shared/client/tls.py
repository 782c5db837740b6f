"""TLS on a client: when it is used, and which certificates are trusted."""

from __future__ import annotations

import ssl
from pathlib import Path

from shared.errors import ChatError

SECURE = {"https", "wss", "grpcs"}
# The folder that many Linux systems name has the certificates in one file as well.
_ONE_FILE = "ca-certificates.crt"


def uses_tls(address: str, *, tls: bool, ca: Path | None) -> bool:
    """Whether a client speaks TLS to ``address``: by its scheme, else because ``tls`` or ``ca`` says so.

    Raises ``invalid_request`` for ``tls`` and a scheme without TLS: the words after it would travel in the clear.
    """
    scheme, colon, _ = address.partition("://")
    if not colon:
        return tls or ca is not None
    if tls and scheme not in SECURE:
        raise ChatError("invalid_request", f"--tls and an address that begins with {scheme}:// contradict each other.")
    return scheme in SECURE


def client_context(ca: Path | None) -> ssl.SSLContext:
    """A context that trusts the CA in this PEM file; None: the CAs of the system."""
    return ssl.create_default_context(cafile=ca)


def trusted_certificates(ca: Path | None) -> bytes | None:
    """The same certificates as PEM, for a library that needs them so. None: the system names no file, use the library's own."""
    if ca is not None:
        return ca.read_bytes()
    paths = ssl.get_default_verify_paths()
    for file in (paths.cafile, paths.capath and str(Path(paths.capath) / _ONE_FILE)):
        if file and Path(file).is_file():
            return Path(file).read_bytes()
    return None
