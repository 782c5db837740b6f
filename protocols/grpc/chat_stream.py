"""``chat.ChatService/Chat``: the conversation of the WebSocket, on one gRPC call that streams both ways.

Both directions carry a ``oneof`` with the names of the WebSocket's messages::

    > ChatRequest  {chat {message: "hello"}}
    < ChatResponse {connected {connection_id: …}}      always the first
    < ChatResponse {event {turn_id: …, seq: 1, turn_started {…}}}
    < ChatResponse {event {turn_id: …, seq: 2, chunk {text: "Hello! "}}}
    > ChatRequest  {cancel {turn_id: …}}
    < ChatResponse {event {turn_id: …, seq: 3, turn_cancelled {…}}}
    < ChatResponse {resumed {turn_id: …, status: "cancelled", …}}

An error is a message, and the call goes on. The call ends with a status where the WebSocket would be closed, and with
OK after the client has closed its direction and has been sent every turn that it was reading.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc

from protocols.grpc import chat_pb2 as pb
from protocols.grpc.convert import from_chat_request, to_chat_response
from protocols.grpc.frames import response_frame
from protocols.grpc.handlers import Context, parse, refuse, stall_guarded_writer
from shared.chat.turn_log import LineDropped
from shared.errors import ChatError
from shared.server.context import ServerContext
from shared.server.duplex import Duplex, Outgoing
from shared.server.tasks import first_of
from shared.store.record import Record


async def converse(server_context: ServerContext, requests: AsyncIterator[bytes], context: Context) -> None:
    """Serve one call of ``Chat`` to its end. Raises ``payload_too_large`` and ``shutting_down``, which end the call."""
    settings = server_context.settings
    async with stall_guarded_writer(context, settings.stall_timeout_s) as write:

        async def send(item: Outgoing) -> None:
            if isinstance(item, LineDropped):
                with contextlib.suppress(grpc.aio.AbortError):
                    await refuse(context, ChatError("storage_unavailable"))
                return
            for message in item if isinstance(item, list) else [item]:
                await write(response_frame(message) if isinstance(message, Record) else to_chat_response(message))

        # A proxy counts the silence of each call, and HTTP/2's PING ends at the first hop.
        async with Duplex(server_context.service, send, heartbeat_s=settings.heartbeat_s) as duplex:
            listening = asyncio.create_task(_listen(duplex, requests, settings.max_body_bytes))
            try:
                await first_of(asyncio.shield(listening), server_context.service.closed.wait())
                if not listening.done():
                    await duplex.stop(listening)
                    raise ChatError("shutting_down")
                listening.result()
            finally:
                listening.cancel()


async def _listen(duplex: Duplex, requests: AsyncIterator[bytes], max_bytes: int) -> None:
    """Do what each request asks; after the last one, send the turns that the client is reading to their ends."""
    async for data in requests:
        try:
            message = from_chat_request(parse(data, pb.ChatRequest, max_bytes))
        except ChatError as error:
            if error.kind.ws_close is not None:
                raise
            await duplex.refuse(error)
        else:
            await duplex.handle(message)
    await duplex.finish()
