"""The app of an HTTP server: the routes of a leaf, the common routes, the pages, the checks, and errors in one form."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import WebSocketRoute, compile_path

from shared.errors import ChatError
from shared.server.context import ServerContext
from shared.server.http import pages
from shared.server.http.access_middleware import PUBLIC_FOLDER, AccessMiddleware, is_public
from shared.server.http.answer_middleware import AnswerMiddleware
from shared.server.http.answers import problem
from shared.server.http.body_middleware import BodyMiddleware
from shared.server.http.cors import Cors
from shared.server.http.routes import ECHO, PICTURE_FOLDER, common_routes
from shared.server.http.schemas import (
    add_body_examples,
    add_events,
    add_security,
    openapi_problems,
    without_framework_errors,
)

_METHODS = ("GET", "POST", "DELETE")
_HTTP_WORDS = {
    404: "There is nothing at this path; /docs lists the paths.",
    405: "This path does not have this method; send one that the header Allow names.",
}


def create_app(
    context: ServerContext, routes: APIRouter, title: str, *, opened_by_ticket: str | None = None
) -> FastAPI:
    """An app with the routes of a leaf and the common ones.

    ``opened_by_ticket`` is the path of the leaf's route that a browser opens with ``?ticket=``.
    """
    app = FastAPIOffline(
        title=title,
        version="1",
        # pages.py serves the page; the class brings the files of Swagger UI.
        docs_url=None,
        redoc_url=None,
        static_url=f"{PUBLIC_FOLDER}swagger",
        redirect_slashes=False,
        responses=openapi_problems(),
        # The servers count in /metrics. FastAPI would look for providers of OpenTelemetry at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.context = context
    # Included routers would be matched twice for each request. Their routes have all that inclusion would add. They come
    # first, so that a request does not try the framework's own routes before them.
    app.router.routes[:0] = [*routes.routes, *common_routes(context), *pages.router.routes]
    app.add_exception_handler(ChatError, _on_chat_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    # The middleware that is added last is the outermost.
    app.add_middleware(
        BodyMiddleware,
        logger=context.service.logger,
        max_body_bytes=context.settings.max_body_bytes,
        timeout_s=context.settings.request_timeout_s,
        is_json=lambda path: path != ECHO,
    )
    app.add_middleware(
        AccessMiddleware,
        access=context.access,
        logger=context.service.logger,
        opened_by_ticket=opened_by_ticket,
        sockets=frozenset(route.path for route in routes.routes if isinstance(route, WebSocketRoute)),
    )
    app.add_middleware(
        AnswerMiddleware, logger=context.service.logger, cacheable=PUBLIC_FOLDER, in_parts=PICTURE_FOLDER
    )
    app.add_middleware(Cors, access=context.access)
    app.mount("/web", pages.files, name="web")
    make_schema = app.openapi
    keyed = context.access.key is not None

    def openapi() -> dict[str, Any]:
        schema = add_body_examples(without_framework_errors(add_events(make_schema())))
        return add_security(schema, keyed=keyed, public=is_public, opened_by_ticket=opened_by_ticket)

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _answer(request: Request, error: ChatError) -> Response:
    context: ServerContext = request.app.state.context
    return problem(error, request.scope, context.service.logger)


async def _on_chat_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)
    return _answer(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    if first["type"] == "json_invalid":
        return _answer(
            request,
            ChatError("invalid_request", "The body is not JSON; send JSON (RFC 8259) in UTF-8.", http_status=400),
        )
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return _answer(request, ChatError("invalid_request", f"{where or 'body'}: {first['msg']}."))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """A refusal by the framework itself: unknown paths (404), wrong methods (405), unparseable bodies (400)."""
    assert isinstance(error, HTTPException)
    words = _HTTP_WORDS.get(error.status_code, f"{error.detail}.")
    answered = _answer(request, ChatError("invalid_request", words, http_status=error.status_code))
    answered.headers.update(error.headers or {})
    if error.status_code == 405:
        answered.headers["Allow"] = ", ".join(_allowed(request))
    return answered


def _allowed(request: Request) -> list[str]:
    """The methods of a path (RFC 9110, section 15.5.6). The framework names those of one of the path's routes."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    path = request.scope["path"]
    # A path in full comes first: /images/stream is not /images/{image_id}. The pages' files are not in the document.
    templates = [path, *(template for template in paths if compile_path(template)[0].match(path))]
    documented: dict[str, Any] = next((paths[template] for template in templates if template in paths), {"get": {}})
    methods = [method for method in _METHODS if method.lower() in documented]
    return [*methods, "HEAD"] if "GET" in methods else methods
