"""The chat over Server-Sent Events: ``text/event-stream`` over HTTP/1.1 (WHATWG HTML, section 9.2).

    POST /chat/stream        {"message": "…", "session_id"?: "…", "model_id"?: "…"}
    POST /images/stream      {"prompt": "…", "size"?: "1024x1024", "session_id"?: "…"}
    GET /turns/{id}/stream
      200                    retry: 500

                             event: turn_started
                             id: <turn_id>/1
                             data: {"type":"turn_started","turn_id":"…","seq":1,…}
                             …

``event:`` is the event's type, ``id:`` its cursor, ``data:`` its JSON; a comment is a heartbeat. A browser's EventSource
comes back by itself with ``Last-Event-ID``, so this is the one transport whose resume is part of the protocol. A POST that
is sent again with the same ``Idempotency-Key`` gets the events of the same turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Response
from sse_starlette.sse import EventSourceResponse

from protocols import TRANSPORTS
from shared.chat.service import ChatService
from shared.chat.turn_log import Reader
from shared.errors import ChatError
from shared.server import http
from shared.server.http import ChatBody, ImageBody, Service
from shared.store.record import Record

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b":\n\n"
STREAM = "/turns/{turn_id}/stream"

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", description=http.KEY_DESCRIPTION)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="the cursor, as the last `id:` gave it")]

router = APIRouter(tags=["sse"])


@router.post("/chat/stream", response_class=EventSourceResponse, responses=http.openapi_events(MEDIA_TYPE))
async def chat(service: Service, body: ChatBody, key: IdempotencyKey = None) -> Response:
    """Ask, and get the turn's events as they happen."""
    reader = await service.start_chat(body.message, session_id=body.session_id, model_id=body.model_id, request_id=key)
    return _answer(service, reader)


@router.post("/images/stream", response_class=EventSourceResponse, responses=http.openapi_events(MEDIA_TYPE))
async def image(service: Service, body: ImageBody, key: IdempotencyKey = None) -> Response:
    """Ask for a picture, and get its previews and itself in pieces."""
    reader = await service.start_image(body.prompt, size=body.size, session_id=body.session_id, request_id=key)
    return _answer(service, reader)


@router.get(STREAM, response_class=EventSourceResponse, responses=http.openapi_events(MEDIA_TYPE))
async def resume(service: Service, turn_id: str, after: http.After = 0, last_event_id: LastEventId = None) -> Response:
    """Go on from a cursor: ``Last-Event-ID``, else ``?after=``; 204 when there is nothing more, which ends EventSource."""
    reader = await service.open(turn_id, after if last_event_id is None else _cursor(turn_id, last_event_id))
    if reader.complete:
        return Response(status_code=204)
    return _answer(service, reader)


def _cursor(turn_id: str, last_event_id: str) -> int:
    """The seq in an ``id:`` of this turn. Raises ``invalid_request`` for any other text, also for another turn's ``id:``."""
    named, _, seq = last_event_id.rpartition("/")
    if named != turn_id or not (seq.isascii() and seq.isdecimal()):
        raise ChatError("invalid_request", "Last-Event-ID is not a cursor of this turn.")
    return int(seq)


def _answer(service: ChatService, reader: Reader) -> Response:
    headers = {
        "Content-Type": f"{MEDIA_TYPE}; charset=utf-8",
        "Content-Location": f"/turns/{reader.turn_id}",
        "Cache-Control": "no-store",
        # Keeps nginx from collecting the answer before it passes the answer on.
        "X-Accel-Buffering": "no",
    }
    # ping=0: the library sends no heartbeats, because the log gives them, on all transports alike.
    return EventSourceResponse(_stream(service, reader), headers=headers, ping=0)


async def _stream(service: ChatService, reader: Reader) -> AsyncIterator[bytes]:
    """The body. Several events that are there at once are one write."""
    retry = b"retry: %d\n\n" % service.settings.retry_ms
    yield retry
    with reader:
        async for records in reader:
            # Cached: an event is framed once for all readers.
            yield b"".join([record.framed(frame) for record in records]) or HEARTBEAT
    if not reader.complete:
        # This server stops and the turn goes on in another process. EventSource comes back after a clean end, not after a 503.
        yield retry


def frame(record: Record) -> bytes:
    """One event: its type, its cursor, its JSON; a blank line dispatches it."""
    cursor = b"%b/%d" % (record.turn_id.encode(), record.seq)
    return b"event: %b\nid: %b\ndata: %b\n\n" % (record.type.encode(), cursor, record.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal; the exit status."""
    return http.main(
        TRANSPORTS,
        "sse",
        "FastAPI + sse-starlette",
        router,
        "GenAI chat over Server-Sent Events",
        argv,
        opened_by_ticket=STREAM,
    )


if __name__ == "__main__":
    raise SystemExit(main())
