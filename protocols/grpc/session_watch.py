"""A client's use of ``Chat``, the stream in both directions: watch a session, and tell its other connections that someone types.

``Chat`` carries the messages of the WebSocket under the same names. Turns are asked for with SendMessage, one call a turn, because
HTTP/2 already keeps several calls apart on one connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Container

import grpc

from protocols.grpc import chat_pb2 as pb
from protocols.grpc.convert import from_message
from protocols.grpc.received import received_event
from shared.client.transport import Watched
from shared.errors import ChatError, ConnectionLost
from shared.events import CursorLost, TurnStarted
from shared.session import SessionUpdate

ChatCall = grpc.aio.StreamStreamCall[pb.ChatRequest, pb.ChatResponse]


class SessionWatches:
    """The sessions that a client watches, each on a call of its own. ``own_requests``: the request_ids of the client itself."""

    def __init__(self, own_requests: Container[str]) -> None:
        self._own_requests = own_requests
        self._calls: dict[str, ChatCall] = {}

    async def watch(self, call: ChatCall, session_id: str) -> AsyncGenerator[Watched, None]:
        """Join the session; yield its hints and the events of turns that others start. Cancels the call when closed."""
        own_turns: set[str] = set()
        try:
            async for response in call:
                match response.WhichOneof("body"):
                    case "connected":
                        # The message is not written earlier, because a message in a call that is being refused hides
                        # the refusal.
                        await call.write(_join_request(session_id))
                    case "session_joined":
                        self._calls[session_id] = call
                    case "event" if (event := received_event(response.event)) is not None:
                        if isinstance(event, TurnStarted) and event.request_id in self._own_requests:
                            own_turns.add(event.turn_id)
                        if event.turn_id not in own_turns:
                            yield event
                    case "resumed" if response.resumed.turn_id not in own_turns:
                        # ``resumed`` comes unasked only with ``lost``, and does not name the epoch.
                        yield CursorLost(turn_id=response.resumed.turn_id, last_seq=response.resumed.last_seq, epoch=1)
                    case "session_update":
                        yield from_message(response.session_update, SessionUpdate)
                    case "error":
                        raise ChatError.received(response.error.code, response.error.message)
            raise ConnectionLost("the stream ended")
        finally:
            if self._calls.get(session_id) is call:
                del self._calls[session_id]
            await ended(call)

    async def hint(self, session_id: str, hint: pb.ChatRequest) -> bool:
        """Send a hint on the call that watches the session. False when no call does."""
        call = self._calls.get(session_id)
        if call is not None:
            await call.write(hint)
        return call is not None


async def send_hint(call: ChatCall, session_id: str, hint: pb.ChatRequest) -> None:
    """Join the session on a call of its own, send one hint, and end the call."""
    try:
        async for response in call:
            match response.WhichOneof("body"):
                case "connected":
                    await call.write(_join_request(session_id))
                    await call.write(hint)
                    await call.done_writing()
                case "error":
                    raise ChatError.received(response.error.code, response.error.message)
    finally:
        await ended(call)


async def ended(call: grpc.aio.Call) -> None:
    """Cancel a call, if it still runs, and wait for its end."""
    call.cancel()
    await call.code()


def _join_request(session_id: str) -> pb.ChatRequest:
    return pb.ChatRequest(join_session=pb.JoinSession(session_id=session_id))
