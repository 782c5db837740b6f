"""The chat over plain REST: one request, one whole reply in JSON over HTTP/1.1 (RFC 9110, RFC 8259).

Nothing arrives before everything has arrived. A reply lost on the way is asked for again with the same ``Idempotency-Key``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from protocols import TRANSPORTS
from shared.reply import Picture, Reply
from shared.server import http
from shared.server.http import ChatBody, IdempotencyKey, ImageBody, Service

router = APIRouter(tags=["rest"])


@router.post("/chat", responses=http.answers(Reply))
async def chat(request: Request, service: Service, body: ChatBody, key: IdempotencyKey = None) -> Response:
    """Ask, and get the whole reply; a failed turn answers with its error."""
    reader = await service.start_chat(body.message, session_id=body.session_id, model_id=body.model_id, request_id=key)
    fold = await http.while_connected(request, reader.whole())
    return http.answer(fold.reply()) if fold else http.gone()


@router.post("/images", responses=http.answers(Picture))
async def image(
    request: Request,
    service: Service,
    body: ImageBody,
    key: IdempotencyKey = None,
    accept: Annotated[str, Header(description="image/*: the bytes; else JSON with base64")] = "application/json",
) -> Response:
    """Ask for a picture, and get the whole of it."""
    reader = await service.start_image(body.prompt, size=body.size, session_id=body.session_id, request_id=key)
    fold = await http.while_connected(request, reader.whole())
    if fold is None:
        return http.gone()
    picture = fold.picture()
    if accept.startswith("image/"):
        return http.image_answer(await service.get_image(picture.image_id), {})
    return http.answer(picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal; the exit status."""
    return http.main(TRANSPORTS, "rest", "FastAPI", router, "GenAI chat over REST", argv)


if __name__ == "__main__":
    raise SystemExit(main())
