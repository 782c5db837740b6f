"""The chat over a WebSocket (RFC 6455): JSON text frames both ways on ``/ws``, subprotocol ``genai.chat.v1``.

One connection carries any number of turns, and what others do in the joined session. Bytes of a picture need no base64 here: a text
frame says how many follow, the next frame is binary and holds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketDisconnected

from protocols import TRANSPORTS
from shared.duplex_messages import Auth, ClientMessage
from shared.errors import ChatError
from shared.events import to_json
from shared.server import http
from shared.server.access import AccessPolicy
from shared.server.context import ServerContext
from shared.server.duplex import Duplex, Outgoing
from shared.store.record import Record

SUBPROTOCOL = "genai.chat.v1"
TICKET_S = 5.0
TEXT, BINARY = 0x1, 0x2
INTERNAL_ERROR = 1011

router = APIRouter(tags=["websocket"])
_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)


# A plain route: what FastAPI's own, with its dependencies, keeps for as long as a connection lasts is 4 KiB.
@router.websocket_route("/ws")
async def chat(socket: WebSocket) -> None:
    """One connection, from the handshake to the close."""
    context: ServerContext = socket.app.state.context
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
    try:
        if not socket.state.authenticated:
            await _check_ticket(socket, context.access)
        async with Duplex(context.service, partial(_send, socket)) as duplex:
            await _take(socket, duplex, context.settings.max_body_bytes)
            if context.service.closed.is_set():
                raise ChatError("shutting_down")
    except ChatError as error:
        with contextlib.suppress(WebSocketDisconnect, WebSocketDisconnected):
            await socket.close(error.kind.ws_close or INTERNAL_ERROR, error.code)


async def _check_ticket(socket: WebSocket, access: AccessPolicy) -> None:
    """A browser cannot set headers, so its first message is a ticket. Raises ``unauthenticated``."""
    first = None
    with contextlib.suppress(TimeoutError, ChatError):
        async with asyncio.timeout(TICKET_S):
            first = parse(await socket.receive())
    if not isinstance(first, Auth):
        raise ChatError("unauthenticated")
    access.check_ticket(first.ticket)


async def _take(socket: WebSocket, duplex: Duplex, max_bytes: int) -> None:
    """Read until the client leaves or this server stops. Raises what closes the connection; all else is answered."""
    while (message := await socket.receive())["type"] == "websocket.receive":
        try:
            await duplex.handle(parse(message, max_bytes))
        except ChatError as error:
            if error.kind.ws_close is not None:
                raise
            await duplex.refuse(error, _request_id(message["text"]))


def parse(message: Mapping[str, Any], max_bytes: int | None = None) -> ClientMessage:
    """A frame as a message. Raises ``unsupported_media_type`` (binary), ``payload_too_large``, ``invalid_request``."""
    text = message.get("text")
    if text is None:
        raise ChatError("unsupported_media_type")
    data = text.encode()
    if max_bytes is not None and len(data) > max_bytes:
        raise ChatError("payload_too_large")
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError as error:
        raise ChatError("invalid_request", f"{str(error)[:200]}.") from None
    except (msgspec.DecodeError, RecursionError):
        raise ChatError("invalid_request", "The frame is not JSON in valid Unicode.") from None


def _request_id(text: str) -> str | None:
    """Which request it was, if that can be read in what is no message; the stdlib reads NaN and lone surrogates too."""
    with contextlib.suppress(ValueError, RecursionError, TypeError, LookupError):
        key = json.loads(text)["request_id"]
        if isinstance(key, str) and key.isascii():
            return key
    return None


async def _send(socket: WebSocket, item: Outgoing) -> None:
    """Several events in one write when several are there; nothing to someone who has left."""
    frames = (
        b"".join([record.framed(frame) for record in item]) if isinstance(item, list) else framed(TEXT, to_json(item))
    )
    try:
        await socket.send({"type": "websocket.send", "frames": frames})
    except (WebSocketDisconnect, WebSocketDisconnected):
        return


def frame(record: Record) -> bytes:
    """One event: a text frame; for a piece of a picture the pair, with the bytes in a binary frame."""
    if record.data is None:
        return framed(TEXT, record.json)
    return b"".join((framed(TEXT, record.stored), head(BINARY, len(record.data)), record.data))


def framed(opcode: int, payload: bytes) -> bytes:
    """An unfragmented, unmasked frame (RFC 6455, section 5.2): the same bytes for every reader, so made once for all."""
    return head(opcode, len(payload)) + payload


def head(opcode: int, size: int) -> bytes:
    """FIN and opcode in one byte, then the length in 7, 7 + 16 or 7 + 64 bits."""
    if size < 126:
        return struct.pack("!BB", 0x80 | opcode, size)
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size)
    return struct.pack("!BBQ", 0x80 | opcode, 127, size)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal; the exit status."""
    return http.main(TRANSPORTS, "websocket", "FastAPI + websockets", router, "GenAI chat over WebSocket", argv)


if __name__ == "__main__":
    raise SystemExit(main())
