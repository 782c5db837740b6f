"""gRPC in one file, to copy into a project of your own: a call whose answer is a stream of messages (HTTP/2, protobuf).

``pip install grpcio protobuf``, then ``python standalone.py serve`` and ``python standalone.py ask hello``;
without an argument the file serves and asks in one process.

The contract, for a client in any language::

    syntax = "proto3";
    package standalone;
    import "google/protobuf/wrappers.proto";

    service Chat {
      rpc Ask(google.protobuf.StringValue) returns (stream google.protobuf.StringValue);
    }

Every protobuf library brings ``StringValue``, so this file needs no generated code. As soon as a message has a second
field, write the contract into a .proto and generate the code (chat.proto beside this file is an example).

What server.py and client.py have and this has not: numbered events in a log, so that a client continues a cut call
where it stopped; a turn that outlives its call; a conversation on one stream; sessions; cancelling; the codes of errors
in the status' details; health and reflection; keep-alive; limits; a key; draining on SIGTERM; pictures.
"""

from __future__ import annotations

import asyncio
import logging
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
    """Each message goes out as it is yielded. The status says how the reply ended; it follows in the trailers."""
    if not request.value:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an empty message")
    try:
        async for token in model(request.value):
            yield StringValue(value=token)
    except Exception:
        # The traceback is for the log. Without this the library would send the exception's text to the client.
        logging.exception("the model failed")
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
    try:
        await (ask(message) if command == "both" else server.wait_for_termination())
    finally:
        await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
