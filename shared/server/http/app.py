"""The app of an HTTP server: a leaf's own routes, the common ones, the pages, the gate, and errors in one form."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from shared.errors import ChatError
from shared.events import EVENT_TYPES
from shared.server.context import ServerContext
from shared.server.http import pages
from shared.server.http.answers import problem
from shared.server.http.gate import PUBLIC_FOLDER, Gate
from shared.server.http.pages import PAGES
from shared.server.http.routes import router

_REQUEST_HEADERS = ("Authorization", "X-API-Key", "Content-Type", "Idempotency-Key", "Last-Event-ID")
_EXPOSED_HEADERS = ("Location", "Content-Location", "Retry-After")


def create_app(context: ServerContext, routes: APIRouter, title: str) -> FastAPI:
    """An app with the common routes and a leaf's own."""
    app = FastAPIOffline(title=title, version="1", redoc_url=None, static_url=f"{PUBLIC_FOLDER}swagger")
    app.state.context = context
    app.include_router(routes)
    app.include_router(router)
    app.include_router(pages.router)
    app.add_exception_handler(ChatError, _on_chat_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_exception)
    app.add_middleware(
        Gate,
        access=context.access,
        max_body_bytes=context.settings.max_body_bytes,
        timeout_s=context.settings.request_timeout_s,
    )
    origins = context.access.origins
    app.add_middleware(
        CORSMiddleware,
        allow_origins=sorted(origins) if origins is not None else ["*"],
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_EXPOSED_HEADERS,
    )
    app.mount("/web", StaticFiles(directory=PAGES), name="web")
    make_schema = app.openapi
    app.openapi = lambda: _with_events(make_schema())  # type: ignore[method-assign]
    return app


def _with_events(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the events as a union told apart by ``type`` (OpenAPI's discriminator)."""
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    if "Event" not in schemas:
        prefix = "#/components/schemas/"
        _, components = msgspec.json.schema_components(EVENT_TYPES, ref_template=prefix + "{name}")
        schemas.update(components)
        mapping = {str(kind.__struct_config__.tag): prefix + kind.__name__ for kind in EVENT_TYPES}
        schemas["Event"] = {
            "oneOf": [{"$ref": reference} for reference in mapping.values()],
            "discriminator": {"propertyName": "type", "mapping": mapping},
        }
    return schema


async def _on_chat_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)
    return problem(error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    if first["type"] == "json_invalid":
        return problem(ChatError("invalid_request", "The body is not JSON.", http_status=400))
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return problem(ChatError("invalid_request", f"{where or 'body'}: {first['msg']}."))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown paths (404), wrong methods (405), unparseable bodies (400)."""
    assert isinstance(error, HTTPException)
    answered = problem(ChatError("invalid_request", f"{error.detail}.", http_status=error.status_code))
    answered.headers.update(error.headers or {})
    return answered


async def _on_exception(request: Request, error: Exception) -> Response:
    context: ServerContext = request.app.state.context
    context.service.logger.error("internal error", path=request.url.path, why=type(error).__name__)
    return problem(ChatError("internal"))
