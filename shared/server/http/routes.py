"""The routes that all four HTTP servers have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from shared.chat.counters import prometheus_text
from shared.errors import ChatError
from shared.events import Status, to_json
from shared.reply import Snapshot
from shared.server.context import ServerContext
from shared.server.echo import Echo, echo_enabled, shown
from shared.server.http.answers import json_response, no_reader, while_connected
from shared.server.http.bodies import (
    After,
    Context,
    Epoch,
    IdempotencyKey,
    Limit,
    MessagesLimit,
    Service,
    SessionBody,
    TicketBody,
    TurnBody,
    Wait,
)
from shared.server.http.direct_route import Routes
from shared.server.http.images import image_response
from shared.server.http.negotiation import prefers
from shared.server.http.pages import page
from shared.server.http.schemas import PICTURES, openapi_bytes, openapi_cursor_lost, openapi_json
from shared.session import MessagePage, ModelInfo, Session, SessionPage
from shared.stats import ServerStats
from shared.store.record import Record

MAX_WAIT_S = 30.0
ECHO = "/echo"
PICTURE_FOLDER = "/images/"


class Models(msgspec.Struct, frozen=True):
    """The model ids that a request may name."""

    models: list[ModelInfo]


class Health(msgspec.Struct, frozen=True):
    """Readiness. The answer to a ``Host`` that is not allowed has the status alone."""

    status: Literal["ok", "draining", "storage_unavailable"]
    transport: str = ""
    provider: str = ""
    model: str = ""
    image_provider: str = ""
    image_model: str = ""
    framework: str = ""
    hint: str = ""


class About(msgspec.Struct, frozen=True):
    """What a server is, with the paths to read on."""

    name: str
    transport: str
    provider: str
    model: str
    image_provider: str
    image_model: str
    framework: str
    hint: str
    links: dict[str, str]


class Ticket(msgspec.Struct, frozen=True):
    """A ticket and its life in seconds."""

    ticket: str
    expires_in_s: float


class Poll(msgspec.Struct, frozen=True):
    """The answer of a long poll; ``events`` are JSON objects as on the streams."""

    status: Status
    last_seq: int
    events: list[dict[str, Any]]


_WITHOUT_BYTES: dict[int | str, dict[str, Any]] = {
    304: {"description": "Unchanged"},
    412: {"description": "The picture is none of those that If-Match names"},
    416: {"description": "The range begins after the last byte"},
}

router = Routes()
demonstration = Routes()
probing = Routes()


def common_routes(context: ServerContext) -> list[BaseRoute]:
    """The routes. Demonstrations are left out where a key is set, and ``/echo`` is there where PROBE is on."""
    demonstrations = demonstration.routes if context.access.key is None else []
    probes = probing.routes if echo_enabled(context) else []
    return [*router.routes, *demonstrations, *probes]


@router.post("/turns", status_code=202, responses=openapi_json(Snapshot, status=202), tags=["turns"])
async def start_turn(service: Service, body: TurnBody, key: IdempotencyKey = None) -> Response:
    """Start a turn and do not wait. The turn runs to its end without a reader."""
    if (body.message is None) == (body.prompt is None):
        raise ChatError("invalid_request", "Give either message or prompt, not both.")
    if body.message is not None and body.size is not None:
        raise ChatError("invalid_request", "size is for a picture; send it with prompt, or leave it out.")
    if body.message is not None:
        reader = await service.start_chat(
            body.message, session_id=body.session_id, model_id=body.model_id, request_id=key, attended=False
        )
    else:
        reader = await service.start_image(
            body.prompt or "", size=body.size, session_id=body.session_id, request_id=key, attended=False
        )
    turn = await service.snapshot(reader)
    return json_response(turn, 202, {"Location": f"/turns/{turn.turn_id}"})


@router.get("/turns/{turn_id}", responses=openapi_json(Snapshot), tags=["turns"])
async def get_turn(service: Service, turn_id: str) -> Response:
    """Read where a turn stands."""
    return json_response(await service.get_turn(turn_id))


@router.get("/turns/{turn_id}/events", responses=openapi_json(Poll) | openapi_cursor_lost(), tags=["turns"])
async def poll_events(
    request: Request,
    service: Service,
    turn_id: str,
    after: After = 0,
    epoch: Epoch = 0,
    wait: Wait = 0,
) -> Response:
    """Wait for the events after a cursor (long-polling).

    The answer comes as soon as there is an event after ``after``, or after ``wait`` seconds without one.
    """
    reader = await service.open(turn_id, after, epoch)

    async def poll() -> tuple[list[Record], bytes]:
        # The status is that of the last of these events: a newer status would hide the events that are still to come.
        records = await reader.wait(0 if getattr(request.state, "head", False) else min(wait, MAX_WAIT_S))
        reader.check_cursor()
        return records, to_json({"status": reader.status, "last_seq": reader.after})

    with reader:
        polled = await while_connected(request, poll())
    if polled is None:
        return no_reader()
    records, head = polled
    events = b",".join(record.json for record in records)
    return Response(head[:-1] + b',"events":[' + events + b"]}", 200, None, "application/json")


@router.post("/turns/{turn_id}/cancel", responses=openapi_json(Snapshot), tags=["turns"])
async def cancel_turn(service: Service, turn_id: str) -> Response:
    """Stop a turn. A repeated cancel, or a cancel after the turn's end, gets the same answer."""
    return json_response(await service.cancel_turn(turn_id))


@demonstration.post("/turns/{turn_id}/cut", status_code=204, tags=["turns"])
async def cut_turn(service: Service, turn_id: str) -> Response:
    """Cut this server's streams of a turn, as a broken line would. The clients resume; the demo's cut button shows it."""
    service.cut_turn(turn_id)
    return Response(status_code=204)


@router.post("/sessions", status_code=201, responses=openapi_json(Session, status=201), tags=["sessions"])
async def create_session(service: Service, body: SessionBody | None = None) -> Response:
    """Make a session."""
    session = await service.create_session(body.model_id if body else None)
    return json_response(session, 201, {"Location": f"/sessions/{session.session_id}"})


@router.get("/sessions", responses=openapi_json(SessionPage), tags=["sessions"])
async def list_sessions(
    service: Service, limit: Limit = None, cursor: Annotated[str | None, Query()] = None
) -> Response:
    """List the sessions, newest first."""
    return json_response(await service.list_sessions(limit, cursor))


@router.get("/sessions/{session_id}", responses=openapi_json(Session), tags=["sessions"])
async def get_session(service: Service, session_id: str) -> Response:
    """Read one session."""
    return json_response(await service.get_session(session_id))


@router.get("/sessions/{session_id}/messages", responses=openapi_json(MessagePage), tags=["sessions"])
async def list_messages(
    service: Service,
    session_id: str,
    limit: MessagesLimit = None,
    cursor: Annotated[str | None, Query()] = None,
) -> Response:
    """List a session's messages, in order. A page ends before its texts pass 3 MiB."""
    return json_response(await service.list_messages(session_id, limit, cursor))


@router.post("/sessions/{session_id}/clear", status_code=204, tags=["sessions"])
async def clear_session(service: Service, session_id: str) -> Response:
    """Delete a session's messages. The logs of its turns stay."""
    await service.clear_session(session_id)
    return Response(status_code=204)


@router.delete("/sessions/{session_id}", status_code=204, tags=["sessions"])
async def delete_session(service: Service, session_id: str) -> Response:
    """Delete a session and its turns."""
    await service.delete_session(session_id)
    return Response(status_code=204)


@router.get(
    PICTURE_FOLDER + "{image_id}",
    response_class=Response,
    responses=openapi_bytes(*PICTURES) | openapi_bytes(*PICTURES, status=206) | _WITHOUT_BYTES,
    tags=["images"],
)
async def get_image(service: Service, request: Request, image_id: str) -> Response:
    """Read the bytes of a picture. ``ETag`` is its sha256, one byte range is honoured (RFC 9110, section 14)."""
    image = await service.get_image(image_id)
    return image_response(image.data, image.mime_type, image.sha256, request.headers)


@router.post("/tickets", status_code=201, responses=openapi_json(Ticket, status=201), tags=["keys"])
async def make_ticket(context: Context, body: TicketBody | None = None) -> Response:
    """Make a ticket, with which a page connects without the key.

    It is for a WebSocket, as the first message, or with ``turn_id`` for the EventSource of that turn. ``expires_in_s`` is its life.
    """
    turn_id = body.turn_id if body else None
    if turn_id is not None:
        await context.service.get_turn(turn_id)
    ticket, life_s = context.access.ticket(turn_id)
    return json_response(Ticket(ticket, life_s), 201, {"Cache-Control": "no-store"})


@router.get("/models", responses=openapi_json(Models), tags=["server"])
async def list_models(service: Service) -> Response:
    """List the model ids that a request may name."""
    return json_response(Models(service.models()))


@router.get("/health", responses=openapi_json(Health) | openapi_json(Health, status=503), tags=["server"])
async def health(context: Context, request: Request) -> Response:
    """Ask whether the server is ready. The status is 200 when a new turn would be accepted, else 503.

    The answer to a ``Host`` that is not allowed has the status alone.
    """
    ready = await context.service.ready()
    status = {"status": "ok" if ready else ("draining" if context.service.draining else "storage_unavailable")}
    stranger = getattr(request.state, "stranger", False)
    more = {} if stranger else {"transport": context.transport.word, **context.service.about()}
    return json_response({**status, **more}, 200 if ready else 503)


@probing.get(ECHO, responses=openapi_json(Echo), tags=["server"])
@probing.post(ECHO, responses=openapi_json(Echo), tags=["server"], operation_id="echo_body")
async def echo(request: Request) -> Response:
    """Show how this request arrived, after every proxy on its way.

    Of a header that may be a secret only the length is told.
    """
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    body = await request.body()
    version = request.scope["http_version"]
    return json_response(Echo(request.method, version, shown(headers), len(body)))


@router.get("/stats", responses=openapi_json(ServerStats), tags=["server"])
async def stats(service: Service) -> Response:
    """Read what this server has counted."""
    return json_response(await service.stats())


@router.get("/metrics", response_class=Response, responses=openapi_bytes("text/plain"), tags=["server"])
async def metrics(service: Service) -> Response:
    """Read the counters as Prometheus does. The format is its text exposition format."""
    text = prometheus_text(await service.stats(), service.counters.events_total)
    return Response(text, media_type="text/plain; version=0.0.4")


@router.get("/", responses=openapi_json(About, or_bytes=("text/html",)), tags=["server"])
async def about(context: Context, request: Request) -> Response:
    """Ask what this server is. The answer is a page where ``Accept`` prefers it to JSON, as a browser's does."""
    vary = {"Vary": "Accept"}
    if prefers(request.headers, "text/html", "application/json"):
        return await page(context, request, "index.html", vary)
    links = {"docs": "/docs", "openapi": "/openapi.json", "demo": "/demo", "race": "/race", "health": "/health"}
    said = {"name": "genai-protocols", "transport": context.transport.word, **context.service.about()}
    return json_response({**said, "links": links}, headers=vary)
