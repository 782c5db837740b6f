"""The program that answers at an address in place of the expected server, described in one line that names the mistake.

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
# A byte of an HTTP/2 frame is its type; a server begins with SETTINGS (RFC 9113, sections 3.4, 4.1 and 6.5).
_TYPE_AT, _SETTINGS = 3, 0x04
_TLS_ALERT = b"\x15\x03"
# The transport whose server does not speak HTTP/1.1.
_HTTP2_ONLY = "grpc"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})", re.IGNORECASE)
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
    said = bytearray()
    # Another program may keep the connection open, or never end its answer. The bytes that arrived in time are judged.
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LOOK_S):
            await _ask_health(url.hostname, port, url.netloc, said)
    what = _named(bytes(said), word, port)
    return what and f"{url.netloc} {what}"


async def _ask_health(host: str, port: int, netloc: str, said: bytearray) -> None:
    """Send ``GET /health`` and add the answer to ``said``, to the end of the answer or its first 64 KiB."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {netloc}\r\nConnection: close\r\n\r\n".encode())
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
        return "expects TLS, which this client was not told to use"
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
