"""A picture as an answer: its bytes, one range of them, 304 or 416 (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.responses import Response

from shared.chat.checks import bounded_int

_TAG = re.compile(r'(?:W/)?"[^"]*"')
_RANGE = re.compile(r"bytes\s*=\s*(?P<first>[0-9]*)-(?P<last>[0-9]*)", re.IGNORECASE)


def image_response(data: bytes, mime_type: str, sha256: str, asked: Headers) -> Response:
    """A picture, or the range, the 304 or the 412 that the headers of a request ask for. ``sha256`` (hex) is the ETag."""
    etag = f'"{sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    size = len(data)
    wanted, known = asked.getlist("if-match"), asked.getlist("if-none-match")
    if wanted and not _names(wanted, etag, weak=False):
        return Response(status_code=412)
    if _names(known, etag, weak=True):
        return Response(status_code=304, headers=headers)
    part = _byte_range(asked.get("range", ""), size)
    if part is None or asked.get("if-range", etag) != etag:
        return Response(data, 200, headers, mime_type)
    start, stop = part
    if start >= stop:
        return Response(status_code=416, headers={"Accept-Ranges": "bytes", "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(data[start:stop], 206, headers, mime_type)


def _names(lines: list[str], etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags, or ``*``, names a picture. ``weak``: so does a weak tag (RFC 9110, section 8.8.3.2)."""
    listed = ",".join(lines).strip()
    tags = _TAG.findall(listed)
    return listed == "*" or etag in tags or (weak and f"W/{etag}" in tags)


def _byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop of the one range in a ``Range`` header, the same for a range beyond the end; None for no or another range."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match["first"] == match["last"] == "":
        return None
    first, last = bounded_int(match["first"], size), bounded_int(match["last"], size)
    if not match["first"]:
        return size - last, size
    if not match["last"]:
        return first, size
    if last < first:
        return None
    return first, min(size, last + 1)
