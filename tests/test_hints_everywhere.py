"""Two whole servers on one Valkey, as on two machines: who types and what is said in a session reaches the connections of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from protocols.grpc import chat_pb2 as pb
from protocols.processes import Server, serving
from tests.conftest import FAST
from tests.grpc_calls import Talk, talking
from tests.store.suite import redis_url
from tests.wires import SocketWire


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[dict[str, Server]]:
    env = {**FAST, "STORE_URL": redis_url(tmp_path)}
    async with AsyncExitStack() as stack:
        yield {word: await stack.enter_async_context(serving(word, env=env)) for word in ("websocket", "grpc")}


async def heard(socket: ClientConnection, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The next message of a WebSocket that is wanted."""
    while True:
        message: dict[str, Any] = json.loads(await socket.recv())
        if wanted(message):
            return message


async def update(socket: ClientConnection) -> dict[str, Any]:
    return await heard(socket, lambda message: message["type"] == "session_update")


async def test_typing_and_messages_reach_the_other_machine(nodes: dict[str, Server]) -> None:
    async with (
        SocketWire("websocket", "websocket").connected(nodes["websocket"]) as ada,
        talking(nodes["grpc"].address) as bob,
    ):
        await ada.send('{"type": "create_session"}')
        session_id = (await heard(ada, lambda message: message["type"] == "session_created"))["session_id"]
        await bob.say(join_session=pb.JoinSession(session_id=session_id))
        await bob.until("session_joined")

        for typing in (True, False):
            await ada.send(json.dumps({"type": "typing_start" if typing else "typing_stop"}))
            hint = await bob.until("session_update")
            assert (hint.session_id, hint.update_type, hint.typing) == (session_id, "user_typing", typing)
        await bob.say(typing_start=pb.TypingStart())
        assert await update(ada) == typed(session_id, True)
        await bob.say(typing_stop=pb.TypingStop())
        assert await update(ada) == typed(session_id, False)

        await ada.send('{"type": "chat", "message": "/tokens 5 from one machine"}')
        assert [(await added(bob)) for _ in range(2)] == [1, 2]
        # The events of the turn reach the other machine, too.
        heard_before = [item.event for item in bob.heard if item.event.WhichOneof("body") == "turn_started"]
        (started,) = heard_before or [await bob.until("turn_started")]
        assert started.turn_started.input == "/tokens 5 from one machine"
        await heard(ada, lambda message: message["type"] == "turn_completed")

        await bob.say(chat=pb.SendMessageRequest(message="/tokens 5 from the other"))
        # The hints and the events of the turn come by ways of their own, so either may be first.
        counts: list[int] = []
        inputs: list[str] = []
        async with asyncio.timeout(10):
            while len(counts) < 2 or not inputs:
                message = json.loads(await ada.recv())
                if message["type"] == "session_update":
                    counts.append(message["message_count"])
                elif message["type"] == "turn_started":
                    inputs.append(message["input"])
        assert counts == [3, 4]
        assert inputs == ["/tokens 5 from the other"]


def typed(session_id: str, typing: bool) -> dict[str, Any]:
    return {"type": "session_update", "session_id": session_id, "update_type": "user_typing", "typing": typing}


async def added(talk: Talk) -> int:
    """The count in the next ``message_added``."""
    while (hint := await talk.until("session_update")).update_type != "message_added":
        pass
    return int(hint.message_count)
