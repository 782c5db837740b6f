"""A store that goes back: its server is killed and comes back with what it had a while before, and the turn's owner is
dead.

The readers on other nodes were shown events that the store has lost. Each reader is told so, and gets all stored
events.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from compare.valkey import Valkey
from protocols.grpc import chat_pb2 as pb
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient, Item, Rewound
from shared.events import AnyEvent, Event, TurnInterrupted
from shared.reply import Fold
from tests.conftest import FAST, WORDS, until
from tests.event_streams import interpret
from tests.grpc_calls import calling
from tests.wires import SocketWire

KEY = "one-key"
MESSAGE = "/tokens 5000 Explain restored stores"


class Shown:
    """What one client has received: the seqs of events, and the wire's other messages in their places."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.last = 0

    def add(self, item: Any, seq: int | None = None) -> None:
        self.items.append(item if seq is None else seq)
        self.last = seq or self.last


@dataclass
class Played:
    """What every client was shown while the store went back, and what each node has of the turn afterwards.

    ``after``: the last seq that was shown before. ``refused`` is the answer to a long poll that waited after that seq, ``reply``
    the answer to a ``POST /chat`` with the turn's key.
    """

    turn_id: str
    ours: dict[str, list[Item]] = field(default_factory=lambda: {word: [] for word in WORDS})
    others: dict[str, Shown] = field(default_factory=lambda: {name: Shown() for name in READERS})
    after: int = 0
    refused: httpx.Response | None = None
    reply: dict[str, Any] = field(default_factory=dict)
    snapshot: dict[str, Any] = field(default_factory=dict)
    logs: list[list[AnyEvent]] = field(default_factory=list)

    @property
    def before(self) -> list[int]:
        return list(range(1, self.after + 1))

    @property
    def again(self) -> list[int]:
        return list(range(1, self.snapshot["last_seq"] + 1))

    @property
    def lost(self) -> dict[str, Any]:
        last_seq = self.snapshot["last_seq"]
        return {"type": "cursor_lost", "turn_id": self.turn_id, "last_seq": last_seq, "epoch": 1}


async def ours(client: ChatClient, turn_id: str, shown: Shown, items: list[Item]) -> None:
    async with aclosing(client.read(turn_id, 0)) as stream:
        async for item in stream:
            items.append(item)
            if isinstance(item, Event):
                shown.add(item, item.seq)


async def ndjson(server: Server, turn_id: str, shown: Shown) -> None:
    url = f"http://{server.address}/turns/{turn_id}/stream"
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http, http.stream("GET", url) as response:
        async for line in response.aiter_lines():
            if line:
                message = json.loads(line)
                shown.add(message, message.get("seq"))


async def sse(server: Server, turn_id: str, shown: Shown) -> None:
    url, rest = f"http://{server.address}/turns/{turn_id}/stream", b""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http, http.stream("GET", url) as response:
        async for piece in response.aiter_raw():
            whole, separator, rest = (rest + piece).rpartition(b"\n\n")
            for message in interpret(whole + separator).messages:
                data = json.loads(message.data)
                shown.add((message.event, message.last_event_id, data), data.get("seq"))


async def websocket(server: Server, turn_id: str, shown: Shown) -> None:
    async with SocketWire("websocket", "websocket").connected(server) as socket:
        await socket.send(json.dumps({"type": "resume", "turn_id": turn_id, "after": 0}))
        async for frame in socket:
            message = json.loads(frame)
            if message["type"] != "connected":
                shown.add(message, message.get("seq"))
            if message["type"] == "turn_interrupted":
                return


async def rpc(server: Server, turn_id: str, shown: Shown) -> None:
    async with calling(server.address) as stub:
        try:
            async for event in stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=turn_id)):
                shown.add(event, event.seq)
        except grpc.aio.AioRpcError as error:
            trailing: dict[str, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
            shown.add((error.code().name, trailing["last_seq"]))


async def rpc_chat(server: Server, turn_id: str, shown: Shown) -> None:
    async with calling(server.address) as stub:
        call = stub.Chat()
        await call.read()
        await call.write(pb.ChatRequest(resume=pb.ResumeTurnRequest(turn_id=turn_id)))
        while True:
            response = await call.read()
            shown.add(response, response.event.seq if response.WhichOneof("body") == "event" else None)
            if response.event.HasField("turn_interrupted"):
                return


READERS: dict[str, Callable[[Server, str, Shown], Coroutine[Any, Any, None]]] = {
    "ndjson": ndjson,
    "sse": sse,
    "websocket": websocket,
    "grpc": rpc,
    "grpc-chat": rpc_chat,
}


async def play(folder: Path) -> Played:
    """A node generates a turn. On a node of each transport this project's client and a foreign program read it."""
    valkey = Valkey(folder, ["save ''", "appendonly yes"])
    append_only, kept = folder / "appendonlydir", folder / "kept"
    await asyncio.to_thread(valkey.start)
    env = {**FAST, "STORE_URL": valkey.url, "LEASE_S": "1", "OFFLINE_TOKENS_PER_S": "50", "RETRY_MS": "50"}
    async with AsyncExitStack() as stack:
        stack.callback(valkey.kill)
        starting = [stack.enter_async_context(serving(word, env=env)) for word in ("ndjson", *WORDS)]
        owner, *started = await asyncio.gather(*starting)
        nodes = dict(zip(WORDS, started, strict=True))
        clients = {word: await stack.enter_async_context(node.client()) for word, node in nodes.items()}
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=60))
        rest = f"http://{nodes['rest'].address}"
        asked: Any = {"json": {"message": MESSAGE}, "headers": {"Idempotency-Key": KEY}}
        played = Played((await http.post(f"http://{owner.address}/turns", **asked)).json()["turn_id"])
        shown = [Shown() for _ in WORDS]
        async with asyncio.TaskGroup() as group:
            for word, one in zip(WORDS, shown, strict=True):
                group.create_task(ours(clients[word], played.turn_id, one, played.ours[word]))
            for name, reader in READERS.items():
                group.create_task(reader(nodes[name.partition("-")[0]], played.turn_id, played.others[name]))
            waiting = group.create_task(http.post(f"{rest}/chat", **asked))
            shown += played.others.values()
            await until(lambda: all(one.last > 20 for one in shown))
            await asyncio.to_thread(shutil.copytree, append_only, kept)
            mark = max(one.last for one in shown)
            await until(lambda: all(one.last > mark + 20 for one in shown))
            owner.kill()
            await owner.process.wait()
            await until(lambda: len({one.last for one in shown}) == 1)
            played.after = shown[0].last
            poll = group.create_task(http.get(f"{rest}/turns/{played.turn_id}/events?after={played.after}&wait=30"))
            valkey.kill()
            await asyncio.to_thread(shutil.rmtree, append_only)
            kept.rename(append_only)
            await asyncio.to_thread(valkey.start)
        played.refused, played.reply = poll.result(), waiting.result().json()
        played.snapshot = (await http.get(f"{rest}/turns/{played.turn_id}")).json()
        played.logs = [await events(client, played.turn_id) for client in clients.values()]
    return played


async def events(client: ChatClient, turn_id: str) -> list[Any]:
    return [item async for item in client.read(turn_id)]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return asyncio.run(play(tmp_path_factory.mktemp("valkey")))


def test_every_node_has_the_same_log_which_ends_earlier(played: Played) -> None:
    log = played.logs[0]
    assert all(other == log for other in played.logs)
    assert [event.seq for event in log] == played.again
    assert 20 < len(log) <= played.after
    end, fold = log[-1], Fold()
    for event in log:
        fold.add(event)
    assert isinstance(end, TurnInterrupted)
    assert (end.epoch, end.sha256) == (1, fold.sha256)
    assert played.snapshot["text"] == fold.text


@pytest.mark.parametrize("word", WORDS)
def test_our_clients_get_all_that_is_stored_and_nothing_twice(played: Played, word: str) -> None:
    told = [item for item in played.ours[word] if isinstance(item, Event | Rewound)]
    rewound = Rewound(played.turn_id, played.after, played.snapshot["last_seq"])
    assert [item if isinstance(item, Rewound) else item.seq for item in told] == [
        *played.before,
        rewound,
        *played.again,
    ]
    assert told[played.after + 1 :] == played.logs[0]


def test_a_line_ends_ndjson(played: Played) -> None:
    assert played.others["ndjson"].items == [*played.before, played.lost]


def test_an_event_with_the_id_0_on_sse(played: Played) -> None:
    told = ("cursor_lost", f"{played.turn_id}/0", played.lost)
    assert played.others["sse"].items == [*played.before, told, *played.again]


def test_an_unasked_resumed_on_websocket(played: Played) -> None:
    asked, *told = played.others["websocket"].items
    unasked = {**asked, "after": 0, "last_seq": played.snapshot["last_seq"], "status": "interrupted", "lost": True}
    assert told == [*played.before, unasked, *played.again]


def test_data_loss_on_grpc(played: Played) -> None:
    assert played.others["grpc"].items == [*played.before, ("DATA_LOSS", str(played.snapshot["last_seq"]))]


def test_an_unasked_resumed_on_grpcs_chat(played: Played) -> None:
    _, *told = played.others["grpc-chat"].items
    resumed = told.pop(played.after).resumed
    said = (resumed.after, resumed.last_seq, resumed.status, resumed.lost)
    assert said == (0, played.snapshot["last_seq"], "interrupted", True)
    assert told == [*played.before, *played.again]


def test_a_waiting_poll_is_refused_and_a_waiting_post_answered(played: Played) -> None:
    refused, last_seq = played.refused, played.snapshot["last_seq"]
    assert refused is not None
    assert (refused.status_code, refused.json()["code"], refused.json()["last_seq"]) == (409, "cursor_lost", last_seq)
    assert (played.reply["status"], played.reply["text"]) == ("interrupted", played.snapshot["text"])
