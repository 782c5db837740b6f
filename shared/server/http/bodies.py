"""What a request brings: its JSON body, its key, its cursor, and the service it is for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict

from shared.chat.service import ChatService
from shared.server.context import ServerContext


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


async def _service(request: Request) -> ChatService:
    service: ChatService = request.app.state.context.service
    return service


async def _place(request: Request) -> ServerContext:
    context: ServerContext = request.app.state.context
    return context


Service = Annotated[ChatService, Depends(_service)]
Context = Annotated[ServerContext, Depends(_place)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", description="1-255 printable ASCII characters")]
After = Annotated[int, Query(description="the last seq the client has")]
