"""Twelve seconds of silence through five real proxies that give up after two: heartbeats keep every stream open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from protocols import TRANSPORTS
from protocols.grpc import chat_pb2 as pb
from protocols.ports import free_port
from shared.events import Chunk
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from shared.reply import Reply
from tests.conftest import Backstage, MakeServers, Servers
from tests.grpc_calls import calling, run
from tests.parts import PARTS, find, part
from tests.proxies import COMMANDS, proxy, silence_config

pytestmark = pytest.mark.timeout(300)

PROTO = Path(__file__).resolve().parents[1] / "protocols" / "grpc" / "chat.proto"
JS = Path(__file__).parent / "grpc_js"
SILENCE_S = 12
IDLE_S = 2
HEARTBEAT_S = 0.5
MESSAGE = f"/tokens 4 /stall {SILENCE_S} hello"
STREAMING = ("ndjson", "sse", "websocket", "grpc")


@dataclass
class Heard:
    """What a client received of one turn: the kinds of the events, the count of heartbeats, and the stream's end."""

    kinds: list[str] = field(default_factory=list)
    heartbeats: int = 0
    end: str = "OK"


async def our_client(word: str, address: str) -> Heard:
    """A client that does not resume, so that a stream which a proxy cuts stays cut."""
    heard = Heard()
    async with TRANSPORTS[word].client(address, resume=False) as client:
        async for item in client.chat(MESSAGE):
            heard.kinds.append("chunk" if isinstance(item, Chunk) else type(item).__name__)
    return heard


async def waiting_rest(address: str) -> Heard:
    """A waiting request is always silent, so each proxy gives up. The client repeats the request with its key."""
    async with TRANSPORTS["rest"].client(address) as client:
        replies = [item async for item in client.chat(MESSAGE) if isinstance(item, Reply)]
    return Heard([reply.text for reply in replies], 0, f"{len(replies)} of {replies[0].message_count} messages")


async def generated_stub(address: str) -> Heard:
    """The code that protoc generates, on a channel with the library's defaults."""
    heard = Heard()
    async with calling(address) as stub:
        call = stub.SendMessage(pb.SendMessageRequest(message=MESSAGE))
        async for event in call:
            kind = event.WhichOneof("body")
            if kind == "heartbeat":
                assert (event.seq, event.at, bool(event.turn_id)) == (0, 0.0, True)
                heard.heartbeats += 1
            else:
                heard.kinds.append(kind)
        heard.end = (await call.code()).name
    return heard


async def chat_stream(address: str) -> Heard:
    """``Chat``, with a turn and a silence in it."""
    heard = Heard()
    async with calling(address) as stub:
        call = stub.Chat()
        await call.write(pb.ChatRequest(chat=pb.SendMessageRequest(message=MESSAGE)))
        async for response in call:
            kind = response.WhichOneof("body")
            heard.heartbeats += kind == "heartbeat"
            if kind == "event":
                heard.kinds.append(response.event.WhichOneof("body"))
                if heard.kinds[-1] == "turn_completed":
                    await call.done_writing()
        heard.end = (await call.code()).name
    return heard


async def idle_chat_stream(address: str) -> Heard:
    """``Chat`` without a request: the stream of a session that is only watched."""
    heard = Heard()
    async with calling(address) as stub:
        call = stub.Chat()
        begun = time.monotonic()
        async for response in call:
            heard.heartbeats += response.WhichOneof("body") == "heartbeat"
            if time.monotonic() - begun > SILENCE_S:
                await call.done_writing()
        heard.end = (await call.code()).name
    return heard


async def grpc_js(address: str) -> Heard:
    """A client in another language, from chat.proto alone."""
    seen = json.loads(await run("node", "silence.mjs", address, str(PROTO), MESSAGE, cwd=JS))
    kinds = [event["body"] for event in seen["events"]]
    spoken = [kind for kind in kinds if kind != "heartbeat"]
    return Heard(spoken, len(kinds) - len(spoken), "OK" if seen["code"] == 0 else str(seen))


GRPC_CLIENTS: dict[str, Callable[[str], Awaitable[Heard]]] = {
    "generated stub": generated_stub,
    "Chat": chat_stream,
    "idle Chat": idle_chat_stream,
    "grpc-js": grpc_js,
}
Runs = dict[tuple[str, str], Callable[[], Awaitable[Heard]]]
Outcomes = dict[tuple[str, str], Heard | BaseException]


async def all_at_once(runs: Runs) -> Outcomes:
    limited = [asyncio.wait_for(listen(), 3 * SILENCE_S) for listen in runs.values()]
    outcomes = await asyncio.gather(*limited, return_exceptions=True)
    return dict(zip(runs, outcomes, strict=True))


@pytest.fixture(scope="module")
def quick_hearts(make_servers: MakeServers) -> Servers:
    return make_servers(HEARTBEAT_S=str(HEARTBEAT_S))


@pytest.fixture(scope="module")
def outcomes(
    quick_hearts: Servers, backstage: Backstage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """What every client received through every proxy of this machine, all in the same twelve seconds."""
    quick_hearts.start(*STREAMING, "rest")
    with contextlib.ExitStack() as stack:
        runs: Runs = {}
        for name in COMMANDS:
            if find(PARTS[name]) is None:
                continue
            for word in (*STREAMING, "rest"):
                port, folder = free_port(), tmp_path_factory.mktemp(name)
                target = quick_hearts[word].address
                lines = silence_config(name, port, target, grpc=word == "grpc", idle_s=IDLE_S)
                address = stack.enter_context(proxy(name, folder, port, lines))
                runs[name, word] = partial(waiting_rest if word == "rest" else partial(our_client, word), address)
                if word == "grpc":
                    runs |= {(name, client): partial(listen, address) for client, listen in GRPC_CLIENTS.items()}
        outcomes = backstage.run(all_at_once(runs))
        # While all this starts, a heartbeat may be two seconds late on a busy machine, but not twice.
        cut = {key: run for key, run in runs.items() if not isinstance(outcomes[key], Heard)}
        yield outcomes | (backstage.run(all_at_once(cut)) if cut else {})


def heard(outcomes: Outcomes, name: str, client: str) -> Heard:
    outcome = outcomes[name, client]
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("word", STREAMING)
def test_our_clients_need_no_resume(name: str, word: str, outcomes: Outcomes) -> None:
    part(name)
    kinds = heard(outcomes, name, word).kinds
    assert kinds == ["TurnStarted", *["chunk"] * 4, "TurnCompleted"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_waiting_request_is_repeated_until_the_whole_reply_is_there(name: str, outcomes: Outcomes) -> None:
    """The proxy times out six times in a row, and there is one turn with one run of the model."""
    part(name)
    (text,), end = heard(outcomes, name, "rest").kinds, heard(outcomes, name, "rest").end
    assert text == "".join(reply_tokens([ContextMessage("user", MESSAGE)]))
    assert end == "1 of 2 messages"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("client", GRPC_CLIENTS)
def test_foreign_grpc_clients_get_heartbeats_as_messages(name: str, client: str, outcomes: Outcomes) -> None:
    part(name)
    if client == "grpc-js":
        part("grpc-js")
    found: Any = heard(outcomes, name, client)
    assert found.end == "OK"
    # On a busy machine some heartbeats are late. A proxy waits for two seconds.
    assert found.heartbeats >= SILENCE_S / IDLE_S
    if client != "idle Chat":
        assert found.kinds == ["turn_started", *["chunk"] * 4, "turn_completed"]
