"""What is played for each diagram, and why, in the words that stand in it. The same four scripts for all five transports."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from protocols import TRANSPORTS
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient, collect

SETTINGS = {
    "GENAI_PROVIDER": "offline",
    "IMAGE_PROVIDER": "offline",
    "OFFLINE_TOKENS_PER_S": "20",
    "OFFLINE_FIRST_TOKEN_MS": "150",
    "LEASE_S": "1.5",
}
CUT_AFTER_EVENT = 4
# The line is cut in the head of a whole reply.
CUT_AFTER_BYTES = 90
_WAIT_S = 60.0

JOURNEY, RESUME, CANCEL, RESTART = "", "_resume", "_cancel", "_restart"
FILES = {"rest": "rest", "ndjson": "streamable_http", "sse": "sse", "websocket": "websockets", "grpc": "grpc"}
TITLES = {
    JOURNEY: "{}: the whole journey",
    RESUME: "{}: the line is cut in the middle of an answer",
    CANCEL: "{}: an answer is cancelled",
    RESTART: "{}: the server is killed in the middle of an answer, and comes back",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that no byte shows: a phase begins (``colour`` set), or something happens to ``where``."""

    at: float
    text: str
    colour: str = ""
    where: str = ""


class Stage:
    """Where a script is played: a client behind a capturing relay, and what it marks."""

    def __init__(self, word: str, server: Server, relay: Relay, client: ChatClient) -> None:
        self.word = word
        self.server = server
        self.relay = relay
        self.client = client
        self.marks: list[Mark] = []
        self.logs = [server.log]

    def phase(self, colour: str, text: str) -> None:
        """What comes now, and why."""
        self.marks.append(Mark(_now(), text, colour=colour))

    def note(self, where: str, text: str) -> None:
        """Something happens to a participant."""
        self.marks.append(Mark(_now(), text, where=where))

    async def committed(self, seq: int) -> None:
        """Wait until the server's own log says so."""
        await _until(lambda: any(line.get("seq") == seq for line in self.server.log))

    async def leave(self) -> None:
        """Close the client, and wait until the relay has seen it."""
        self.phase("grey", "leaving")
        await self.client.aclose()
        await _until(self._closed)
        self.note("C,S", "the client closes its TCP connections")

    def _closed(self) -> bool:
        # grpc.aio: a call that was read to its end holds its channel, and the channel its connection, in a cycle.
        gc.collect()
        return all(line.state != "open" for line in self.relay.connections)


Script = Callable[[Stage], Awaitable[None]]


def _now() -> float:
    return time.time_ns() / 1e6


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


ASKING = {
    "rest": "a turn: one request, one answer.<br/>The status line comes first, so nothing can be sent before all is there",
    "ndjson": "a turn: one answer that lasts as long as the turn,<br/>a line for each event",
    "sse": "a turn: one answer that lasts as long as the turn.<br/>Each event bears its id, the cursor to come back to",
    "websocket": "a turn: a frame asks, frames answer,<br/>and the connection stays free in both directions",
    "grpc": "a turn: a call of its own on the one connection,<br/>a message for each event, the status last",
}


async def journey(stage: Stage) -> None:
    """Health, a session, a turn with its events, what one does with sessions, leaving."""
    client = stage.client
    stage.phase("green", "health: is it there, and would it take a turn?")
    await client.health()
    stage.phase("blue", "a session: what is said belongs to a conversation in the store,<br/>not to a connection")
    session = await client.create_session()
    stage.phase("amber", ASKING[stage.word])
    await collect(client.chat("/tokens 12 hello", session_id=session.session_id))
    # What ends the stream comes after the terminal event.
    await _settled(stage)
    stage.phase("blue", "the session afterwards: both messages are there, for every transport")
    await client.get_session(session.session_id)
    await client.list_messages(session.session_id)
    # On a held connection a hint follows, which is bound to no answer.
    await client.clear_session(session.session_id)
    await _settled(stage)
    stage.phase("blue", "deleted: the session, and its turns with it")
    await client.delete_session(session.session_id)
    await _settled(stage)
    await stage.leave()


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


async def resume(stage: Stage) -> None:
    """The line is cut in the middle of an answer; the client comes back by itself."""
    faults = Faults(cut_after_event=CUT_AFTER_EVENT, refuse_s=_WAIT_S)
    if stage.word == "rest":
        faults = Faults(cut_after_bytes=CUT_AFTER_BYTES, refuse_s=_WAIT_S)
    stage.phase("amber", ASKING[stage.word])
    await stage.client.connect()
    stage.relay.faults = faults
    # Twelve tokens, a silence after the sixth: the line is cut before it, and the client is back before its end.
    chatting = asyncio.create_task(collect(stage.client.chat("/tokens 12 /stall 6 hello")))
    await stage.committed(7)
    await _until(lambda: any(line.state == "refused" for line in stage.relay.connections))
    stage.relay.refuse(0)
    await chatting
    await stage.leave()


CANCELLING = {
    "rest": "cancel: hanging up would only be leaving. The answer has not come,<br/>so the session names the running turn",
    "ndjson": "cancel: closing the stream would only be leaving.<br/>A second request stops the turn",
    "sse": "cancel: closing the stream would only be leaving.<br/>A second request stops the turn",
    "websocket": "cancel: a frame on the same connection,<br/>in the middle of the answer",
    "grpc": "cancel: cancelling the call would only be leaving.<br/>A call of its own stops the turn",
}


async def cancel(stage: Stage) -> None:
    """Somebody stops the model in the middle of its answer."""
    client = stage.client
    stage.phase("blue", "a session")
    session = await client.create_session()
    await _settled(stage)
    stage.phase("amber", ASKING[stage.word])
    chatting = asyncio.create_task(collect(client.chat("/tokens 12 /stall 40 hello", session_id=session.session_id)))
    # Six tokens, then the model is silent: what follows follows from the cancel alone.
    await stage.committed(7)
    await _settled(stage)
    stage.phase("red", CANCELLING[stage.word])
    running = (await client.get_session(session.session_id)).running_turn_id if stage.word == "rest" else None
    await client.cancel(running or _turn_id(stage))
    await chatting
    await stage.leave()


SIGKILL = "SIGKILL"
KILLING = "kill -9: the process is gone without a word.<br/>What was committed is in the store, and what was shown was committed"
AGAIN = (
    "started again on the same store. Nobody holds the lease on the turn any more, so it gets its end:<br/>"
    "what was shown is kept, and nothing is generated twice behind the reader's back"
)


async def restart(stage: Stage) -> None:
    """The server is killed in the middle of an answer, and started again."""
    stage.phase("amber", ASKING[stage.word])
    chatting = asyncio.create_task(collect(stage.client.chat("/tokens 12 /stall 40 hello")))
    await stage.committed(7)
    await _settled(stage)
    stage.phase("red", KILLING)
    stage.note("S", SIGKILL)
    stage.server.kill()
    await stage.server.process.wait()
    # The lease on the running turn runs out: whoever opens the store next may end it.
    await asyncio.sleep(2 * float(SETTINGS["LEASE_S"]))
    stage.phase("green", AGAIN)
    port = int(stage.server.address.rpartition(":")[2])
    async with serving(stage.word, port=port, env=stage_env(stage), arguments=["--trace"]) as again:
        stage.logs.append(again.log)
        await chatting
        await stage.leave()


async def _settled(stage: Stage) -> None:
    """Until what was sent has passed the relay: nothing has moved for a moment."""
    seen = -1
    while seen != len(stage.relay.captured):
        seen = len(stage.relay.captured)
        await asyncio.sleep(0.25)


def _turn_id(stage: Stage) -> str:
    """The running turn, from what has passed the relay (its first event names it)."""
    from compare.lines.steps.read import steps

    for step in reversed(steps(stage.relay.captured)):
        payload = step.payload.get("event", step.payload) if isinstance(step.payload, dict) else {}
        if step.name == "turn_started":
            return str(payload["turn_id"])
    raise RuntimeError("no turn has started")


def stage_env(stage: Stage) -> dict[str, str]:
    """The settings of a server that is to take over from the stage's."""
    return {**SETTINGS, "STORE_URL": str(stage.server.log[0]["store"])}


SCRIPTS: dict[str, Script] = {JOURNEY: journey, RESUME: resume, CANCEL: cancel, RESTART: restart}


@asynccontextmanager
async def staged(word: str, server: Server) -> AsyncIterator[Stage]:
    """A fresh relay and a fresh client before a server."""
    async with Relay(server.address, capture=True) as relay:
        client = TRANSPORTS[word].client(relay.address, give_up_s=_WAIT_S)
        stage = Stage(word, server, relay, client)
        try:
            yield stage
        finally:
            with contextlib.suppress(Exception):
                await client.aclose()
