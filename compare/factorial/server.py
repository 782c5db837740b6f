"""``python -m compare.factorial.server``: one cell's server, with the chat of this project behind the thinnest server of its kind.

Two ports print on stdout: on the first the model does not wait, on the second it is paced. The prefix is Connect's streaming
protocol (connectrpc.com, "Protocol reference") on uvicorn, and gRPC on grpcio.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, cast

import grpc
import uvicorn

from compare.factorial.cells import FACTORS, Cell
from protocols.grpc import chat_pb2 as pb
from protocols.grpc import frames as protobuf_frames
from protocols.sse.server import frame as sse_frame
from protocols.streamable_http.server import frame as line_frame
from shared.chat.service import ChatService, open_service
from shared.config import Settings
from shared.logger import open_logger
from shared.server import launch
from shared.server.http.serving import uvicorn_config
from shared.store.record import Record
from shared.usage import usage_of

PACED_PER_S = 50.0
PATH = "/chat.ChatService/SendMessage"
# Connect: a flag for the end of the stream, and an empty message without an error.
_END_OF_STREAM = b"\x02\x00\x00\x00\x02{}"
_PREFIX_BYTES = 5

Frame = Callable[[Record], bytes]


def message_frame(encoding: str) -> Frame:
    """An event as the message of an RPC, without its prefix."""
    return protobuf_frames.frame if encoding == "protobuf" else lambda record: record.json


def _prefixed(make: Frame) -> Frame:
    def frame(record: Record) -> bytes:
        data = make(record)
        return b"\x00" + len(data).to_bytes(4, "big") + data

    return frame


def frame_of(cell: Cell) -> Frame:
    """An event as this cell writes it."""
    made = {"lines": line_frame, "SSE": sse_frame, "prefix": _prefixed(message_frame(cell.encoding))}
    return made[cell.framing]


def planted(frame: Frame, plant_us: float) -> Frame:
    """The frame, made with so much more CPU time."""
    if not plant_us:
        return frame

    def slow(record: Record) -> bytes:
        until = time.thread_time_ns() + plant_us * 1000
        while time.thread_time_ns() < until:
            pass
        return frame(record)

    return slow


def question(cell: Cell, data: bytes) -> str:
    """The message that a request asks with."""
    if cell.encoding == "protobuf":
        return pb.SendMessageRequest.FromString(data).message
    return str(json.loads(data)["message"])


def request_body(cell: Cell, message: str) -> bytes:
    """The body of a request, with its prefix where the cell has one."""
    if cell.encoding == "protobuf":
        data = pb.SendMessageRequest(message=message).SerializeToString()
    else:
        data = json.dumps({"message": message}).encode()
    return b"\x00" + len(data).to_bytes(4, "big") + data if cell.framing == "prefix" else data


def content_type(cell: Cell) -> str:
    """The media type of a request."""
    if cell.framing != "prefix":
        return "application/json"
    if cell.library == "grpcio":
        return "application/grpc"
    return f"application/connect+{'proto' if cell.encoding == 'protobuf' else 'json'}"


def asgi_app(cell: Cell, service: ChatService, frame: Frame) -> Any:
    """The cell on bare ASGI: events that are there at the same time are one write."""
    media_type = {"lines": "application/x-ndjson", "SSE": "text/event-stream"}.get(cell.framing, content_type(cell))
    head = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", media_type.encode()), (b"cache-control", b"no-store")],
    }
    skipped = _PREFIX_BYTES if cell.framing == "prefix" else 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        data, more = b"", True
        while more:
            message = await receive()
            data += message.get("body", b"")
            more = message.get("more_body", False)
        reader = await service.start_chat(question(cell, data[skipped:]))
        await send(head)
        with reader:
            async for records in reader:
                if records:
                    body = b"".join([record.framed(frame) for record in records])
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": _END_OF_STREAM if skipped else b"", "more_body": False})

    return app


async def serve_grpc(cell: Cell, service: ChatService, frame: Frame) -> tuple[int, Awaitable[Any]]:
    """The cell on grpc.aio, whose messages are bytes of either encoding. Returns its port, and what runs until the end."""

    async def send_message(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        reader = await service.start_chat(question(cell, request))
        with reader:
            async for records in reader:
                for record in records:
                    await context.write(record.framed(frame))

    server = grpc.aio.server()
    method = grpc.unary_stream_rpc_method_handler(cast(Any, send_message))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("chat.ChatService", {"SendMessage": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return port, server.wait_for_termination()


async def serve_uvicorn(app: Any, settings: Settings, *, http2: bool) -> tuple[int, Awaitable[Any]]:
    """The app under uvicorn as the project's servers run it. Returns its port, and what runs until the end."""
    listener = launch.listen("127.0.0.1", 0, settings.stall_timeout_s)
    server = uvicorn.Server(uvicorn_config(app, settings, http2=http2))
    return int(listener.getsockname()[1]), server.serve(sockets=[listener])


async def serve(cell: Cell, plant_us: float) -> None:
    """Serve the cell on two ports until the process is ended."""
    logger = open_logger("factors", io.StringIO(), logging.CRITICAL)
    async with AsyncExitStack() as stack:
        running = []
        for rate in (0.0, PACED_PER_S):
            settings = Settings(
                genai_provider="offline",
                image_provider="offline",
                store_url="sqlite://",
                offline_first_token_ms=0,
                offline_tokens_per_s=rate,
                drain_s=0,
                _env_file=None,
            )
            service = await stack.enter_async_context(open_service(settings, logger=logger))
            if cell.library == "grpcio":
                port, until = await serve_grpc(cell, service, planted(message_frame(cell.encoding), plant_us))
            elif cell.library == "connectrpc":
                # Imported here, because the extra ``web`` may not be installed.
                from compare.factorial.connect import connect_app

                frame = planted(message_frame(cell.encoding), plant_us)
                app = connect_app(cell.encoding, service, partial(question, cell), frame)
                port, until = await serve_uvicorn(app, settings, http2=cell.http == "HTTP/2")
            else:
                app = asgi_app(cell, service, planted(frame_of(cell), plant_us))
                port, until = await serve_uvicorn(app, settings, http2=cell.http == "HTTP/2")
            sys.stdout.write(f"127.0.0.1:{port}\n")
            running.append(until)
        sys.stdout.flush()
        await asyncio.gather(*running)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(
        prog="python -m compare.factorial.server", description=usage_of(__doc__.partition("\n\n")[0])
    )
    for factor, levels in FACTORS.items():
        parser.add_argument(f"--{factor}", choices=levels, required=True)
    parser.add_argument("--plant-us", type=float, default=0.0, help="CPU time that each event costs more")
    args = parser.parse_args(argv)
    cell = Cell(args.encoding, args.http, args.framing, args.library)
    if cell.library == "grpcio":
        asyncio.run(serve(cell, args.plant_us))
        return 0
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(cell, args.plant_us))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
