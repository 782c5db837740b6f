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
is sent again with the same ``Idempotency-Key`` gets the events of the same turn, after ``Last-Event-ID`` where it has one.

A terminal event of epoch 1 has ``id: <turn_id>/<seq>.1``. When the store has lost events that a client was sent, ``event:
cursor_lost`` with ``id: <turn_id>/0`` says so, and all events follow from the first one: any status but 200 ends an EventSource.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, NamedTuple

from fastapi import Header, Query, Response
from sse_starlette.sse import EventSourceResponse

from protocols import TRANSPORTS
from shared.chat.checks import bounded_int
from shared.chat.service import ChatService
from shared.chat.turn_log import Reader
from shared.errors import ChatError
from shared.events import CursorLost, to_json
from shared.server import http
from shared.server.http import ChatBody, IdempotencyKey, ImageBody, Service
from shared.store.record import Record

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b":\n\n"
STREAM = "/turns/{turn_id}/stream"
# Beyond the last event of every log.
MAX_SEQ = 2**63 - 1
_CURSOR = re.compile(r"(?P<turn_id>.+)/(?P<after>[0-9]+)(\.(?P<epoch>[0-9]+))?", re.DOTALL)

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="the cursor, as the last `id:` gave it")]

LastEventIds = Annotated[list[str] | None, Query(alias="lastEventId", max_length=1, description="as Last-Event-ID")]

router = http.Routes("Server-Sent Events")


class Cursor(NamedTuple):
    """What an ``id:`` says: the client has the turn up to seq ``after``, as it was in ``epoch``."""

    turn_id: str
    after: int
    epoch: int


@router.post("/chat/stream", response_class=EventSourceResponse, responses=http.openapi_events(MEDIA_TYPE))
async def chat(
    service: Service, body: ChatBody, key: IdempotencyKey = None, last_event_id: LastEventId = None
) -> Response:
    """Ask, and get the turn's events as they happen. With ``Last-Event-ID`` the turn of the key goes on."""
    cursor = await _own_cursor(service, key, last_event_id)
    reader = await service.start_chat(body.message, session_id=body.session_id, model_id=body.model_id, request_id=key)
    return await _answer_post(service, reader, cursor)


@router.post("/images/stream", response_class=EventSourceResponse, responses=http.openapi_events(MEDIA_TYPE))
async def image(
    service: Service, body: ImageBody, key: IdempotencyKey = None, last_event_id: LastEventId = None
) -> Response:
    """Ask for a picture, and get the previews and the picture in pieces. ``Last-Event-ID`` is as for a chat."""
    cursor = await _own_cursor(service, key, last_event_id)
    reader = await service.start_image(body.prompt, size=body.size, session_id=body.session_id, request_id=key)
    return await _answer_post(service, reader, cursor)


@router.get(
    STREAM,
    response_class=EventSourceResponse,
    responses=http.openapi_events(MEDIA_TYPE) | {204: {"description": "Nothing follows the cursor"}},
)
async def resume(
    service: Service,
    turn_id: str,
    after: http.After = 0,
    epoch: http.Epoch = 0,
    last_event_id: LastEventId = None,
    polyfill_ids: LastEventIds = None,
) -> Response:
    """Go on from a cursor. The status is 204 when nothing follows it, which ends EventSource.

    The cursor is ``Last-Event-ID``, else ``?lastEventId=``, which event-source-polyfill sends, else ``?after=`` and ``?epoch=``.
    """
    cursor = last_event_id or (polyfill_ids[0] if polyfill_ids else "")
    if cursor:
        named, after, epoch = _parse(cursor)
        if named != turn_id:
            raise ChatError(
                "invalid_request", "Last-Event-ID is not a cursor of this turn; send the last id of its stream."
            )
    reader = await service.open(turn_id, after, epoch, rewinds=True)
    if reader.complete:
        return Response(status_code=204)
    return _answer(service, reader)


async def _own_cursor(service: ChatService, key: str | None, last_event_id: str | None) -> Cursor | None:
    """The cursor of a POST that goes on with its turn; None for a POST that starts one.

    fetch-event-source sends such a POST. It never starts a turn: raises ``invalid_request`` unless the key is that of the turn
    which the cursor names.
    """
    if not last_event_id:
        return None
    cursor = _parse(last_event_id)
    try:
        own = key is not None and (await service.open(cursor.turn_id, 0)).request_id == key
    except ChatError as error:
        if error.code != "turn_not_found":
            raise
        own = False
    if not own:
        raise ChatError(
            "invalid_request", "To go on with a turn, send Last-Event-ID with the Idempotency-Key of that turn."
        )
    return cursor


def _parse(last_event_id: str) -> Cursor:
    """The cursor in an ``id:`` that a stream has sent. Raises ``invalid_request`` for any other text."""
    match = _CURSOR.fullmatch(last_event_id)
    if match is None:
        raise ChatError(
            "invalid_request", "Last-Event-ID is not a cursor of this server; send the last id of the stream."
        )
    return Cursor(match["turn_id"], bounded_int(match["after"], MAX_SEQ), bounded_int(match["epoch"] or "0", MAX_SEQ))


async def _answer_post(service: ChatService, reader: Reader, cursor: Cursor | None) -> Response:
    """The events of a turn from its start, or after a cursor.

    At the end of the log the answer is an empty 200: after a 204 a client may repeat the POST.
    """
    if cursor is not None:
        reader = await service.open(*cursor, rewinds=True)
        if reader.complete:
            return Response(media_type=MEDIA_TYPE)
    return _answer(service, reader)


def _answer(service: ChatService, reader: Reader) -> Response:
    headers = {
        "Content-Type": f"{MEDIA_TYPE}; charset=utf-8",
        "Content-Location": f"/turns/{reader.turn_id}",
        # no-transform keeps compressing proxies off, which would collect the events (RFC 9111, section 5.2.2.6).
        "Cache-Control": "no-store, no-transform",
        # Keeps nginx from collecting the answer before it passes the answer on.
        "X-Accel-Buffering": "no",
    }
    if service.settings.incremental:
        headers["Incremental"] = "?1"
    # ping=0: the library sends no heartbeats, because the log gives them, on all transports alike.
    return http.OpenBody(EventSourceResponse(_stream(service, reader), headers=headers, ping=0), reader, frame)


async def _stream(service: ChatService, reader: Reader) -> AsyncIterator[bytes]:
    """The body. Events that are there at the same time are one write."""
    retry = b"retry: %d\n\n" % service.settings.retry_ms
    yield retry
    with reader:
        while True:
            async for records in reader:
                # Cached: an event is framed once for all readers.
                yield b"".join([record.framed(frame) for record in records]) or HEARTBEAT
            lost = reader.rewind()
            if lost is None:
                break
            yield lost_frame(lost)
    if not reader.complete:
        # This server stops and the turn goes on in another process. EventSource comes back after a clean end, not after a 503.
        yield retry


def frame(record: Record) -> bytes:
    """One event: its type, its cursor, its JSON; a blank line dispatches it."""
    cursor = b"%b/%d" % (record.turn_id.encode(), record.seq)
    if record.epoch:
        cursor += b".%d" % record.epoch
    return b"event: %b\nid: %b\ndata: %b\n\n" % (record.type.encode(), cursor, record.json)


def lost_frame(lost: CursorLost) -> bytes:
    """The store has lost events that were sent. With this ``id:`` a client that comes back reads from the first event."""
    return b"event: cursor_lost\nid: %b/0\ndata: %b\n\n" % (lost.turn_id.encode(), to_json(lost))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal, and return the exit status."""
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
