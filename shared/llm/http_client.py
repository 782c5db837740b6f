"""The HTTP client that both SDKs are given: what the body of an error costs is limited.

An SDK reads the whole body of an error response before it tells the status. A body that never ends, or that cannot be
decoded, would hide the status and take the time of an answer.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import httpx2

_MAX_ERROR_BYTES = 256 * 1024
_ERROR_BODY_S = 3.0
_OF_THE_BODY = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


class ProviderClient(httpx2.AsyncClient):
    """``httpx2.AsyncClient`` whose error responses have a body of at most 256 KiB that came within 3 s."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send the request; a response with an error status is read."""
        response = await super().send(request, **options | {"stream": True})
        if not response.is_error:
            if not options.get("stream"):
                await response.aread()
            return response
        body = bytearray()
        with suppress(httpx2.HTTPError), anyio.move_on_after(_ERROR_BODY_S):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_ERROR_BYTES:
                    break
        await response.aclose()
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY]
        content = bytes(body[:_MAX_ERROR_BYTES])
        return httpx2.Response(response.status_code, headers=headers, content=content, request=response.request)
