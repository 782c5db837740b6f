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
# Statuses of a gateway that cannot reach the server behind it (RFC 9110, sections 15.6.3 to 15.6.5).
_GATEWAY = ("502", "503", "504")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})", re.IGNORECASE)
_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title", re.IGNORECASE | re.DOTALL)


class _Health(msgspec.Struct):
    transport: str
    for_pages_of: str | None = None


async def stranger_at(
    address: str,
    word: str,
    *,
    http2_word: str | None = None,
    hidden: bool = False,
    tls: ssl.SSLContext | None = None,
) -> str | None:
    """One line about what answers at ``address`` (HOST:PORT or a URL) in place of the ``word`` server.

    ``http2_word``: the transport whose server speaks HTTP/2 alone. ``hidden``: the client's library hides what an HTTP/1.1 server
    answers, as an HTTP/2 client's does in any case. ``tls``: the TLS that the client speaks, or None.
    The result is None when nothing answers, when the server of ``word`` does, or when the answer tells nothing.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    if url.hostname is None:
        return None
    there = _There(url.hostname, url.port or (80 if tls is None else 443), url.netloc)
    wanted = _Wanted(word, http2_word, hidden or word == http2_word)
    what = await (_without_tls(there, wanted) if tls is None else _with_tls(there, wanted, tls))
    return what and f"{url.netloc} {what}"


@dataclass(frozen=True, slots=True)
class _There:
    host: str
    port: int
    netloc: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    word: str
    http2_word: str | None
    hidden: bool

    def instead(self, found: str, port: int, for_pages_of: str | None = None) -> str | None:
        """What to say of the server of the transport ``found``; None when it is the wanted one."""
        if found == self.word:
            return None
        if for_pages_of is not None:
            return (
                f"is the {for_pages_of} server's port for pages, not the {self.word} server; the {for_pages_of} server's own port"
                f" is by default the one before: python -m protocols chat {for_pages_of} --port {port - 1}"
            )
        return f"is the {found} server, not the {self.word} server; use: python -m protocols chat {found} --port {port}"


async def _without_tls(there: _There, wanted: _Wanted) -> str | None:
    """What answers a client that speaks no TLS."""
    said = await _said(there, None)
    if not said and await _speaks_tls(there):
        # Many TLS servers close a connection without TLS and send nothing.
        return _EXPECTS_TLS
    return _named(said, wanted, there.port)


async def _with_tls(there: _There, wanted: _Wanted, tls: ssl.SSLContext) -> str | None:
    """What answers a client that speaks TLS."""
    try:
        return _named(await _said(there, tls), wanted, there.port)
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


async def _speaks_tls(there: _There) -> bool:
    """Whether a handshake succeeds in time. The certificate is not checked."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_LOOK_S):
            _, writer = await asyncio.open_connection(there.host, there.port, ssl=anyone)
    except OSError:
        # TimeoutError is one of them: a program that says nothing at all may be any program.
        return False
    writer.transport.abort()
    return True


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


def _named(said: bytes, wanted: _Wanted, port: int) -> str | None:
    if said.startswith(b"HTTP/"):
        head, _, body = said.partition(b"\r\n\r\n")
        with contextlib.suppress(msgspec.MsgspecError):
            health = msgspec.json.decode(body, type=_Health)
            return wanted.instead(health.transport, port, health.for_pages_of)
        # Most HTTP/1.1 clients report this answer by themselves. An HTTP/2 client never saw the answer.
        return _http_answer(head, body) if wanted.hidden else None
    if len(said) > _TYPE_AT and said[_TYPE_AT] == _SETTINGS:
        if wanted.http2_word is None:
            return f"speaks HTTP/2, which the {wanted.word} server does not"
        return wanted.instead(wanted.http2_word, port)
    if said.startswith(_TLS_ALERT):
        return _EXPECTS_TLS
    return "does not speak HTTP" if said else None


def _http_answer(head: bytes, body: bytes) -> str | None:
    """What an HTTP/1.1 server answered to ``GET /health``; None for a gateway that does not reach the server behind it."""
    first, *lines = head.decode("latin-1").split("\r\n")
    status = first.split(" ")[1] if first.count(" ") else "something"
    if status in _GATEWAY:
        return None
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if status.startswith("3") and "location" in headers:
        return f"speaks HTTP/1.1 and answers {status}, a redirect to {headers['location'][:200]}"
    return f"speaks HTTP/1.1 and answers {status} with {describe_body(headers.get('content-type', ''), body)}"


def describe_body(content_type: str, body: bytes) -> str:
    """What an answer is, such as ``an HTML page "Welcome to nginx!"``."""
    if "html" in content_type or body.lstrip()[:1] == b"<":
        title = _TITLE.search(body)
        shown = f' "{title[1].decode(errors="replace")[:80]}"' if title else ""
        return f"an HTML page{shown}"
    return f"{content_type.partition(';')[0].strip() or 'no content type'}"
