"""The floor of gRPC: a bare ``grpc.aio`` server on uvloop that sends prepared messages, one event in each.

``python -m compare.measuring.floors.servers.bare_grpc`` prints its address and serves until it is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop

from compare.measuring.floors.servers.script import Script, ScriptOptions, options
from protocols.grpc import chat_pb2
from protocols.grpc.convert import to_event_bytes, to_event_message
from shared.events import AnyEvent


def _stamp(data: bytes, at: float) -> bytes:
    message = chat_pb2.Event.FromString(data)
    message.at = at
    return message.SerializeToString()


async def serve(script: ScriptOptions) -> None:
    """Serve until the process is killed."""

    def encode(event: AnyEvent) -> list[bytes]:
        return [to_event_bytes(event) if script.image_bytes == 0 else to_event_message(event).SerializeToString()]

    turn = Script[bytes](script, encode, _stamp)

    async def stream(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await turn.play(context.write)

    handler = grpc.unary_stream_rpc_method_handler(stream)
    # The same limits as in the real server. By default the library refuses some calls by chance above 1,000 at the same
    # time.
    many = (("grpc.server.max_pending_requests", 20_000), ("grpc.server.max_pending_requests_hard_limit", 20_000))
    server = grpc.aio.server(options=many)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "chat.ChatService", dict.fromkeys(("SendMessage", "ResumeTurn"), handler)
            ),
        )
    )
    where = f"127.0.0.1:{script.port}"
    if script.cert is not None and script.key is not None:
        pair = script.key.read_bytes(), script.cert.read_bytes()
        port = server.add_secure_port(where, grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port(where)
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, and return the exit status."""
    _, script = options("compare.measuring.floors.servers.bare_grpc", argv)
    uvloop.run(serve(script))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
