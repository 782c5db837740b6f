"""The chat over streamable HTTP: newline-delimited JSON in one chunked answer over HTTP/1.1 (NDJSON; RFC 9112, section 7.1).

    POST /chat/stream             {"message": "…", "session_id"?: "…", "model_id"?: "…"}
    POST /images/stream           {"prompt": "…", "size"?: "1024x1024", "session_id"?: "…"}
    GET /turns/{id}/stream?after=N&epoch=E
      200                         {"type":"turn_started","turn_id":"…","seq":1,…}
                                  {"type":"chunk","turn_id":"…","seq":2,"at":…,"text":"Hello"}
                                  …

One event is one line; a blank line is a heartbeat. The protocol has no resume of its own, so the cursor is a query parameter. A
POST that is sent again with the same ``Idempotency-Key`` gets the events of the same turn. A cursor that lies in what the store has
lost is refused with 409 ``cursor_lost``; while the stream is open, a line says so, and the stream ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from fastapi import Response
from starlette.responses import StreamingResponse

from protocols import TRANSPORTS
from shared.chat.service import ChatService
from shared.chat.turn_log import Reader
from shared.events import to_json
from shared.server import http
from shared.server.http import ChatBody, IdempotencyKey, ImageBody, Service
from shared.store.record import Record

MEDIA_TYPE = "application/x-ndjson"
HEARTBEAT = b"\n"
STREAM = "/turns/{turn_id}/stream"

router = http.Routes("NDJSON")


@router.post("/chat/stream", response_class=StreamingResponse, responses=http.openapi_events(MEDIA_TYPE))
async def chat(service: Service, body: ChatBody, key: IdempotencyKey = None) -> Response:
    """Ask, and get the turn's events as they happen."""
    reader = await service.start_chat(body.message, session_id=body.session_id, model_id=body.model_id, request_id=key)
    return _answer(service, reader)


@router.post("/images/stream", response_class=StreamingResponse, responses=http.openapi_events(MEDIA_TYPE))
async def image(service: Service, body: ImageBody, key: IdempotencyKey = None) -> Response:
    """Ask for a picture, and get the previews and the picture in pieces."""
    reader = await service.start_image(body.prompt, size=body.size, session_id=body.session_id, request_id=key)
    return _answer(service, reader)


@router.get(
    STREAM,
    response_class=StreamingResponse,
    responses=http.openapi_events(MEDIA_TYPE) | http.openapi_cursor_lost(),
)
async def resume(service: Service, turn_id: str, after: http.After = 0, epoch: http.Epoch = 0) -> Response:
    """Go on from a cursor. It is ``?after=`` and ``?epoch=``; the answer is empty when nothing follows it."""
    return _answer(service, await service.open(turn_id, after, epoch))


def _answer(service: ChatService, reader: Reader) -> Response:
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Location": f"/turns/{reader.turn_id}",
        # no-transform keeps compressing proxies off, which would collect the events (RFC 9111, section 5.2.2.6).
        "Cache-Control": "no-store, no-transform",
        # Keeps nginx from collecting the answer before it passes the answer on.
        "X-Accel-Buffering": "no",
    }
    if service.settings.incremental:
        headers["Incremental"] = "?1"
    return http.OpenBody(StreamingResponse(_stream(reader), headers=headers), reader, frame)


async def _stream(reader: Reader) -> AsyncIterator[bytes]:
    """The body. Events that are there at the same time are one write.

    When this server stops and the turn goes on in another process, the body ends without a terminal event; the client comes back.
    """
    with reader:
        async for records in reader:
            # Cached: an event is framed once for all readers.
            yield b"".join([record.framed(frame) for record in records]) or HEARTBEAT
    if reader.lost is not None:
        # The client reads the turn again, from its first event.
        yield to_json(reader.lost) + b"\n"


def frame(record: Record) -> bytes:
    """One event: its JSON and a line feed."""
    return record.json + b"\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal, and return the exit status."""
    return http.main(
        TRANSPORTS,
        "ndjson",
        "FastAPI",
        router,
        "GenAI chat over streamable HTTP (NDJSON)",
        argv,
        opened_by_ticket=STREAM,
    )


if __name__ == "__main__":
    raise SystemExit(main())
