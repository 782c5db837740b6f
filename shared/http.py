"""What the four HTTP servers share: the app factory, the common routes, the door, problem+json and running under uvicorn.

The only module in ``shared`` that knows a web library. A leaf adds its own routes and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs

import msgspec
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from shared import launch
from shared.auth import Door
from shared.errors import ChatError
from shared.events import EVENT_TYPES, to_json
from shared.launch import Place, Stopping
from shared.service import ChatService
from shared.session import Message as ChatMessage
from shared.session import Session, SessionPage
from shared.stats import ServerStats, prometheus_text
from shared.store import StoredImage
from shared.turn import Record, Snapshot

T = TypeVar("T")

MAX_WAIT_S = 30.0
_LINGER_S = 2.0
_LINGER_BODIES = 8
_PUBLIC = frozenset({"/", "/health", "/docs", "/openapi.json", "/demo", "/race"})
_PUBLIC_FOLDER = "/web/"
_RELAY_OFFSET = 100
_PAGES = Path(__file__).with_name("web")
_REQUEST_HEADERS = ("Authorization", "X-API-Key", "Content-Type", "Idempotency-Key", "Last-Event-ID")
_EXPOSED_HEADERS = ("Location", "Content-Location", "Retry-After")


class _Body(BaseModel):
    """A request body: unknown fields are ignored, types are never coerced."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


class ChatBody(_Body):
    """A message; without ``session_id`` a session is made and named in ``turn_started``."""

    message: str
    session_id: str | None = None
    model_id: str | None = None


class ImageBody(_Body):
    """A prompt; ``size`` is WIDTHxHEIGHT, 1024x1024 when absent."""

    prompt: str
    size: str | None = None
    session_id: str | None = None


class TurnBody(_Body):
    """A message or a prompt: what ``POST /chat`` or ``POST /images`` would take."""

    message: str | None = None
    prompt: str | None = None
    size: str | None = None
    session_id: str | None = None
    model_id: str | None = None


class SessionBody(_Body):
    """``model_id`` null: the server's default, resolved for each turn."""

    model_id: str | None = None


class TicketBody(_Body):
    """``turn_id``: a ticket for that turn's stream; absent: for the first message of a WebSocket."""

    turn_id: str | None = None


def _service(request: Request) -> ChatService:
    service: ChatService = request.app.state.place.service
    return service


def _place(request: Request) -> Place:
    place: Place = request.app.state.place
    return place


Service = Annotated[ChatService, Depends(_service)]
HerePlace = Annotated[Place, Depends(_place)]
RequestKey = Annotated[str | None, Header(alias="Idempotency-Key", description="1-255 printable ASCII characters")]
After = Annotated[int, Query(description="the last seq the client has")]


# -- answers -------------------------------------------------------------------------------------------------------------


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer (RFC 8259)."""
    return Response(to_json(value), status, headers, "application/json")


def problem(error: ChatError) -> Response:
    """An error as problem+json (RFC 9457)."""
    body = {
        "type": "about:blank",
        "title": error.kind.message,
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": str(uuid.uuid4()),
    }
    headers = {}
    if error.retry_after_s is not None and error.http_status in (429, 503):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    return Response(to_json(body), error.http_status, headers, "application/problem+json")


def stream_headers(turn_id: str) -> dict[str, str]:
    """What every streamed answer carries; X-Accel-Buffering keeps nginx from holding it back."""
    return {
        "Content-Location": f"/turns/{turn_id}",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }


def _schema_of(model: Any) -> dict[str, Any]:
    """A struct's JSON schema, every reference resolved in place (OpenAPI 3.1)."""
    (schema,), components = msgspec.json.schema_components([model], ref_template="{name}")

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(components[node["$ref"]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def answers(model: Any, *, status: int = 200, description: str = "") -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route, for OpenAPI: the schema of a struct of ours."""
    content = {"application/json": {"schema": _schema_of(model)}}
    return {status: {"description": description or "OK", "content": content}}


def streams(media_type: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that streams events, for OpenAPI."""
    reference = {"$ref": "#/components/schemas/Event"}
    return {200: {"description": "The events of the turn", "content": {media_type: {"schema": reference}}}}


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Do the work for as long as the client waits for it; None when it left."""
    task = asyncio.create_task(work)
    try:
        await launch.first_of(asyncio.shield(task), _disconnected(request))
        return task.result() if task.done() else None
    finally:
        task.cancel()


def gone() -> Response:
    """For a client that left: nobody reads it."""
    return Response(status_code=499)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# -- the routes that all four have -----------------------------------------------------------------------------------------

router = APIRouter()


@router.post("/sessions", status_code=201, responses=answers(Session, status=201), tags=["sessions"])
async def create_session(service: Service, body: SessionBody | None = None) -> Response:
    """Make a session."""
    session = await service.create_session(body.model_id if body else None)
    return answer(session, 201, {"Location": f"/sessions/{session.session_id}"})


@router.get("/sessions", responses=answers(SessionPage), tags=["sessions"])
async def list_sessions(
    service: Service, limit: Annotated[int | None, Query()] = None, cursor: Annotated[str | None, Query()] = None
) -> Response:
    """Sessions, newest first."""
    return answer(await service.list_sessions(limit, cursor))


@router.get("/sessions/{session_id}", responses=answers(Session), tags=["sessions"])
async def get_session(service: Service, session_id: str) -> Response:
    """One session."""
    return answer(await service.get_session(session_id))


@router.get("/sessions/{session_id}/messages", responses=answers(list[ChatMessage]), tags=["sessions"])
async def list_messages(service: Service, session_id: str) -> Response:
    """All messages of a session, in order."""
    return answer({"messages": await service.list_messages(session_id)})


@router.post("/sessions/{session_id}/clear", status_code=204, tags=["sessions"])
async def clear_session(service: Service, session_id: str) -> Response:
    """Drop the messages; the logs of the turns stay."""
    await service.clear_session(session_id)
    return Response(status_code=204)


@router.delete("/sessions/{session_id}", status_code=204, tags=["sessions"])
async def delete_session(service: Service, session_id: str) -> Response:
    """Drop the session and its turns."""
    await service.delete_session(session_id)
    return Response(status_code=204)


@router.post("/turns", status_code=202, responses=answers(Snapshot, status=202), tags=["turns"])
async def start_turn(service: Service, body: TurnBody, key: RequestKey = None) -> Response:
    """Start a turn and do not wait; it runs on though nobody reads it."""
    if (body.message is None) == (body.prompt is None):
        raise ChatError("invalid_request", "Give either message or prompt.")
    if body.message is not None:
        turn = await service.start_chat(
            body.message, session_id=body.session_id, model_id=body.model_id, request_id=key, attended=False
        )
    else:
        turn = await service.start_image(
            body.prompt or "", size=body.size, session_id=body.session_id, request_id=key, attended=False
        )
    return answer(turn, 202, {"Location": f"/turns/{turn.turn_id}"})


@router.get("/turns/{turn_id}", responses=answers(Snapshot), tags=["turns"])
async def get_turn(service: Service, turn_id: str) -> Response:
    """Where a turn stands."""
    return answer(await service.get_turn(turn_id))


@router.get("/turns/{turn_id}/events", tags=["turns"])
async def poll_events(
    request: Request,
    service: Service,
    turn_id: str,
    after: After = 0,
    wait: Annotated[float, Query(ge=0, allow_inf_nan=False, description="seconds; above 30 is 30")] = 0,
) -> Response:
    """Long-poll: the events after ``after`` as soon as there is one, or none after ``wait`` seconds."""
    reader = await service.open(turn_id, after)

    async def poll() -> tuple[list[Record], bytes]:
        # The status of the same moment: one that is newer than the events would hide the last of them.
        records = await reader.wait(min(wait, MAX_WAIT_S))
        return records, to_json({"status": reader.status, "last_seq": reader.after})

    with reader:
        polled = await while_connected(request, poll())
    if polled is None:
        return gone()
    records, head = polled
    events = b",".join(record.json for record in records)
    return Response(head[:-1] + b',"events":[' + events + b"]}", 200, None, "application/json")


@router.post("/turns/{turn_id}/cancel", responses=answers(Snapshot), tags=["turns"])
async def cancel_turn(service: Service, turn_id: str) -> Response:
    """Stop a turn; again, or after its end, the same answer."""
    return answer(await service.cancel_turn(turn_id))


@router.post("/turns/{turn_id}/cut", status_code=204, tags=["turns"])
async def cut_turn(service: Service, turn_id: str) -> Response:
    """End this server's streams of a turn as a broken line would: for the demo's cut button; nothing is lost."""
    service.cut_turn(turn_id)
    return Response(status_code=204)


@router.get("/images/{image_id}", tags=["images"])
async def get_image(service: Service, request: Request, image_id: str) -> Response:
    """The bytes of a picture; ``ETag`` is its sha256, one byte range is honoured (RFC 9110, section 14)."""
    return image_answer(await service.get_image(image_id), request.headers)


def image_answer(image: StoredImage, headers: Mapping[str, str]) -> Response:
    """A picture, a range of it, 304 or 416."""
    common = {
        "ETag": f'"{image.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    size = len(image.data)
    known = headers.get("if-none-match", "").strip()
    if known == "*" or f'"{image.sha256}"' in known:
        return Response(status_code=304, headers=common)
    unit, _, spec = headers.get("range", "").partition("=")
    first, dash, last = spec.strip().partition("-")
    one = unit.strip() == "bytes" and dash and "," not in spec and (first + last).isdecimal()
    if not one or headers.get("if-range", common["ETag"]) != common["ETag"]:
        return Response(image.data, 200, common, image.mime_type)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= min(size, stop):
        return Response(status_code=416, headers={**common, "Content-Range": f"bytes */{size}"})
    common["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(image.data[start:stop], 206, common, image.mime_type)


@router.post("/tickets", status_code=201, tags=["keys"])
async def make_ticket(place: HerePlace, body: TicketBody | None = None) -> Response:
    """A ticket for a browser's WebSocket (30 s, first message), or for the EventSource of one turn."""
    turn_id = body.turn_id if body else None
    if turn_id is not None:
        await place.service.get_turn(turn_id)
    ticket, life_s = place.door.ticket(turn_id)
    return answer({"ticket": ticket, "expires_in_s": life_s}, 201, {"Cache-Control": "no-store"})


@router.get("/models", tags=["server"])
async def list_models(service: Service) -> Response:
    """The model ids one may ask for."""
    return answer({"models": service.models()})


@router.get("/health", tags=["server"])
async def health(place: HerePlace) -> Response:
    """Readiness: 200 when a new turn would be taken, else 503."""
    ready = await place.service.ready()
    status = "ok" if ready else ("draining" if place.service.draining else "storage_unavailable")
    return answer({"status": status, "transport": place.transport, **place.service.about()}, 200 if ready else 503)


@router.get("/stats", responses=answers(ServerStats), tags=["server"])
async def stats(service: Service) -> Response:
    """What this server has counted."""
    return answer(await service.stats())


@router.get("/metrics", tags=["server"])
async def metrics(service: Service) -> Response:
    """The same for Prometheus (text exposition format)."""
    text = prometheus_text(await service.stats(), service.counters.events_total)
    return Response(text, media_type="text/plain; version=0.0.4")


@router.get("/", tags=["server"])
async def about(place: HerePlace) -> Response:
    """What this server is."""
    links = {"docs": "/docs", "openapi": "/openapi.json", "demo": "/demo", "health": "/health"}
    return answer({"name": "genai-protocols", "transport": place.transport, **place.service.about(), "links": links})


@router.get("/demo", tags=["server"], response_class=FileResponse)
async def demo(place: HerePlace) -> Response:
    """The chat in the browser, over this server's own protocol."""
    return _page(place, "demo.html")


@router.get("/race", tags=["server"], response_class=FileResponse)
async def race(place: HerePlace) -> Response:
    """The four HTTP transports side by side in one page."""
    return _page(place, "race.html")


@router.get("/web/lanes.json", include_in_schema=False)
async def lanes(place: HerePlace) -> Response:
    """Where the four HTTP servers of this machine listen, for the race."""
    ports = _ports(place)
    return answer({"transport": place.transport, "ports": ports}, headers={"Cache-Control": "no-store"})


def _ports(place: Place) -> dict[str, int]:
    settings = place.settings
    ports = {
        "rest": settings.rest_port,
        "ndjson": settings.ndjson_port,
        "sse": settings.sse_port,
        "websocket": settings.websocket_port,
    }
    ports[place.transport] = place.port
    return ports


def _page(place: Place, name: str) -> Response:
    """A page of ours: scripts and styles from here only, connections to the five servers only (CSP Level 3)."""
    # A policy has no form for IPv6 addresses; a page opened under one reaches its own server as 'self'.
    origins = sorted(origin for origin in place.door.origins or {"http:"} if "[" not in origin)
    # And the relays of the race's slow network, if they run (python -m compare relay --all).
    relays = [
        f"http://{name}:{port + _RELAY_OFFSET}"
        for name in ("127.0.0.1", "localhost")
        for port in _ports(place).values()
    ]
    origins += relays
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
        "require-trusted-types-for": "'script'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return FileResponse(_PAGES / name, headers=headers, media_type="text/html")


# -- the app ---------------------------------------------------------------------------------------------------------------


def create_app(place: Place, routes: APIRouter, title: str) -> FastAPI:
    """An app with the common routes and a leaf's own."""
    app = FastAPIOffline(title=title, version="1", redoc_url=None, static_url=f"{_PUBLIC_FOLDER}swagger")
    app.state.place = place
    app.include_router(routes)
    app.include_router(router)
    app.add_exception_handler(ChatError, _on_chat_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_exception)
    app.add_middleware(
        _Gate, door=place.door, max_body_bytes=place.settings.max_body_bytes, timeout_s=place.settings.request_timeout_s
    )
    origins = place.door.origins
    app.add_middleware(
        CORSMiddleware,
        allow_origins=sorted(origins) if origins is not None else ["*"],
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_EXPOSED_HEADERS,
    )
    app.mount("/web", StaticFiles(directory=_PAGES), name="web")
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
    place: Place = request.app.state.place
    place.service.log.error("internal error", path=request.url.path, why=type(error).__name__)
    return problem(ChatError("internal"))


class _Gate:
    """Host, Origin, key, media type and size, before any route: pure ASGI, because BaseHTTPMiddleware hides disconnects."""

    def __init__(self, app: ASGIApp, door: Door, max_body_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._door = door
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._door.check_host(headers.get("host"))
            if scope["type"] == "websocket":
                self._door.check_origin(headers.get("origin"))
                # Without a header a ticket may follow in the first message; with a wrong one nothing follows.
                scope["state"]["authenticated"] = self._door.key is None
                if "authorization" in headers or "x-api-key" in headers:
                    self._door.check_key(headers)
                    scope["state"]["authenticated"] = True
            else:
                if scope["method"] in ("POST", "DELETE"):
                    self._door.check_origin(headers.get("origin"))
                self._check_key(scope, headers)
                if scope["method"] == "POST":
                    receive = await self._read_body(headers, receive)
        except ChatError as error:
            if scope["type"] == "websocket":
                await receive()
            await _refuse(problem(error), scope, receive, send)
            return
        # An open stream would hold on to it for as long as it lasts.
        del headers
        await self._app(scope, receive, send)

    def _check_key(self, scope: Scope, headers: Mapping[str, str]) -> None:
        path: str = scope["path"]
        if self._door.key is None or path in _PUBLIC or path.startswith(_PUBLIC_FOLDER):
            return
        query = scope["query_string"].decode("latin-1")
        if path.startswith("/turns/") and path.endswith("/stream") and "ticket=" in query:
            tickets = parse_qs(query).get("ticket", [""])
            self._door.check_ticket(tickets[0], path.removeprefix("/turns/").removesuffix("/stream"))
            return
        self._door.check_key(headers)

    async def _read_body(self, headers: Mapping[str, str], receive: Receive) -> Receive:
        """The whole body, checked, and a ``receive`` that gives it in one message."""
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            if "expect" not in headers:
                await self._let_finish(receive)
            raise ChatError("payload_too_large")
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    body += message.get("body", b"")
                    if len(body) > self._max_body_bytes:
                        if message.get("more_body", False):
                            await self._let_finish(receive)
                        raise ChatError("payload_too_large")
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise ChatError("invalid_request", "The request was not finished in time.", http_status=408) from None
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media_type != "application/json" and not media_type.endswith("+json"):
            raise ChatError("unsupported_media_type")
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        return replay

    async def _let_finish(self, receive: Receive) -> None:
        """Take the rest of a body and forget it, for a while: closing on unread data resets the line, and the refusal is lost."""
        left = _LINGER_BODIES * self._max_body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


async def _refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if response.status_code in (408, 413):
        # What is left of the request is not read, so the connection cannot be used again.
        response.headers["Connection"] = "close"
    await response(scope, receive, send)


# -- running ---------------------------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: ours drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with a limit on how long a client may take over its request's head (slow-loris)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = asyncio.get_running_loop().call_later(self.config.request_timeout_s, self._late)  # type: ignore[attr-defined]

    def on_headers_complete(self) -> None:
        self._head.cancel()
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head.cancel()
        self._head = asyncio.get_running_loop().call_later(self.config.request_timeout_s, self._late)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.cancel()
        super().connection_lost(exc)

    def _late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket (RFC 6455) with three differences.

    The app may send ready frames, ``{"type": "websocket.send", "frames": bytes}``, any number in one write. A stopping server
    leaves the close to the app, which is told by ``websocket.disconnect`` with 1012. A peer that does not answer pings is dropped
    even when it does not read either.
    """

    async def send(self, message: Any) -> None:
        frames = message.get("frames")
        if frames is None:
            await super().send(message)
            return
        if not self.writable.is_set():
            await self.writable.wait()
        if self.disconnected or self.conn.state is not State.OPEN:
            raise ClientDisconnected
        self.transport.write(frames)

    def shutdown(self) -> None:
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        else:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012, "reason": None})

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()


async def serve(app: FastAPI, place: Place, listener: socket.socket, stopping: Stopping) -> None:
    """Run an app under uvicorn until a signal, then drain it."""
    settings = place.settings
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws=_WebSocketProtocol,
        ws_max_size=settings.max_body_bytes * 2,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.stall_timeout_s,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    config.request_timeout_s = settings.request_timeout_s  # type: ignore[attr-defined]
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await launch.first_of(stopping.drain(place.service), asyncio.shield(serving))
    server.should_exit = True
    server.force_exit = stopping.insisted.is_set()
    await serving


def main(transport: str, framework: str, routes: APIRouter, title: str, argv: Sequence[str] | None = None) -> int:
    """Run a leaf's server until a signal; the exit status."""

    async def serve_leaf(place: Place, listener: socket.socket, stopping: Stopping) -> None:
        await serve(create_app(place, routes, title), place, listener, stopping)

    return launch.main(transport, framework, serve_leaf, argv)
