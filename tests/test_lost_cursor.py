"""A cursor that lies in what the store has lost: each wire says so in its own terms, to foreign clients.

Another process has ended the turn for its owner, so its log ends with the one event of epoch 1, at ``last`` in these tests.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status

from protocols.grpc import chat_pb2 as pb
from shared.client.protocol import Ask, Rewound
from shared.events import Event, TurnInterrupted
from shared.reply import Snapshot
from tests.conftest import WORDS, MakeServers, Servers, until
from tests.event_streams import interpret
from tests.grpc_calls import calling, status_of
from tests.wires import WIRES, GrpcWire, SocketWire

KEY = "the-key-of-the-lost-turn"
MESSAGE = "/tokens 2000 Explain epochs"
HUGE = "9" * 5000


class Orphan(NamedTuple):
    """A turn whose owner was killed: its id, and the seq of its ``turn_interrupted``."""

    turn_id: str
    last: int

    @property
    def lost(self) -> dict[str, Any]:
        return {"type": "cursor_lost", "turn_id": self.turn_id, "last_seq": self.last, "epoch": 1}

    @property
    def seqs(self) -> list[int]:
        return list(range(1, self.last + 1))


@pytest.fixture(scope="module")
def servers(make_servers: MakeServers) -> Servers:
    return make_servers(LEASE_S="1", OFFLINE_TOKENS_PER_S="100", RETRY_MS="50")


@pytest.fixture(scope="module")
def orphan(servers: Servers) -> Iterator[Orphan]:
    """The server that generates the turn is killed, and the five that are started then have the turn's end."""

    async def make() -> Orphan:
        async with httpx.AsyncClient(base_url=f"http://{servers['ndjson'].address}", trust_env=False) as http:
            body = {"message": MESSAGE}
            turn_id = (await http.post("/turns", json=body, headers={"Idempotency-Key": KEY})).json()["turn_id"]

            async def has_chunks() -> bool:
                return bool((await http.get(f"/turns/{turn_id}")).json()["last_seq"] > 12)

            await until(has_chunks)
        await servers.signal("ndjson", signal.SIGKILL)
        servers.start()
        async with servers["rest"].client() as client:

            async def end() -> Snapshot | None:
                turn = await client.get_turn(turn_id)
                return turn if turn.status != "running" else None

            turn = await until(end)
        assert turn.status == "interrupted"
        return Orphan(turn_id, turn.last_seq)

    yield asyncio.run(make())
    assert not servers.errors()


async def get(servers: Servers, word: str, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{servers[word].address}", trust_env=False, timeout=30) as http:
        return await http.get(path, headers=headers)


@pytest.mark.parametrize("by", ["Last-Event-ID", "lastEventId", "after"])
@pytest.mark.parametrize("beyond", [0, 7])
async def test_sse_says_it_and_sends_the_log(servers: Servers, orphan: Orphan, by: str, beyond: int) -> None:
    """The answer has status 200, because any other status ends an EventSource."""
    turn_id, last = orphan
    path = f"/turns/{turn_id}/stream"
    cursor = f"{turn_id}/{last + beyond}"
    match by:
        case "Last-Event-ID":
            answer = await get(servers, "sse", path, **{"Last-Event-ID": cursor})
        case "lastEventId":
            answer = await get(servers, "sse", f"{path}?lastEventId={cursor}")
        case _:
            answer = await get(servers, "sse", f"{path}?after={last + beyond}")
    assert answer.status_code == 200
    told, *events = interpret(answer.content).messages
    assert (told.event, told.last_event_id, json.loads(told.data)) == ("cursor_lost", f"{turn_id}/0", orphan.lost)
    assert [json.loads(event.data)["seq"] for event in events] == orphan.seqs
    assert [event.last_event_id for event in events[:-1]] == [f"{turn_id}/{seq}" for seq in orphan.seqs[:-1]]
    assert (events[-1].event, events[-1].last_event_id) == ("turn_interrupted", f"{turn_id}/{last}.1")
    assert json.loads(events[-1].data)["epoch"] == 1


async def test_sse_after_the_end(servers: Servers, orphan: Orphan) -> None:
    turn_id, last = orphan
    path = f"/turns/{turn_id}/stream"
    assert (await get(servers, "sse", path, **{"Last-Event-ID": f"{turn_id}/{last}.1"})).status_code == 204
    assert (await get(servers, "sse", f"{path}?after={last}&epoch=1")).status_code == 204
    beyond = await get(servers, "sse", path, **{"Last-Event-ID": f"{turn_id}/{last + 1}.1"})
    assert (beyond.status_code, beyond.json()["code"]) == (422, "cursor_out_of_range")
    before = await get(servers, "sse", path, **{"Last-Event-ID": f"{turn_id}/{last - 1}"})
    assert [message.event for message in interpret(before.content).messages] == ["turn_interrupted"]


async def test_a_post_of_sse_that_is_repeated_with_a_lost_cursor(servers: Servers, orphan: Orphan) -> None:
    turn_id, last = orphan
    async with httpx.AsyncClient(base_url=f"http://{servers['sse'].address}", trust_env=False) as http:
        headers = {"Idempotency-Key": KEY, "Last-Event-ID": f"{turn_id}/{last}"}
        answer = await http.post("/chat/stream", json={"message": MESSAGE}, headers=headers)
    messages = interpret(answer.content).messages
    assert [message.event for message in messages[:2]] == ["cursor_lost", "turn_started"]
    assert messages[-1].last_event_id == f"{turn_id}/{last}.1"


@pytest.mark.parametrize("word", ["ndjson", "rest", "websocket"])
async def test_ndjson_and_long_polls_refuse_it(servers: Servers, orphan: Orphan, word: str) -> None:
    turn_id, last = orphan
    route = "stream" if word == "ndjson" else "events"
    for after in (last, last + 7):
        answer = await get(servers, word, f"/turns/{turn_id}/{route}?after={after}&wait=20")
        assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
        problem = answer.json()
        assert (problem["code"], problem["last_seq"], problem["retryable"]) == ("cursor_lost", last, True)
    ended = await get(servers, word, f"/turns/{turn_id}/{route}?after={last}&epoch=1&wait=20")
    assert ended.status_code == 200
    assert ended.content == b"" if word == "ndjson" else ended.json()["events"] == []
    beyond = await get(servers, word, f"/turns/{turn_id}/{route}?after={last + 1}&epoch=1")
    assert (beyond.status_code, beyond.json()["code"]) == (422, "cursor_out_of_range")


async def test_websocket_says_it_and_sends_the_log(servers: Servers, orphan: Orphan) -> None:
    turn_id, last = orphan
    async with SocketWire("websocket", "websocket").connected(servers["websocket"]) as socket:
        for cursor, resumed in (
            ({"after": last}, {"after": 0, "lost": True}),
            ({"after": last + 7}, {"after": 0, "lost": True}),
            ({"after": last, "epoch": 1}, {"after": last}),
        ):
            await socket.send(json.dumps({"type": "resume", "turn_id": turn_id, **cursor}))
            await socket.send('{"type": "ping"}')
            messages: list[dict[str, Any]] = []
            pongs = 0
            while not pongs or (messages[0].get("lost") and messages[-1]["type"] != "turn_interrupted"):
                message = json.loads(await socket.recv())
                pongs += message["type"] == "pong"
                if message["type"] not in ("pong", "connected"):
                    messages.append(message)
            state = {"type": "resumed", "turn_id": turn_id, "last_seq": last, "status": "interrupted"}
            assert messages[0] == {**state, **resumed}
            assert [message["seq"] for message in messages[1:]] == (orphan.seqs if "lost" in resumed else [])


async def test_grpc_ends_with_data_loss(servers: Servers, orphan: Orphan) -> None:
    turn_id, last = orphan
    async with calling(servers["grpc"].address) as stub:
        for after in (last, last + 7):
            call = stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=turn_id, after=after))
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                assert [event async for event in call] == []
            assert refusal.value.code() == grpc.StatusCode.DATA_LOSS
            trailing: dict[str, Any] = dict(refusal.value.trailing_metadata() or ())  # type: ignore[arg-type]
            assert trailing["last_seq"] == str(last)
            info = ErrorInfo()
            (detail,) = rpc_status.from_call(refusal.value).details  # type: ignore[arg-type]
            assert detail.Unpack(info)
            assert info.reason == "CURSOR_LOST"
        ended = stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=turn_id, after=last, epoch=1))
        assert [event async for event in ended] == []
        beyond = stub.ResumeTurn(pb.ResumeTurnRequest(turn_id=turn_id, after=last + 1, epoch=1))
        assert (await status_of(beyond))[:2] == ("OUT_OF_RANGE", "cursor_out_of_range")


async def test_grpc_chat_says_it_and_sends_the_log(servers: Servers, orphan: Orphan) -> None:
    turn_id, last = orphan
    async with calling(servers["grpc"].address) as stub:
        call = stub.Chat()
        assert (await call.read()).WhichOneof("body") == "connected"
        await call.write(pb.ChatRequest(resume=pb.ResumeTurnRequest(turn_id=turn_id, after=last)))
        resumed = (await call.read()).resumed
        assert (resumed.after, resumed.last_seq, resumed.status, resumed.lost) == (0, last, "interrupted", True)
        assert [(await call.read()).event.seq for _ in orphan.seqs] == orphan.seqs
        await call.write(pb.ChatRequest(resume=pb.ResumeTurnRequest(turn_id=turn_id, after=last, epoch=1)))
        resumed = (await call.read()).resumed
        assert (resumed.after, resumed.lost) == (last, False)
        await call.done_writing()
        assert not hasattr(await call.read(), "event")


async def test_a_waiting_post_answers_with_what_is_stored(servers: Servers, orphan: Orphan) -> None:
    async with httpx.AsyncClient(base_url=f"http://{servers['rest'].address}", trust_env=False) as http:
        answer = await http.post("/chat", json={"message": MESSAGE}, headers={"Idempotency-Key": KEY})
        stored = (await http.get(f"/turns/{orphan.turn_id}")).json()
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["text"]) == ("interrupted", stored["text"])


@pytest.mark.parametrize("word", WORDS)
async def test_our_clients_drop_what_they_show_and_read_from_0(servers: Servers, orphan: Orphan, word: str) -> None:
    turn_id, last = orphan
    async with servers[word].client() as client:
        for after in (last, last + 7):
            async with aclosing(client.read(turn_id, after)) as items:
                rewound, *events = [item async for item in items]
            assert rewound == Rewound(turn_id, after, last)
            assert [event.seq for event in events if isinstance(event, Event)] == orphan.seqs
            assert isinstance(events[-1], TurnInterrupted)
            assert events[-1].epoch == 1
        assert [item async for item in client.read(turn_id, last, epoch=1)] == []


async def test_a_cursor_beyond_a_running_turn_is_answered_in_the_end(servers: Servers) -> None:
    """The server that generates the turn answers, and so do the others: no client waits without an end."""
    async with servers["rest"].client() as client:
        turn = await client.start(Ask(text="/tokens 20 /stall 100 Explain patience"))
        asking = [wire.ask(servers[wire.word], "read", turn_id=turn.turn_id, after=1000) for wire in WIRES]
        assert {outcome.code for outcome in await asyncio.gather(*asking)} == {"cursor_out_of_range"}
        await client.cancel(turn.turn_id)


async def test_an_epoch_of_any_length_is_no_error_of_the_server(servers: Servers, orphan: Orphan) -> None:
    turn_id, last = orphan
    for word, route in (("sse", "stream"), ("ndjson", "stream"), ("rest", "events")):
        for epoch, statuses in ((HUGE, {200, 204, 422}), ("-1", {422}), ("x", {422}), ("", {422})):
            answer = await get(servers, word, f"/turns/{turn_id}/{route}?after={last}&epoch={epoch}")
            assert answer.status_code in statuses, (word, epoch[:9])
    for cursor, status in (
        (f"{turn_id}/{last}.{HUGE}", 204),
        (f"{turn_id}/{HUGE}.1", 422),
        (f"{turn_id}/{last}.", 422),
        (f"{turn_id}/{last}.-1", 422),
        (f"{turn_id}/{last}.1.1", 422),
    ):
        answer = await get(servers, "sse", f"/turns/{turn_id}/stream", **{"Last-Event-ID": cursor})
        assert answer.status_code == status, cursor[-20:]
    socket = SocketWire("websocket", "websocket")
    for number in ("-1", HUGE, '"1"', "1.5"):
        frame = f'{{"type": "resume", "turn_id": "{turn_id}", "after": {last}, "epoch": {number}}}'
        outcome = await socket.raw(servers["websocket"], frame)
        assert outcome.status is None, number[:9]
        assert outcome.code in (None, "invalid_request") if number == HUGE else outcome.code == "invalid_request"
    grpc_wire = GrpcWire("grpc", "grpc")
    refused = await grpc_wire.ask(servers["grpc"], "read", turn_id=turn_id, after=last, epoch=-1)
    assert (refused.status, refused.code) == ("INVALID_ARGUMENT", "invalid_request")
