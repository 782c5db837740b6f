"""The chat over streamable HTTP: newline-delimited JSON in one chunked answer over HTTP/1.1 (NDJSON; RFC 9112, section 7.1).

One event a line, a blank line as a heartbeat. The protocol has no resume of its own: the cursor is a query parameter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Response
from starlette.responses import StreamingResponse

from protocols import TRANSPORTS
from shared.chat.service import ChatService
from shared.chat.turn_log import Reader
from shared.server import http
from shared.server.http import ChatBody, IdempotencyKey, ImageBody, Service
from shared.store.record import Record

MEDIA_TYPE = "application/x-ndjson"
HEARTBEAT = b"\n"

router = APIRouter(tags=["ndjson"])


@router.post("/chat/stream", response_class=StreamingResponse, responses=http.streams(MEDIA_TYPE))
async def chat(service: Service, body: ChatBody, key: IdempotencyKey = None) -> Response:
    """Ask, and get the turn's events as they happen."""
    reader = await service.start_chat(body.message, session_id=body.session_id, model_id=body.model_id, request_id=key)
    return _answer(service, reader)


@router.post("/images/stream", response_class=StreamingResponse, responses=http.streams(MEDIA_TYPE))
async def image(service: Service, body: ImageBody, key: IdempotencyKey = None) -> Response:
    """Ask for a picture, and get its previews and itself in pieces."""
    reader = await service.start_image(body.prompt, size=body.size, session_id=body.session_id, request_id=key)
    return _answer(service, reader)


@router.get("/turns/{turn_id}/stream", response_class=StreamingResponse, responses=http.streams(MEDIA_TYPE))
async def resume(service: Service, turn_id: str, after: http.After = 0) -> Response:
    """Go on from a cursor, ``?after=``; empty when there is nothing more."""
    reader = await service.open(turn_id, after)
    return _answer(service, reader)


def _answer(service: ChatService, reader: Reader) -> Response:
    return StreamingResponse(_stream(reader), media_type=MEDIA_TYPE, headers=http.stream_headers(reader.turn_id))


async def _stream(reader: Reader) -> AsyncIterator[bytes]:
    """The body: ready bytes, several events in one write when several are there.

    When we are closing and the turn goes on elsewhere it ends without a terminal event: the client comes back.
    """
    with reader:
        async for records in reader:
            yield b"".join([record.framed(frame) for record in records]) or HEARTBEAT


def frame(record: Record) -> bytes:
    """One event: its JSON and a line feed."""
    return record.json + b"\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal; the exit status."""
    return http.main(TRANSPORTS, "ndjson", "FastAPI", router, "GenAI chat over streamable HTTP (NDJSON)", argv)


if __name__ == "__main__":
    raise SystemExit(main())
