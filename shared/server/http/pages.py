"""The browser pages, and the policy they are served under (Content Security Policy Level 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from shared.server.context import ServerContext
from shared.server.http.answers import json_response
from shared.server.http.bodies import Context
from shared.server.http.direct_route import Routes

PAGES = Path(__file__).parents[2] / "web"
MAX_PORT = 65535
_CONNECT_S = 0.5

router = Routes()


class PageFiles(StaticFiles):
    """The pages' files, each under one path: an empty segment, ``.``, ``..`` or a closing slash is 404."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if not {"", ".", ".."}.isdisjoint(scope["path"].split("/")[1:]):
            raise HTTPException(404)
        return await super().get_response(path, scope)


files = PageFiles(directory=PAGES)


@router.get("/demo", tags=["server"], response_class=FileResponse)
async def demo(context: Context, request: Request) -> Response:
    """Open the page of the chat, over this server's own protocol."""
    return await page(context, request, "demo.html")


@router.get("/race", tags=["server"], response_class=FileResponse)
async def race(context: Context, request: Request) -> Response:
    """Open the page on which the transports race."""
    return await page(context, request, "race.html")


@router.get("/docs", include_in_schema=False)
async def documentation(context: Context, request: Request) -> Response:
    """Swagger UI over this server's ``/openapi.json``."""
    return await page(context, request, "docs.html", trusted_types=False)


@router.get("/web/page.json", include_in_schema=False)
async def page_settings(context: Context) -> Response:
    """What the pages know of this server beforehand.

    ``ports``: where the HTTP servers of this machine listen. ``heartbeat_s``: the pages' patience with a silent line is
    counted in it. ``cut``: whether ``POST /turns/{turn_id}/cut`` is there.
    """
    settings = {
        "transport": context.transport.word,
        "ports": {word: there.port for word, there in context.pages.items()},
        "heartbeat_s": context.settings.heartbeat_s,
        "cut": context.settings.api_secret_key is None,
    }
    return json_response(settings, headers={"Cache-Control": "no-store"})


@router.get("/web/servers.json", include_in_schema=False)
async def servers(context: Context) -> Response:
    """Which servers of this machine, and which relays before them, accept connections now.

    A page could find out by itself only with a failed request in its console for each that does not run.
    """
    there = context.neighbours
    ports = {port for one in there.values() for port in (one.port, *one.relay_ports.values())} - {context.port}
    up = dict(zip(ports, await asyncio.gather(*map(_accepts, ports)), strict=True)) | {context.port: True}
    found = [
        {
            "word": word,
            # A second port of a server, for pages, names the server.
            "of": one.transport.word,
            "title": one.transport.title,
            "scheme": one.transport.scheme,
            "port": one.port,
            "up": up[one.port],
            "relays": {name: port for name, port in one.relay_ports.items() if up[port]},
        }
        for word, one in there.items()
    ]
    return json_response({"servers": found}, headers={"Cache-Control": "no-store"})


async def _accepts(port: int) -> bool:
    """Whether something on this machine accepts a connection on the port."""
    if port > MAX_PORT:
        return False
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def page(
    context: ServerContext,
    request: Request,
    name: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    trusted_types: bool = True,
) -> Response:
    """A page, or 304, under its policy: scripts and styles of this server; connections to the HTTP servers and their relays.

    Swagger UI sets ``innerHTML`` and runs only without ``trusted_types``.
    """
    # A policy has no form for IPv6 addresses; a page opened under one reaches its own server as 'self'.
    scheme = context.web_scheme
    origins = sorted(origin for origin in context.access.origins or {f"{scheme}:"} if "[" not in origin)
    # Servers' ports for pages, and the relays that damage the line for the race, may be open too (python -m compare page).
    origins += [
        f"{scheme}://{name}:{port}"
        for name in ("127.0.0.1", "localhost")
        for there in context.pages.values()
        for port in (there.port, *there.relay_ports.values())
        if f"{scheme}://{name}:{port}" not in origins
    ]
    sockets = [origin.replace("http", "ws", 1) for origin in origins]
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": " ".join(["'self'", *origins, *sockets]),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    if trusted_types:
        policy["require-trusted-types-for"] = "'script'"
    headers = {
        **headers,
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    # Not PageFiles' own: the path of a page may be /, which names no file.
    response = await StaticFiles.get_response(files, name, request.scope)
    response.headers.update(headers)
    return response
