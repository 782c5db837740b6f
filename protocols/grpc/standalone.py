"""gRPC in one file, to copy into a project of your own: a call whose answer is a stream of messages (HTTP/2, protobuf).

``pip install grpcio protobuf``, then ``python standalone.py serve`` and ``python standalone.py ask hello``, or neither: both.

Its messages are ``google.protobuf.StringValue``, which every protobuf library brings, so one file is enough, nothing generated.
That gives up what gRPC is mostly chosen for: write a .proto (chat.proto beside this is one) as soon as a second field is needed.

What server.py and client.py have and this has not: that contract; events with numbers and a log of them, so that a cut call goes on
where it stopped; a turn that outlives its call; a conversation on one stream; sessions; cancelling; the codes of errors in the
status' details; health and reflection; keep-alive; limits; a key; draining on SIGTERM; pictures.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import grpc
from google.protobuf.wrappers_pb2 import StringValue

PORT = int(os.environ.get("PORT", "50151"))
Context = grpc.aio.ServicerContext[StringValue, StringValue]


async def model(message: str) -> AsyncIterator[str]:
    """Your model: the tokens of a reply, as they come."""
    for token in f"You said “{message}”. Put a model here and it will answer.".split():
        await asyncio.sleep(0.05)
        yield token + " "


async def chat(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    """Each message goes out as it is yielded. How it ended is the status, in the trailers, after all of them."""
    if not request.value:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an empty message")
    try:
        async for token in model(request.value):
            yield StringValue(value=token)
    except Exception:  # noqa: BLE001 - the text of a fault must not travel, and the library would send it
        await context.abort(grpc.StatusCode.INTERNAL, "the model failed")


async def ask(message: str) -> None:
    """A status other than OK is an exception, also when it comes after messages."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{PORT}") as channel:
        call = channel.unary_stream(
            "/standalone.Chat/Ask",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        try:
            async for piece in call(StringValue(value=message), timeout=60):
                print(piece.value, end="", flush=True)
        except grpc.aio.AioRpcError as error:
            sys.exit(f"\nthe reply is not whole: {error.code().name}")
        print()


async def main(command: str = "both", message: str = "hello") -> None:
    """``serve``, ``ask [MESSAGE]``, or both in one process."""
    if command == "ask":
        return await ask(message)
    rpc = grpc.unary_stream_rpc_method_handler(chat, StringValue.FromString, StringValue.SerializeToString)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("standalone.Chat", {"Ask": rpc}),))
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    await server.start()
    if command == "both":
        await ask(message)
        return await server.stop(None)
    await server.wait_for_termination()
    return None


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
