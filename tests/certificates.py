"""Certificates for tests over TLS: one CA a test run, made by the program's own command."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from protocols import certs


@cache
def _folder() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="genai-certs-", ignore_cleanup_errors=True)
    certs.make(Path(folder.name))
    return folder


def tls_settings() -> dict[str, str]:
    """``TLS_CERT``, ``TLS_KEY`` and ``TLS_CA`` for servers and their clients."""
    return certs.files(Path(_folder().name))


def ca_file() -> str:
    """The CA to trust, a PEM file."""
    return tls_settings()["TLS_CA"]
