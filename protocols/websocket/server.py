"""The chat over a WebSocket (RFC 6455): JSON text frames both ways on ``/ws``, subprotocol ``genai.chat.v1``.

One connection carries any number of turns, and the events of every turn in the joined session. ``?`` marks what may be absent.

    client  {"type": "chat", "message", "session_id"?, "model_id"?, "new_session"?, "request_id"?}
            {"type": "image", "prompt", "size"?, "session_id"?, "request_id"?}
            {"type": "create_session", "model_id"?}         {"type": "join_session", "session_id"}
            {"type": "resume", "turn_id", "after", "epoch"?}  {"type": "cancel", "turn_id"}
            {"type": "typing_start"}  {"type": "typing_stop"}  {"type": "ping"}  {"type": "auth", "ticket"}
    server  the events of turns, such as {"type": "chunk", "turn_id", "seq", "at", "text"}; an ``image_chunk`` has ``bytes``, the
            count, in place of ``data``, and the next data frame is binary and holds these bytes: they need no base64 here
            {"type": "connected", "connection_id", "server_info"}
            {"type": "session_created", "session_id", "model"}
            {"type": "session_joined", "session_id", "model", "message_count", "running_turn_id"}
            {"type": "resumed", "turn_id", "after", "last_seq", "status", "lost"?}  before the events of every resume
            {"type": "session_update", "session_id", "update_type", …}          what others do in the joined session
            {"type": "pong"}                        {"type": "error", "code", "message", "retryable", "request_id"?}

One exchange, from the handshake to the close:

    client                                                    server
    GET /ws, Upgrade: websocket                       ─────▶
                                                      ◀─────  101 Switching Protocols
                                                      ◀─────  {"type":"connected","connection_id":"…",…}
    {"type":"chat","message":"Hello","request_id":"1"} ────▶
                                                      ◀─────  {"type":"turn_started","turn_id":"…","seq":1,…}
                                                      ◀─────  {"type":"chunk","turn_id":"…","seq":2,"text":"Hi",…}
                                                      ◀─────  {"type":"turn_completed","turn_id":"…","seq":3,…}
    close 1000                                        ─────▶
                                                      ◀─────  close 1000
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketDisconnected

from protocols import TRANSPORTS
from shared.chat.turn_log import LineDropped
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
INTERNAL_ERROR = 1011

router = http.Routes("WebSocket")
_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)


# A plain route: FastAPI's own route keeps 4 KiB for its dependencies as long as a connection lasts.
@router.websocket_route("/ws")
async def chat(socket: WebSocket) -> None:
    """Answer the handshake of a connection. ``converse`` goes on with the connection."""
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
    await http.open_socket(socket, converse)


async def converse(socket: WebSocket) -> None:
    """One connection, after the handshake until the close."""
    context: ServerContext = socket.app.state.context
    try:
        if not socket.state.authenticated:
            await _check_ticket(socket, context.access)
        line = http.socket_line(socket.scope, frame)
        async with Duplex(context.service, partial(_send, socket), line=line) as duplex:
            await _handle(socket, duplex, context.settings.max_body_bytes)
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
    socket.state.authenticated = True


async def _handle(socket: WebSocket, duplex: Duplex, max_bytes: int) -> None:
    """Handle the client's messages until the client leaves or this server stops.

    An error that closes connections is raised; every other error is answered.
    """
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
        raise ChatError(
            "invalid_request", "The frame is not JSON in valid Unicode; send one JSON object a frame."
        ) from None


def _request_id(text: str) -> str | None:
    """The ``request_id`` of a frame that was refused, where it can be read.

    The decoder of messages refuses the whole frame. The standard library reads more: NaN, lone surrogates, unknown types.
    """
    with contextlib.suppress(ValueError, RecursionError, TypeError, LookupError):
        key = json.loads(text)["request_id"]
        if isinstance(key, str) and key.isascii():
            return key
    return None


async def _send(socket: WebSocket, item: Outgoing) -> None:
    """Send events of one turn, or one message. To a client that has left nothing is sent."""
    try:
        if isinstance(item, LineDropped):
            await socket.close(INTERNAL_ERROR)
            return
        if not isinstance(item, list):
            await socket.send_text(to_json(item).decode())
            return
        for record in item:
            # Cached: the text is decoded once for all readers.
            await socket.send_text(record.framed(frame))
            if record.data is not None:
                await socket.send_bytes(bytes(record.data))
    except (WebSocketDisconnect, WebSocketDisconnected):
        return


def frame(record: Record) -> str:
    """The text frame of one event: its JSON; for a piece of a picture, the count of the bytes that follow."""
    return record.stored.decode()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal, and return the exit status."""
    return http.main(TRANSPORTS, "websocket", "FastAPI + websockets", router, "GenAI chat over WebSocket", argv)


if __name__ == "__main__":
    raise SystemExit(main())
