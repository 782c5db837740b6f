"""Cross-origin requests of pages (WHATWG Fetch, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from shared.server.access import AccessPolicy

_REQUEST_HEADERS = ("Authorization", "X-API-Key", "Content-Type", "Idempotency-Key", "Last-Event-ID")
_EXPOSED_HEADERS = ("Location", "Content-Location", "Retry-After")


class Cors(CORSMiddleware):
    """Allows the origins of ``access``; a preflight's answer is not cached by HTTP caches either.

    ``request_headers`` and ``exposed``: what a page may send and read besides the headers of every server.
    """

    def __init__(
        self, app: ASGIApp, access: AccessPolicy, *, request_headers: Sequence[str] = (), exposed: Sequence[str] = ()
    ) -> None:
        super().__init__(
            app,
            allow_origins=sorted(access.origins) if access.origins is not None else ["*"],
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=(*_REQUEST_HEADERS, *request_headers),
            expose_headers=(*_EXPOSED_HEADERS, *exposed),
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        response.headers["Cache-Control"] = "no-store"
        return response
