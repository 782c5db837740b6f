"""A picture as an answer: its bytes, one range of them, 304 or 416 (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.responses import Response

from shared.chat.checks import bounded_int

_RANGE = re.compile(r"bytes\s*=\s*(?P<first>[0-9]*)-(?P<last>[0-9]*)", re.IGNORECASE)


def image_response(data: bytes, mime_type: str, sha256: str, asked: Mapping[str, str]) -> Response:
    """A picture, or the range or the 304 that the headers of a request ask for. ``sha256`` (hex) is the ETag."""
    etag = f'"{sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    size = len(data)
    known = asked.get("if-none-match", "").strip()
    if known == "*" or etag in known:
        return Response(status_code=304, headers=headers)
    part = _byte_range(asked.get("range", ""), size)
    if part is None or asked.get("if-range", etag) != etag:
        return Response(data, 200, headers, mime_type)
    start, stop = part
    if start >= stop:
        return Response(status_code=416, headers={"Accept-Ranges": "bytes", "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(data[start:stop], 206, headers, mime_type)


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
