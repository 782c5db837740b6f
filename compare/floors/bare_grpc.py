"""The floor of gRPC: a bare ``grpc.aio`` server on uvloop that writes ready bytes, one event a message.

``python -m compare.floors.bare_grpc`` prints its address on stdout and serves until it is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop

from compare.floors.script import Options, Script, options
from protocols.grpc import chat_pb2
from protocols.grpc.convert import to_event_bytes, to_event_message
from shared.events import AnyEvent


def _stamp(data: bytes, at: float) -> bytes:
    message = chat_pb2.Event.FromString(data)
    message.at = at
    return message.SerializeToString()


async def serve(how: Options) -> None:
    """Serve until killed."""

    def encode(event: AnyEvent) -> list[bytes]:
        return [to_event_bytes(event) if how.image_bytes == 0 else to_event_message(event).SerializeToString()]

    script = Script[bytes](how, encode, _stamp)

    async def stream(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await script.play(context.write)

    handler = grpc.unary_stream_rpc_method_handler(stream)
    # As ours: past 1,000 calls at the same time the library would refuse some by chance.
    many = (("grpc.server.max_pending_requests", 20_000), ("grpc.server.max_pending_requests_hard_limit", 20_000))
    server = grpc.aio.server(options=many)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "chat.ChatService", dict.fromkeys(("SendMessage", "ResumeTurn"), handler)
            ),
        )
    )
    port = server.add_insecure_port(f"127.0.0.1:{how.port}")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; the exit status."""
    _, how = options("compare.floors.bare_grpc", argv)
    uvloop.run(serve(how))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
