"""What a request brings: its JSON body, its cursor, and the service it is for."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from shared.chat.checks import KEY_PATTERN, SIZE_PATTERN
from shared.chat.service import MAX_LIST_LIMIT, MAX_MESSAGES_LIMIT, ChatService
from shared.server.context import ServerContext

# The limits in ``json_schema_extra`` are for /openapi.json alone: the chat checks them, with the same words on every transport.
Text = Annotated[
    str, Field(description="at most MAX_MESSAGE_CHARS characters, not blank", json_schema_extra={"pattern": r"\S"})
]
Size = Annotated[
    str | None, Field(description="pixels; 1024x1024 when absent", json_schema_extra={"pattern": f"^{SIZE_PATTERN}$"})
]

ModelId = Annotated[str | None, Field(json_schema_extra={"minLength": 1})]

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class _Body(BaseModel):
    """A request body: unknown fields are ignored, types are never coerced."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


class ChatBody(_Body):
    """A message; without ``session_id`` a session is made and named in ``turn_started``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"message": "Hello"}]})

    message: Text
    session_id: str | None = None
    model_id: ModelId = None


class ImageBody(_Body):
    """A prompt; ``size`` is WIDTHxHEIGHT, 1024x1024 when absent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "A red bridge", "size": "256x256"}]})

    prompt: Text
    size: Size = None
    session_id: str | None = None


class TurnBody(_Body):
    """A message or a prompt: what ``POST /chat`` or ``POST /images`` would accept."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"message": "Hello"}]})

    message: Text | None = None
    prompt: Text | None = None
    size: Size = None
    session_id: str | None = None
    model_id: ModelId = None


class SessionBody(_Body):
    """``model_id`` null: the server's default, resolved for each turn."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    model_id: ModelId = None


class TicketBody(_Body):
    """``turn_id``: a ticket for that turn's stream; absent: for the first message of a WebSocket."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    turn_id: str | None = None


async def _context(request: Request) -> ServerContext:
    context: ServerContext = request.app.state.context
    return context


async def _service(request: Request) -> ChatService:
    return (await _context(request)).service


def _number(given: Any) -> Any:
    """Raises ValueError for text that Python reads as a number and JSON does not have, such as 1_0."""
    if isinstance(given, str) and not _NUMBER.fullmatch(given):
        raise ValueError("write a number in decimal digits")
    return given


_Number = BeforeValidator(_number)
Context = Annotated[ServerContext, Depends(_context)]
Service = Annotated[ChatService, Depends(_service)]
After = Annotated[int, _Number, Query(description="the last seq the client has", json_schema_extra={"minimum": 0})]
Epoch = Annotated[
    int, _Number, Query(description="the `epoch` of the last event the client has", json_schema_extra={"minimum": 0})
]
Limit = Annotated[
    int | None,
    _Number,
    Query(description="rows of the page", json_schema_extra={"minimum": 1, "maximum": MAX_LIST_LIMIT}),
]
MessagesLimit = Annotated[
    int | None,
    _Number,
    Query(description="rows of the page", json_schema_extra={"minimum": 1, "maximum": MAX_MESSAGES_LIMIT}),
]
Wait = Annotated[float, _Number, Query(ge=0, allow_inf_nan=False, description="seconds; above 30 is 30")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1-255 printable ASCII characters; a request that is sent again with its key gets the same turn",
        json_schema_extra={"pattern": f"^{KEY_PATTERN}$"},
    ),
]
