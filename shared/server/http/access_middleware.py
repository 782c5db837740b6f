"""Host, Origin and key, checked before any route sees a request (RFC 9110, sections 7.2 and 11; RFC 6454)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import ChatError
from shared.logger import Logger
from shared.server.access import AccessPolicy
from shared.server.http.answers import problem

PUBLIC_FOLDER = "/web/"
_PUBLIC = frozenset({"/", "/health", "/docs", "/openapi.json", "/demo", "/race"})


class AccessMiddleware:
    """Host, Origin and key, for requests and WebSocket handshakes. Pure ASGI, because BaseHTTPMiddleware hides disconnects.

    ``opened_by_ticket`` is the path of the one route that a ticket opens (``?ticket=``), with ``{turn_id}`` in it.
    """

    def __init__(self, app: ASGIApp, access: AccessPolicy, logger: Logger, opened_by_ticket: str | None) -> None:
        self._app = app
        self._access = access
        self._logger = logger
        self._ticket_path = compile_path(opened_by_ticket)[0] if opened_by_ticket else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
        except ChatError as error:
            if scope["type"] == "websocket":
                await receive()
            await problem(error, scope, self._logger)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        self._access.check_host(headers.get("host"))
        if scope["type"] == "websocket":
            self._access.check_origin(headers.get("origin"))
            scope.setdefault("state", {})["authenticated"] = self._authenticated(headers)
            return
        if scope["method"] in ("POST", "DELETE"):
            self._access.check_origin(headers.get("origin"))
        if self._access.key is not None and not _public(scope["path"]):
            self._check_key(scope, headers)

    def _authenticated(self, headers: Mapping[str, str]) -> bool:
        """Whether a handshake bears the key. False: a ticket may follow in the first message. A wrong key ends the handshake."""
        if self._access.key is None:
            return True
        if "authorization" not in headers and "x-api-key" not in headers:
            return False
        self._access.check_key(headers)
        return True

    def _check_key(self, scope: Scope, headers: Mapping[str, str]) -> None:
        opened = self._ticket_path.match(scope["path"]) if self._ticket_path else None
        tickets = parse_qs(scope["query_string"].decode("latin-1")).get("ticket") if opened else None
        try:
            self._access.check_key(headers)
        except ChatError:
            if opened is None or tickets is None:
                raise
            self._access.check_ticket(tickets[0], opened["turn_id"])


def _public(path: str) -> bool:
    return path in _PUBLIC or path.startswith(PUBLIC_FOLDER)
