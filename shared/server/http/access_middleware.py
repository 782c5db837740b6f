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
_HEALTH = "/health"
# uvicorn's names. Its parser also reads 0.9 and 2.0 in the form of HTTP/1.1; "2" is real HTTP/2 on another ASGI server.
_VERSIONS = ("1.0", "1.1", "2", "3")
_WRITING = ("POST", "PUT", "PATCH", "DELETE")
# Headers that stand once in a request: of two, a proxy could read one and this server the other.
_SINGLE = {
    name.lower().encode(): name
    for name in ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Origin", "X-API-Key")
}
_PUBLIC = frozenset({"/", _HEALTH, "/docs", "/openapi.json", "/demo", "/race"})


class AccessMiddleware:
    """Host, Origin and key, for requests and WebSocket handshakes. Pure ASGI, because BaseHTTPMiddleware hides disconnects.

    ``opened_by_ticket`` is the path of the one route that a ticket opens (``?ticket=``), with ``{turn_id}`` in it.
    ``sockets`` are the paths that speak WebSocket; a handshake on any other path is answered with 404.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: AccessPolicy,
        logger: Logger,
        opened_by_ticket: str | None,
        sockets: frozenset[str],
    ) -> None:
        self._app = app
        self._sockets = sockets
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
            await self._refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _refuse(self, error: ChatError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            if "websocket.http.response" not in scope.get("extensions", {}):
                # This ASGI server can refuse a handshake only with 403.
                await send({"type": "websocket.close"})
                return
        await problem(error, scope, self._logger)(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = self._host(scope, headers)
        single = [name for name, _ in scope["headers"] if name in _SINGLE]
        if len(single) > len(set(single)):
            twice = next(name for name in _SINGLE if single.count(name) > 1)
            raise ChatError("invalid_request", f"Send the header {_SINGLE[twice]} once.", http_status=400)
        origin, scheme = headers.get("origin"), scope["scheme"]
        if scope["type"] == "websocket":
            self._access.check_host(host)
            self._access.check_origin(origin, scheme, host)
            scope.setdefault("state", {})["authenticated"] = self._authenticated(headers)
            if scope["path"] not in self._sockets:
                raise ChatError(
                    "invalid_request",
                    "No WebSocket is served on this path; the WebSocket server has one at /ws.",
                    http_status=404,
                )
            return
        try:
            self._access.check_host(host)
        except ChatError:
            if scope["path"] != _HEALTH:
                raise
            # A balancer's probe names an address that this server does not know. The probe gets the status and nothing
            # else.
            scope.setdefault("state", {})["stranger"] = True
        if scope["method"] in _WRITING:
            self._access.check_origin(origin, scheme, host)
        if self._access.key is not None and not is_public(scope["path"]):
            self._check_key(scope, headers)

    def _host(self, scope: Scope, headers: Headers) -> str:
        """The one ``Host`` of a request (RFC 9112, section 3.2).

        Raises ``invalid_request``: with 400 for none and for two; with 505 for another version of HTTP.
        """
        if scope["http_version"] not in _VERSIONS:
            raise ChatError(
                "invalid_request",
                "This server speaks HTTP/1.1 and HTTP/1.0; send the request with one of them.",
                http_status=505,
            )
        hosts = headers.getlist("host")
        if len(hosts) > 1 or (not hosts and scope["http_version"] != "1.0"):
            raise ChatError("invalid_request", "A request must have exactly one Host; send it once.", http_status=400)
        # An HTTP/1.0 client names none, because the connection leads to one server.
        return hosts[0] if hosts else "localhost"

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


def is_public(path: str) -> bool:
    """Whether a path is answered without the key."""
    return path in _PUBLIC or path.startswith(PUBLIC_FOLDER)
