"""The program that answers at an address in place of the expected server, described in one line that names the mistake.

A client looks only after a request has failed and before its first good answer, so a server that works is never asked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

_LOOK_S = 2.0
_MAX_BYTES = 64 * 1024
# A byte of an HTTP/2 frame is its type; a server begins with SETTINGS (RFC 9113, sections 3.4, 4.1 and 6.5).
_TYPE_AT, _SETTINGS = 3, 0x04
_TLS_ALERT = b"\x15\x03"
_EXPECTS_TLS = "expects TLS, which this client was not told to use: --tls, and TLS_CA where the CA is one of your own"
_SPEAKS_NO_TLS = "speaks no TLS, which this client was told to use (--tls, TLS_CA, or the address's scheme)"
# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH and _IP_ADDRESS_MISMATCH.
_OTHER_NAME = (62, 63, 64)
# The transport whose server does not speak HTTP/1.1.
_HTTP2_ONLY = "grpc"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})", re.IGNORECASE)
_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title", re.IGNORECASE | re.DOTALL)


class _Health(msgspec.Struct):
    transport: str


async def stranger_at(address: str, word: str, tls: ssl.SSLContext | None = None) -> str | None:
    """One line about what answers at ``address`` (HOST:PORT or a URL) in place of the ``word`` server.

    ``tls``: the TLS that the client speaks; None: it speaks none. The result is None when nothing answers, when the
    server of ``word`` does, or when the answer tells nothing.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    if url.hostname is None:
        return None
    there = _There(url.hostname, url.port or (80 if tls is None else 443), url.netloc)
    what = await (_without_tls(there, word) if tls is None else _with_tls(there, word, tls))
    return what and f"{url.netloc} {what}"


@dataclass(frozen=True, slots=True)
class _There:
    host: str
    port: int
    netloc: str


async def _without_tls(there: _There, word: str) -> str | None:
    """What answers a client that speaks no TLS."""
    said = await _said(there, None)
    if not said:
        # Many TLS servers drop what is not TLS without a word. Whether the certificate is good is not asked here.
        anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        with contextlib.suppress(OSError):
            await _said(there, anyone)
            return _EXPECTS_TLS
    return _named(said, word, there.port)


async def _with_tls(there: _There, word: str, tls: ssl.SSLContext) -> str | None:
    """What answers a client that speaks TLS."""
    try:
        return _named(await _said(there, tls), word, there.port)
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message.rstrip(".")
        if error.verify_code in _OTHER_NAME:
            return f"has a certificate for another name ({why})"
        return (
            f"has a certificate that this client does not trust ({why}); TLS_CA names the PEM file of the CA to trust"
        )
    except OSError:
        plain = await _said(there, None)
        return _SPEAKS_NO_TLS if plain and not plain.startswith(_TLS_ALERT) else None


async def _said(there: _There, tls: ssl.SSLContext | None) -> bytes:
    """What the program says to ``GET /health``, as far as it arrives in time. Raises OSError when no TLS comes about."""
    said = bytearray()
    # Another program may keep the connection open, or never end its answer. The bytes that arrived in time are judged.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_S):
            await _ask_health(there, tls, said)
    return bytes(said)


async def _ask_health(there: _There, tls: ssl.SSLContext | None, said: bytearray) -> None:
    """Send ``GET /health`` and add the answer to ``said``, to the end of the answer or its first 64 KiB."""
    try:
        reader, writer = await asyncio.open_connection(there.host, there.port, ssl=tls)
    except OSError:
        if tls is None:
            return
        raise
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {there.netloc}\r\nConnection: close\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            while not _is_enough(said) and (data := await reader.read(_MAX_BYTES)):
                said += data
    finally:
        writer.transport.abort()


def _is_enough(said: bytearray) -> bool:
    """Whether the answer is whole or long enough to judge. Bytes that are not HTTP have no known end."""
    if not said.startswith(b"HTTP/"[: len(said)]):
        return len(said) > _TYPE_AT
    if len(said) >= _MAX_BYTES:
        return True
    head, end, body = said.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def _named(said: bytes, word: str, port: int) -> str | None:
    if said.startswith(b"HTTP/"):
        head, _, body = said.partition(b"\r\n\r\n")
        with contextlib.suppress(msgspec.MsgspecError):
            found = msgspec.json.decode(body, type=_Health).transport
            return None if found == word else _wrong_transport(found, word, port)
        # An HTTP client reports this answer by itself. A gRPC client never saw the answer.
        return _http_answer(head, body) if word == _HTTP2_ONLY else None
    if len(said) > _TYPE_AT and said[_TYPE_AT] == _SETTINGS:
        return None if word == _HTTP2_ONLY else _wrong_transport(_HTTP2_ONLY, word, port)
    if said.startswith(_TLS_ALERT):
        return _EXPECTS_TLS
    return "does not speak HTTP" if said else None


def _http_answer(head: bytes, body: bytes) -> str:
    """What an HTTP/1.1 server answered to ``GET /health``."""
    first, *lines = head.decode("latin-1").split("\r\n")
    status = first.split(" ")[1] if first.count(" ") else "something"
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if status.startswith("3") and "location" in headers:
        return f"speaks HTTP/1.1 and answers {status}, a redirect to {headers['location'][:200]}"
    return f"speaks HTTP/1.1 and answers {status} with {describe_body(headers.get('content-type', ''), body)}"


def _wrong_transport(found: str, word: str, port: int) -> str:
    return f"is the {found} server, not the {word} server; use: python -m protocols chat {found} --port {port}"


def describe_body(content_type: str, body: bytes) -> str:
    """What an answer is, such as ``an HTML page "Welcome to nginx!"``."""
    if "html" in content_type or body.lstrip()[:1] == b"<":
        title = _TITLE.search(body)
        shown = f' "{title[1].decode(errors="replace")[:80]}"' if title else ""
        return f"an HTML page{shown}"
    return f"{content_type.partition(';')[0].strip() or 'no content type'}"
