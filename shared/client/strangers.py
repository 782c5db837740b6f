"""What answers at an address when it is not the server that a client expects: one line that names the mistake.

A client looks only after a request has failed and before its first good answer, so a server that works is never asked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from urllib.parse import urlsplit

import msgspec

_LOOK_S = 2.0
_MAX_BYTES = 64 * 1024
# The fourth byte of an HTTP/2 frame is its type; a server begins with SETTINGS (RFC 9113, sections 3.4 and 6.5).
_SETTINGS = 0x04
_TLS_ALERT = b"\x15\x03"
_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title", re.IGNORECASE | re.DOTALL)


class _Health(msgspec.Struct):
    transport: str


async def stranger_at(address: str, word: str) -> str | None:
    """One line about what answers at ``address`` (HOST:PORT or a URL) in place of the ``word`` server.

    None when nothing answers, when the server of ``word`` does, or when the answer tells nothing.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    if url.hostname is None or url.scheme == "https":
        return None
    port = url.port or 80
    try:
        async with asyncio.timeout(_LOOK_S):
            said = await _first_answer(url.hostname, port, url.netloc)
    except (OSError, TimeoutError):
        return None
    what = _named(said, word, port)
    return what and f"{url.netloc} {what}"


async def _first_answer(host: str, port: int, netloc: str) -> bytes:
    """The first bytes, up to the end of the connection, that the address gives for ``GET /health``."""
    reader, writer = await asyncio.open_connection(host, port)
    said = b""
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {netloc}\r\nConnection: close\r\n\r\n".encode())
        while len(said) < _MAX_BYTES and (data := await reader.read(_MAX_BYTES)):
            said += data
            if not said.startswith(b"HTTP/"[: len(said)]):
                break
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return said


def _named(said: bytes, word: str, port: int) -> str | None:
    if said.startswith(b"HTTP/"):
        _, _, body = said.partition(b"\r\n\r\n")
        with contextlib.suppress(msgspec.MsgspecError):
            found = msgspec.json.decode(body, type=_Health).transport
            return None if found == word else _wrong_transport(found, word, port)
        return None if word != "grpc" else f"speaks HTTP/1.1 and is not the {word} server"
    if len(said) > 3 and said[3] == _SETTINGS:
        return None if word == "grpc" else _wrong_transport("grpc", word, port)
    if said.startswith(_TLS_ALERT):
        return "wants TLS, and this client speaks without"
    return "does not speak HTTP" if said else None


def _wrong_transport(found: str, word: str, port: int) -> str:
    return f"is the {found} server, not the {word} server; use: python -m protocols chat {found} --port {port}"


def describe_body(content_type: str, body: bytes) -> str:
    """What an answer is, such as ``an HTML page "Welcome to nginx!"``."""
    if "html" in content_type or body.lstrip()[:1] == b"<":
        title = _TITLE.search(body)
        shown = f' "{title[1].decode(errors="replace")[:80]}"' if title else ""
        return f"an HTML page{shown}"
    return f"{content_type.partition(';')[0].strip() or 'no content type'}"
