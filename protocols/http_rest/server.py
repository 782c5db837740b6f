"""The chat over plain REST: one request, one whole reply in JSON over HTTP/1.1 (RFC 9110, RFC 8259).

    POST /chat    {"message": "…", "session_id"?: "…", "model_id"?: "…"}
      200         {"turn_id", "session_id", "model", "status", "text", "finish_reason", "usage", "message_count", …}
    POST /images  {"prompt": "…", "size"?: "1024x1024", "session_id"?: "…"}
      200         {"turn_id", "image_id", "mime_type", "width", "height", "image": base64, "sha256", …}
      200         the bytes of the picture, where ``Accept`` prefers its type, such as ``image/*``, to JSON

Nothing arrives before everything has arrived. A client whose answer was lost sends the request again with the same
``Idempotency-Key`` and gets the reply of the same turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request, Response

from protocols import TRANSPORTS
from shared.reply import Picture, Reply
from shared.server import http
from shared.server.http import ChatBody, IdempotencyKey, ImageBody, Service

router = http.Routes("REST")


@router.post("/chat", responses=http.openapi_json(Reply))
async def chat(request: Request, service: Service, body: ChatBody, key: IdempotencyKey = None) -> Response:
    """Ask, and get the whole reply. A failed turn answers with its error."""
    reader = await service.start_chat(body.message, session_id=body.session_id, model_id=body.model_id, request_id=key)
    fold = await http.while_connected(request, reader.whole())
    return http.json_response(fold.reply()) if fold else http.no_reader()


@router.post("/images", responses=http.openapi_json(Picture, or_bytes=http.PICTURES))
async def image(request: Request, service: Service, body: ImageBody, key: IdempotencyKey = None) -> Response:
    """Ask for a picture, and get the whole of it. Where ``Accept`` prefers its media type to JSON, the answer is its bytes."""
    reader = await service.start_image(body.prompt, size=body.size, session_id=body.session_id, request_id=key)
    fold = await http.while_connected(request, reader.whole())
    if fold is None:
        return http.no_reader()
    picture = fold.picture()
    if http.prefers(request.headers, picture.mime_type, "application/json"):
        return Response(picture.image, headers={"Content-Type": picture.mime_type, "Vary": "Accept"})
    return http.json_response(picture, headers={"Vary": "Accept"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal, and return the exit status."""
    return http.main(TRANSPORTS, "rest", "FastAPI", router, "GenAI chat over REST", argv)


if __name__ == "__main__":
    raise SystemExit(main())
