"""The floor of the four HTTP transports and of the further lanes: a raw ASGI app on uvicorn with uvloop, without any framework.

httptools parses HTTP/1.1, zttp parses HTTP/2.

``python -m compare.measuring.floors.servers.asgi --wire WORD`` prints its address on stdout and serves until it is killed.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvicorn
import uvloop

from compare.measuring.floors.servers.script import AT, TURN_ID, Script, ScriptOptions, events, options
from protocols.grpc import chat_pb2
from protocols.grpc.convert import to_event_message
from shared.events import AnyEvent, Chunk, ImageChunk, event_type, to_json

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
WIRES = ("ndjson", "sse", "websocket", "rest", "rest-h2", "ndjson-h2", "sse-h2", "grpc-web", "grpc-asgi")
_HTTP2 = ("rest-h2", "ndjson-h2", "sse-h2", "grpc-asgi")
_AT = b"%.3f" % AT
_MEDIA_TYPE = {"ndjson": b"application/x-ndjson", "sse": b"text/event-stream"}


def written(wire: str, event: AnyEvent) -> bytes:
    """The bytes of an event on NDJSON or SSE."""
    data = to_json(event)
    if wire == "ndjson":
        return data + b"\n"
    cursor = b"%b/%d" % (event.turn_id.encode(), event.seq)
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event_type(event).encode(), cursor, data)


def streaming(wire: str, script: ScriptOptions) -> App:
    """NDJSON and SSE: one answer with one write an event."""

    def encode(event: AnyEvent) -> list[Message]:
        return [{"type": "http.response.body", "body": written(wire, event), "more_body": True}]

    def stamp(message: Message, at: float) -> Message:
        return {**message, "body": message["body"].replace(_AT, b"%.3f" % at)}

    turn = Script[Message](script, encode, stamp)
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", _MEDIA_TYPE[wire])]}

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await receive()
        await send(start)
        await turn.play(send)
        await send({"type": "http.response.body", "body": b""})

    return app


def websocket(script: ScriptOptions) -> App:
    """WebSocket: one frame an event, two frames for a piece of a picture. Every message from the client starts the turn."""

    def stamp(message: Message, at: float) -> Message:
        return {**message, "text": message["text"].replace(_AT.decode(), f"{at:.3f}")}

    turn = Script[Message](script, websocket_messages, stamp)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "genai.chat.v1"})
        await send({"type": "websocket.send", "text": '{"type":"connected"}'})
        while (await receive())["type"] == "websocket.receive":
            await turn.play(send)

    return app


def websocket_messages(event: AnyEvent) -> list[Message]:
    """The messages of an event on a WebSocket."""
    if isinstance(event, ImageChunk):
        head = {"type": "image_chunk", "turn_id": TURN_ID, "seq": event.seq, "at": AT, "image_id": TURN_ID}
        text = json.dumps({**head, "offset": event.offset, "bytes": len(event.data)}, separators=(",", ":"))
        return [{"type": "websocket.send", "text": text}, {"type": "websocket.send", "bytes": event.data}]
    return [{"type": "websocket.send", "text": to_json(event).decode()}]


def rest(script: ScriptOptions) -> App:
    """REST: one request, one whole answer. ``/images/…`` answers with a picture, every other path with a reply."""
    text = "".join(event.text for event in events(script) if isinstance(event, Chunk))
    whole = {
        "turn_id": TURN_ID,
        "session_id": TURN_ID,
        "model": "offline-1",
        "status": "completed",
        "text": text,
        "finish_reason": "stop",
        "usage": {"input_tokens": 1, "output_tokens": script.tokens},
        "message_count": 2,
        "elapsed_ms": 1.0,
        "sha256": "0" * 64,
    }
    bodies = {"/chat": json.dumps(whole).encode(), "/images": bytes(script.image_bytes)}
    answers = {
        path: (
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"application/json" if path != "/images" else b"image/png"),
                    (b"content-length", b"%d" % len(body)),
                ],
            },
            {"type": "http.response.body", "body": body},
        )
        for path, body in bodies.items()
    }

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await receive()
        head, body = answers["/images" if scope["path"].startswith("/images") else "/chat"]
        await send(head)
        await send(body)

    return app


def messages(script: ScriptOptions, *, web: bool) -> App:
    """gRPC and gRPC-Web: a message and a write an event; the status is in the trailers, or in the last message of the body."""

    def encode(event: AnyEvent) -> list[Message]:
        return [_part(_prefixed(b"\x00", to_event_message(event).SerializeToString()))]

    def stamp(message: Message, at: float) -> Message:
        event = chat_pb2.Event.FromString(message["body"][5:])
        event.at = at
        return _part(_prefixed(b"\x00", event.SerializeToString()))

    turn = Script[Message](script, encode, stamp)
    media_type = b"application/grpc-web+proto" if web else b"application/grpc"
    headers = [(b"content-type", media_type)]
    start = {"type": "http.response.start", "status": 200, "headers": headers, "trailers": not web}
    end = {"type": "http.response.body", "body": _prefixed(b"\x80", b"grpc-status: 0\r\n") if web else b""}
    trailers = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(start)
        await turn.play(send)
        await send(end)
        if not web:
            await send(trailers)

    return app


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _prefixed(kind: bytes, data: bytes) -> bytes:
    return kind + len(data).to_bytes(4, "big") + data


def app_of(wire: str, script: ScriptOptions) -> App:
    """The floor of a lane."""
    match wire.removesuffix("-h2"):
        case "rest":
            return rest(script)
        case "websocket":
            return websocket(script)
        case "grpc-web" | "grpc-asgi":
            return messages(script, web=wire == "grpc-web")
        case word:
            return streaming(word, script)


async def serve(wire: str, script: ScriptOptions) -> None:
    """Serve until the process is killed."""
    http2 = wire in _HTTP2
    config = uvicorn.Config(
        app_of(wire, script),
        http="zttp" if http2 else "httptools",
        http2=http2,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        lifespan="off",
        # The load generator opens all connections before it asks.
        timeout_keep_alive=600,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        ssl_certfile=script.cert,
        ssl_keyfile=script.key,
    )
    listener = socket.create_server(("127.0.0.1", script.port), backlog=2048)
    sys.stdout.write(f"127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await uvicorn.Server(config).serve(sockets=[listener])


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one wire, and return the exit status."""
    args, script = options("compare.measuring.floors.servers.asgi", argv, wire=list(WIRES))
    uvloop.run(serve(args.wire, script))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
