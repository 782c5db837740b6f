"""A picture as an answer: its bytes, one range of them, 304 or 416 (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response


def image_response(
    data: bytes, mime_type: str, sha256: str, request_headers: Mapping[str, str] | None = None
) -> Response:
    """A picture; with the headers of a request, the range or the 304 that they ask for. ``sha256`` (hex) is the ETag."""
    asked = request_headers or {}
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
    unit, _, spec = asked.get("range", "").partition("=")
    first, dash, last = spec.strip().partition("-")
    one = unit.strip() == "bytes" and dash and "," not in spec and (first + last).isdecimal()
    if not one or asked.get("if-range", etag) != etag:
        return Response(data, 200, headers, mime_type)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= min(size, stop):
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(data[start:stop], 206, headers, mime_type)
