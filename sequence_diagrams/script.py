"""The scripts that are recorded for the diagrams, and the diagrams' texts. All five transports play the same scripts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.lines.steps.read import steps
from protocols import TRANSPORTS
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient, collect, collect_picture

SETTINGS = {
    "GENAI_PROVIDER": "offline",
    "IMAGE_PROVIDER": "offline",
    "OFFLINE_TOKENS_PER_S": "20",
    "OFFLINE_FIRST_TOKEN_MS": "150",
    "LEASE_S": "1.5",
}
# The phase in which a client only closes its connections; no diagram shows it.
LEAVING = "leaving"
CUT_AFTER_EVENT = 4
# This position is in the head of REST's answer.
CUT_AFTER_BYTES = 90
_WAIT_S = 60.0
_QUIET_S = 0.25
_LONG_WAIT_S = 1.0

JOURNEY, PICTURE, RESUME, CANCEL = "", "_picture", "_resume", "_cancel"
RESTART, NODE_DIES = "_restart", "_node_dies"
FILES = {"rest": "rest", "ndjson": "streamable_http", "sse": "sse", "websocket": "websockets", "grpc": "grpc"}
TITLES = {
    JOURNEY: "{}: a turn",
    PICTURE: "{}: a picture",
    RESUME: "{}: the line is cut in the middle of an answer",
    CANCEL: "{}: an answer is cancelled",
    RESTART: "{}: the server is killed in the middle of an answer, and comes back",
    NODE_DIES: "{}: one of three nodes behind a balancer dies in the middle of an answer",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that no byte shows. With ``colour`` a phase begins; else something happens to the participant ``where``."""

    at: float
    text: str
    colour: str = ""
    where: str = ""


class Recording:
    """One script on one transport: a client behind a relay that captures, the marks of the script, and the servers' logs.

    Several ``servers`` are nodes on one store behind a balancer. ``server`` is the one that generates the turn.
    """

    def __init__(self, word: str, servers: Sequence[Server], relay: Relay, client: ChatClient) -> None:
        self.word = word
        self.server = servers[0]
        self.servers = servers
        self.relay = relay
        self.client = client
        self.marks: list[Mark] = []
        self.logs = [server.log for server in servers]

    @property
    def balanced(self) -> bool:
        """Whether a balancer stands between the client and the servers."""
        return len(self.servers) > 1

    def phase(self, colour: str, text: str) -> None:
        """Mark the beginning of a phase, and say why it happens."""
        self.marks.append(Mark(_now_ms(), text, colour=colour))

    def note(self, where: str, text: str) -> None:
        """Mark something that happens to a participant."""
        self.marks.append(Mark(_now_ms(), text, where=where))

    async def committed(self, seq: int) -> None:
        """Wait until the server's log says that this event is committed."""
        await _until(lambda: any(line.get("seq") == seq for line in self.server.log))

    async def settled(self) -> None:
        """Wait until no more bytes pass the relay."""
        seen = -1
        while seen != len(self.relay.captured):
            seen = len(self.relay.captured)
            await asyncio.sleep(_QUIET_S)

    async def leave(self) -> None:
        """Close the client, and wait until all its connections have ended at the relay."""
        self.phase("grey", LEAVING)
        await self.client.aclose()
        await _until(self._closed)
        self.note("C,B" if self.balanced else "C,S", "the client closes its TCP connections")

    def _closed(self) -> bool:
        # In grpc.aio a call that was read to its end is in a cycle with its channel, so the connection ends with a collection.
        gc.collect()
        return all(connection.state != "open" for connection in self.relay.connections)


Script = Callable[[Recording], Awaitable[None]]


def _now_ms() -> float:
    return time.time_ns() / 1e6


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


_ASKING = {
    "rest": "a turn: one request, one answer.<br/>The status line comes first, so nothing can be sent before all is there",
    "ndjson": "a turn: one answer that lasts as long as the turn,<br/>a line for each event",
    "sse": "a turn: one answer that lasts as long as the turn.<br/>Each event bears its id, the cursor to come back to",
    "websocket": "a turn: a frame asks, frames answer,<br/>and the connection stays free in both directions",
    "grpc": "a turn: a call of its own on the one connection,<br/>a message for each event, the status last",
}


async def journey(recording: Recording) -> None:
    """A turn with its events, on a new connection, and the conversation afterwards."""
    client = recording.client
    recording.phase("amber", _ASKING[recording.word])
    reply = await collect(client.chat("/tokens 12 hello"))
    assert reply.session_id is not None
    # The end of the stream comes after the terminal event.
    await recording.settled()
    recording.phase("blue", "afterwards: the conversation is in the store, for every transport")
    await client.list_messages(reply.session_id)
    await recording.settled()
    await recording.leave()


_DRAWING = {
    "rest": "a picture: one request, one answer with the picture.<br/>Previews are stored, but this answer has no place for them",
    "ndjson": "a picture: a turn like any other. Previews and pieces are lines,<br/>their bytes in base64",
    "sse": "a picture: a turn like any other. Previews and pieces are events,<br/>their bytes in base64",
    "websocket": "a picture: a turn like any other. A text frame names a picture,<br/>binary frames bring its bytes as they are",
    "grpc": "a picture: a turn like any other. Previews and pieces are messages,<br/>their bytes as they are",
}


async def picture(recording: Recording) -> None:
    """A picture with its previews and its pieces."""
    recording.phase("amber", _DRAWING[recording.word])
    await collect_picture(recording.client.image("a red bridge", size="256x256"))
    await recording.settled()
    await recording.leave()


# How the client reads on at a node that has never seen it.
TAKING_OVER = {
    "rest": "the same request with the same key, at another node: the same turn.<br/>The answer comes when the turn has its end",
    "ndjson": "another node reads the log from the store, from the cursor on.<br/>When the lease has run out, a node ends the turn",
    "sse": "another node reads the log from the store, from the last id on.<br/>When the lease has run out, a node ends the turn",
    "websocket": "a handshake at another node, then resume with the cursor.<br/>When the lease has run out, a node ends the turn",
    "grpc": "the connection to the balancer holds. A new call goes to another node,<br/>"
    "from the cursor on. When the lease has run out, a node ends the turn",
}
CUTTING = {
    "rest": "the line breaks in the middle of the answer.<br/>What was made and paid for is in the store, not lost",
    "ndjson": "the line breaks. Leaving is not cancelling:<br/>the turn goes on, and every event is kept",
    "sse": "the line breaks. Leaving is not cancelling:<br/>the turn goes on, and every event is kept",
    "websocket": "the line breaks. A turn does not belong to a connection:<br/>it goes on, and every event is kept",
    "grpc": "the line breaks, and all calls on it.<br/>A cancelled call only leaves: the turn goes on",
}
RETURNING = {
    "rest": "the same request with the same key: the same turn,<br/>not a second one. The model is not asked again",
    "ndjson": "resume: HTTP has nothing for it, the cursor is a parameter of ours",
    "sse": "resume: in the protocol. EventSource sends the last id by itself,<br/>our client does the same",
    "websocket": "resume: not in the protocol.<br/>A new handshake, then a message that names turn and cursor",
    "grpc": "resume: gRPC retries only until the first message.<br/>A call of ours goes on from the cursor",
}


async def resume(recording: Recording) -> None:
    """The line is cut in the middle of an answer; the client comes back by itself."""
    faults = Faults(cut_after_event=CUT_AFTER_EVENT, refuse_s=_WAIT_S)
    if recording.word == "rest":
        faults = Faults(cut_after_bytes=CUT_AFTER_BYTES, refuse_s=_WAIT_S)
    recording.phase("amber", _ASKING[recording.word])
    await recording.client.connect()
    recording.relay.faults = faults
    # The model pauses after the sixth of twelve tokens: the line is cut before the pause, and the client is back before its end.
    chatting = asyncio.create_task(collect(recording.client.chat("/tokens 12 /stall 6 hello")))
    await recording.committed(7)
    await _until(lambda: any(connection.state == "refused" for connection in recording.relay.connections))
    recording.relay.refuse(0)
    await chatting
    await recording.leave()


_CANCELLING = {
    "rest": "cancel: hanging up would only be leaving. The answer has not come,<br/>so the session names the running turn",
    "ndjson": "cancel: closing the stream would only be leaving.<br/>A second request stops the turn",
    "sse": "cancel: closing the stream would only be leaving.<br/>A second request stops the turn",
    "websocket": "cancel: a frame on the same connection,<br/>in the middle of the answer",
    "grpc": "cancel: cancelling the call would only be leaving.<br/>A call of its own stops the turn",
}


async def cancel(recording: Recording) -> None:
    """The model is stopped in the middle of its answer."""
    client = recording.client
    session_id = None
    if recording.word == "rest":
        recording.phase("blue", "a session, which will name the running turn")
        session_id = (await client.create_session()).session_id
        await recording.settled()
    recording.phase("amber", _ASKING[recording.word])
    chatting = asyncio.create_task(collect(client.chat("/tokens 12 /stall 40 hello", session_id=session_id)))
    # The model pauses after six tokens, so all that follows follows from the cancel.
    await recording.committed(7)
    await recording.settled()
    recording.phase("red", _CANCELLING[recording.word])
    named = (await client.get_session(session_id)).running_turn_id if session_id is not None else None
    await client.cancel(named or _running_turn(recording))
    await chatting
    await recording.leave()


SIGKILL = "SIGKILL"
_KILLING = "kill -9: the process is gone without a word.<br/>What was committed is in the store, and what was shown was committed"
_RESTARTING = (
    "started again on the same store. Nobody holds the lease on the turn any more, so it gets its end:<br/>"
    "what was shown is kept, and nothing is generated twice behind the reader's back"
)


async def restart(recording: Recording) -> None:
    """The server is killed in the middle of an answer, and started again."""
    recording.phase("amber", _ASKING[recording.word])
    chatting = asyncio.create_task(collect(recording.client.chat("/tokens 12 /stall 40 hello")))
    await recording.committed(7)
    await recording.settled()
    recording.phase("red", _KILLING)
    recording.note("S", SIGKILL)
    recording.server.kill()
    await recording.server.process.wait()
    # When the lease on the running turn has expired, the next process that opens the store may end the turn.
    await asyncio.sleep(2 * float(SETTINGS["LEASE_S"]))
    recording.phase("green", _RESTARTING)
    port = int(recording.server.address.rpartition(":")[2])
    env = {**SETTINGS, "STORE_URL": str(recording.server.log[0]["store"])}
    async with serving(recording.word, port=port, env=env, arguments=["--trace"]) as again:
        recording.logs.append(again.log)
        await chatting
        await recording.leave()


_NODE_KILLING = (
    "kill -9: the node is gone, and its lease on the turn runs out in the store.<br/>"
    "The balancer gives the next request to another node, which has never seen this client"
)


async def node_dies(recording: Recording) -> None:
    """The node that generates is killed in the middle of an answer; the balancer sends the client to another node."""
    recording.phase("amber", _ASKING[recording.word])
    chatting = asyncio.create_task(collect(recording.client.chat("/tokens 12 /stall 40 hello")))
    await _until(lambda: any(_generates(server) for server in recording.servers))
    recording.server = next(server for server in recording.servers if _generates(server))
    await recording.committed(7)
    await recording.settled()
    # A REST client that gets a gateway's answer after this time asks for the server's health before it asks again.
    await asyncio.sleep(_LONG_WAIT_S)
    recording.phase("red", _NODE_KILLING)
    recording.note("S", SIGKILL)
    recording.server.kill()
    await chatting
    await recording.leave()


def _generates(server: Server) -> bool:
    return any(line.get("event") == "chat started" for line in server.log)


def _running_turn(recording: Recording) -> str:
    """The id of the running turn, from its first event, which has passed the relay."""
    for step in reversed(steps(recording.relay.captured)):
        payload = step.payload.get("event", step.payload) if isinstance(step.payload, dict) else {}
        if step.name == "turn_started":
            return str(payload["turn_id"])
    raise RuntimeError("no turn has started")


SCRIPTS: dict[str, Script] = {
    JOURNEY: journey,
    PICTURE: picture,
    RESUME: resume,
    CANCEL: cancel,
    RESTART: restart,
    NODE_DIES: node_dies,
}


@asynccontextmanager
async def recording_on(word: str, address: str, servers: Sequence[Server]) -> AsyncIterator[Recording]:
    """A new recording, with a relay and a client of its own before ``address``: the server's, or the balancer's."""
    async with Relay(address, capture=True) as relay:
        client = TRANSPORTS[word].client(relay.address, give_up_s=_WAIT_S)
        try:
            yield Recording(word, servers, relay, client)
        finally:
            with contextlib.suppress(Exception):
                await client.aclose()
