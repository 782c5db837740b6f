"""What a request brings: its JSON body, its cursor, and the service it is for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict

from shared.chat.service import ChatService
from shared.server.context import ServerContext

KEY_DESCRIPTION = "1-255 printable ASCII characters; a request that is sent again with its key gets the same turn"


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


async def _context(request: Request) -> ServerContext:
    context: ServerContext = request.app.state.context
    return context


async def _service(request: Request) -> ChatService:
    return (await _context(request)).service


Context = Annotated[ServerContext, Depends(_context)]
Service = Annotated[ChatService, Depends(_service)]
After = Annotated[int, Query(description="the last seq the client has")]
