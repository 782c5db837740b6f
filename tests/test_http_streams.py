"""NDJSON, SSE and long-polling on the wire: heads, chunks, events, heartbeats and cursors, read from a raw socket."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import Any

import pytest

from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from tests.conftest import MakeServers, Servers
from tests.event_streams import events_of, interpret, log, whole_events, with_separators
from tests.raw_http import Answer, ask, chunks_of, line

STREAMS = ("ndjson", "sse")
MEDIA_TYPES = {"ndjson": "application/x-ndjson", "sse": "text/event-stream; charset=utf-8"}
TOKENS_PER_S = 100
RETRY_MS = 123


@pytest.fixture(scope="module")
def paced(make_servers: MakeServers) -> Servers:
    """Servers with a slow model and short heartbeats."""
    return make_servers(OFFLINE_TOKENS_PER_S=str(TOKENS_PER_S), HEARTBEAT_S="0.2", RETRY_MS=str(RETRY_MS))


@pytest.mark.parametrize("word", STREAMS)
async def test_the_head_of_a_stream(word: str, servers: Servers) -> None:
    answer = await ask(servers, word, "POST", "/chat/stream", body={"message": "Hello"})
    turn_id = events_of(word, answer.body)[0]["turn_id"]
    assert (answer.status, answer.http_version) == (200, "1.1")
    assert answer.headers["content-type"] == MEDIA_TYPES[word]
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["content-location"] == f"/turns/{turn_id}"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "no-store" in answer.headers["cache-control"]
    for absent in ("content-length", "content-encoding", "server"):
        assert absent not in answer.headers


@pytest.mark.parametrize("word", STREAMS)
@pytest.mark.parametrize("path", ["/chat/stream", "/images/stream"])
async def test_the_body_of_a_stream(word: str, path: str, servers: Servers) -> None:
    """Chunks are well formed, events are whole, and no separator that line readers split on is in the body."""
    message = with_separators()
    body = {"message": message} if path == "/chat/stream" else {"prompt": message, "size": "200x100"}
    answer = await ask(servers, word, "POST", path, body=body)
    assert b"".join(chunks_of(bytes(answer.raw))) == answer.body
    events = events_of(word, answer.body)
    assert events == await log(servers, events[0]["turn_id"])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "turn_completed"
    for separator in ("\u2028", "\u2029", "\u0085"):
        assert separator.encode() not in answer.body
    if path == "/chat/stream":
        text = "".join(event.get("text", "") for event in events)
        assert text == "".join(reply_tokens([ContextMessage("user", message)]))
        assert "\u2028" in text
        assert hashlib.sha256(text.encode()).hexdigest() == events[-1]["sha256"]
    # An event is never split between two chunks: a reader that has a chunk has whole events.
    for chunk in chunks_of(bytes(answer.raw)):
        assert chunk.endswith(b"\n")


async def test_what_a_browser_makes_of_sse(servers: Servers, paced: Servers) -> None:
    answer = await ask(paced, "sse", "POST", "/chat/stream", body={"message": "/tokens 5 Hello"})
    found = interpret(answer.body)
    assert found.retry_ms == [RETRY_MS]
    assert answer.body.startswith(b"retry: ")
    assert [message.event for message in found.messages] == ["turn_started", *["chunk"] * 5, "turn_completed"]
    # ``data`` is the NDJSON line of the same event.
    turn_id = json.loads(found.messages[0].data)["turn_id"]
    lines = (await ask(paced, "ndjson", "GET", f"/turns/{turn_id}/stream")).body.decode().splitlines()
    assert [message.data for message in found.messages] == lines


@pytest.mark.parametrize("word", STREAMS)
async def test_tokens_arrive_as_they_are_generated(word: str, paced: Servers) -> None:
    """The arrivals are spread over the time of the generation, as the events' ``at`` tells it."""
    async with line(paced, word) as connection:
        answer = await connection.begin("POST", "/chat/stream", body={"message": "/tokens 80 Count."})
        arrived: dict[int, float] = {}
        async for _ in connection.pieces(answer):
            for event in events_of(word, whole_events(answer.body)):
                arrived.setdefault(event["seq"], answer.pieces[-1][0])
    chunks = [event for event in events_of(word, answer.body) if event["type"] == "chunk"]
    generated_s = (chunks[-1]["at"] - chunks[0]["at"]) / 1000
    arrived_s = arrived[chunks[-1]["seq"]] - arrived[chunks[0]["seq"]]
    assert generated_s > 0.8 * 79 / TOKENS_PER_S
    assert 0.7 < arrived_s / generated_s < 1.3
    assert len(set(arrived.values())) > len(chunks) / 4
    half = arrived[chunks[40]["seq"]] - arrived[chunks[0]["seq"]]
    assert 0.2 < half / arrived_s < 0.8


async def test_rest_says_nothing_before_it_says_everything(paced: Servers) -> None:
    async with line(paced, "rest") as connection:
        begun = time.perf_counter()
        answer = await connection.begin("POST", "/chat", body={"message": "/tokens 60 Count."})
        first_byte_s = time.perf_counter() - begun
        async for _ in connection.pieces(answer):
            pass
    assert first_byte_s > 0.8 * 60 / TOKENS_PER_S
    assert first_byte_s * 1000 >= answer.json["elapsed_ms"] * 0.9
    assert int(answer.headers["content-length"]) == len(answer.body)


@pytest.mark.parametrize("word", STREAMS)
async def test_heartbeats(word: str, paced: Servers) -> None:
    """While the model is silent, NDJSON has blank lines and SSE has comments. No parser reads these as events."""
    async with line(paced, word) as connection:
        answer = await connection.begin("POST", "/chat/stream", body={"message": "/tokens 6 /stall 600 Count."})
        turn_id = answer.headers["content-location"].removeprefix("/turns/")
        beats = 0
        async for piece in connection.pieces(answer):
            if piece == {"ndjson": b"\n", "sse": b":\n\n"}[word]:
                beats += 1
            if beats == 3:
                assert (await ask(paced, "rest", "POST", f"/turns/{turn_id}/cancel")).status == 200
    events = events_of(word, answer.body)
    assert beats >= 3
    assert [event["type"] for event in events] == ["turn_started", *["chunk"] * 3, "turn_cancelled"]
    beat_times = [when for when, piece in answer.pieces if len(piece) <= 3]
    assert beat_times[2] - beat_times[0] > 0.3


@pytest.fixture
async def told(servers: Servers) -> list[dict[str, Any]]:
    """The log of a turn that has ended."""
    answer = await ask(servers, "ndjson", "POST", "/chat/stream", body={"message": "Explain cursors."})
    return events_of("ndjson", answer.body)


@pytest.mark.parametrize("word", STREAMS)
async def test_a_stream_goes_on_from_a_cursor(word: str, servers: Servers, told: list[dict[str, Any]]) -> None:
    turn_id, last = told[0]["turn_id"], len(told)
    for after in (0, 1, last // 2, last - 1):
        answer = await ask(servers, word, "GET", f"/turns/{turn_id}/stream?after={after}")
        assert answer.headers["content-type"] == MEDIA_TYPES[word]
        assert answer.headers["content-location"] == f"/turns/{turn_id}"
        assert events_of(word, answer.body) == told[after:]
    assert events_of(word, (await ask(servers, word, "GET", f"/turns/{turn_id}/stream")).body) == told


async def test_last_event_id_wins(servers: Servers, told: list[dict[str, Any]]) -> None:
    """EventSource comes back to the same URL, with its ``?after=``, and names in the header the last event that it read."""
    turn_id = told[0]["turn_id"]

    async def resume(target: str, last_event_id: str) -> Answer:
        return await ask(servers, "sse", "GET", target, headers={"last-event-id": last_event_id})

    answer = await resume(f"/turns/{turn_id}/stream?after=1", f"{turn_id}/5")
    assert events_of("sse", answer.body) == told[5:]
    assert (await resume(f"/turns/{turn_id}/stream", f"{turn_id}/{len(told)}")).status == 204
    for wrong in ("5", "/5", f"{turn_id}/x", f"{turn_id}/-1", f"{turn_id}/", "another/5", f"{turn_id}/٣"):
        async with line(servers, "sse") as connection:
            head = f"GET /turns/{turn_id}/stream HTTP/1.1\r\nHost: {servers['sse'].address}\r\nLast-Event-ID: {wrong}\r\n\r\n"
            connection.writer.write(head.encode())
            assert (await connection.reader.readline()).split()[1] == b"422", wrong
    beyond = await resume(f"/turns/{turn_id}/stream", f"{turn_id}/{len(told) + 1}")
    assert (beyond.status, beyond.json["code"]) == (422, "cursor_out_of_range")


async def test_the_end_of_a_log(servers: Servers, told: list[dict[str, Any]]) -> None:
    turn_id, last = told[0]["turn_id"], len(told)
    stream = f"/turns/{turn_id}/stream?after={last}"
    sse, ndjson = await ask(servers, "sse", "GET", stream), await ask(servers, "ndjson", "GET", stream)
    assert (sse.status, sse.body) == (204, b"")
    assert "transfer-encoding" not in sse.headers
    assert (ndjson.status, ndjson.body) == (200, b"")
    begun = time.perf_counter()
    poll = await ask(servers, "rest", "GET", f"/turns/{turn_id}/events?after={last}&wait=30")
    assert poll.json == {"status": "completed", "last_seq": last, "events": []}
    assert time.perf_counter() - begun < 15


async def test_a_long_poll(paced: Servers) -> None:
    """A long poll answers as soon as there is an event, or after ``wait`` seconds with none; events and status agree."""
    start = await ask(paced, "rest", "POST", "/turns", body={"message": "/tokens 6 /slow 1 /stall 1 Count."})
    turn_id = start.json["turn_id"]
    assert (start.status, start.headers["location"]) == (202, f"/turns/{turn_id}")
    assert (start.json["status"], start.json["last_seq"], start.json["text"]) == ("running", 1, "")
    at_once = await ask(paced, "rest", "GET", f"/turns/{turn_id}/events?after=0&wait=30")
    assert [event["type"] for event in at_once.json["events"]] == ["turn_started"]
    none = await ask(paced, "rest", "GET", f"/turns/{turn_id}/events?after=1&wait=0.1")
    assert none.json == {"status": "running", "last_seq": 1, "events": []}
    events: list[dict[str, Any]] = at_once.json["events"]
    polls = 0
    while True:
        after = events[-1]["seq"]
        answer = (await ask(paced, "rest", "GET", f"/turns/{turn_id}/events?after={after}&wait=30")).json
        assert answer["events"]
        events += answer["events"]
        polls += 1
        assert answer["last_seq"] == events[-1]["seq"]
        if answer["status"] != "running":
            break
    assert polls > 1
    assert events == await log(paced, turn_id)
    assert events[-1]["type"] == "turn_completed"


@pytest.mark.parametrize("path", ["/chat/stream", "/images/stream"])
async def test_a_post_that_comes_back(path: str, servers: Servers) -> None:
    """fetch-event-source repeats its POST with ``Last-Event-ID``: with the key of the turn it goes on, and shows nothing twice."""
    body = {"message": "/tokens 8 hello"} if path == "/chat/stream" else {"prompt": "A hill", "size": "300x300"}
    key = {"idempotency-key": f"come-back-{uuid.uuid4()}"}

    async def post(**headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await ask(servers, "sse", "POST", path, body=body, headers=key | given)

    told = events_of("sse", (await post()).body)
    turn_id = told[0]["turn_id"]
    for seq in (0, 1, len(told) - 1):
        answer = await post(last_event_id=f"{turn_id}/{seq}")
        assert events_of("sse", answer.body) == told[seq:]
        assert answer.headers["content-location"] == f"/turns/{turn_id}"
    # An empty ``Last-Event-ID`` counts as absent.
    assert events_of("sse", (await post(last_event_id="")).body) == told
    end = await post(last_event_id=f"{turn_id}/{len(told)}")
    assert (end.status, end.headers["content-type"], end.body) == (200, MEDIA_TYPES["sse"], b"")
    beyond = await post(last_event_id=f"{turn_id}/{len(told) + 1}")
    assert (beyond.status, beyond.json["code"]) == (422, "cursor_out_of_range")


@pytest.mark.parametrize("path", ["/chat/stream", "/images/stream"])
async def test_a_post_with_a_cursor_starts_no_turn(path: str, servers: Servers) -> None:
    body = {"message": "/tokens 3 hello"} if path == "/chat/stream" else {"prompt": "A hill", "size": "16x16"}
    mine, other = f"mine-{uuid.uuid4()}", f"other-{uuid.uuid4()}"
    turn_ids = {}
    for key in (mine, other):
        answer = await ask(servers, "sse", "POST", path, body=body, headers={"idempotency-key": key})
        turn_ids[key] = events_of("sse", answer.body)[0]["turn_id"]
    cursor = f"{turn_ids[mine]}/2"
    before = (await ask(servers, "sse", "GET", "/stats")).json["requests_total"]
    for headers in (
        {"last-event-id": cursor},
        {"last-event-id": cursor, "idempotency-key": other},
        {"last-event-id": cursor, "idempotency-key": f"unknown-{uuid.uuid4()}"},
        {"last-event-id": f"{uuid.uuid4()}/2", "idempotency-key": mine},
        {"last-event-id": "nothing/2", "idempotency-key": mine},
        {"last-event-id": "of another server", "idempotency-key": mine},
        {"last-event-id": f"{cursor}x", "idempotency-key": mine},
    ):
        refused = await ask(servers, "sse", "POST", path, body=body, headers=headers)
        assert (refused.status, refused.json["code"]) == (422, "invalid_request"), headers
        if headers["last-event-id"] == cursor:
            assert "send Last-Event-ID with the Idempotency-Key" in refused.json["detail"]
    changed = {name: f"{value} x" for name, value in body.items() if name != "size"}
    headers = {"last-event-id": cursor, "idempotency-key": mine}
    reused = await ask(servers, "sse", "POST", path, body=changed, headers=headers)
    assert reused.json["code"] == "idempotency_key_reused"
    assert (await ask(servers, "sse", "GET", "/stats")).json["requests_total"] == before


async def test_the_cursor_of_a_polyfill(servers: Servers, told: list[dict[str, Any]]) -> None:
    """event-source-polyfill cannot set the header, so it puts the last id into the query. The header wins over it."""
    turn_id, last = told[0]["turn_id"], len(told)
    stream = f"/turns/{turn_id}/stream"
    quoted = f"{turn_id}%2F"
    for target, header, after in (
        (f"{stream}?lastEventId={quoted}4", None, 4),
        (f"{stream}?after=1&lastEventId={quoted}4", None, 4),
        (f"{stream}?after=2&lastEventId=", None, 2),
        (f"{stream}?after=2&lastEventId={quoted}4", f"{turn_id}/5", 5),
        (f"{stream}?after=2&lastEventId={quoted}4", "", 4),
    ):
        headers = {} if header is None else {"last-event-id": header}
        answer = await ask(servers, "sse", "GET", target, headers=headers)
        assert events_of("sse", answer.body) == told[after:], target
    assert (await ask(servers, "sse", "GET", f"{stream}?lastEventId={quoted}{last}")).status == 204
    for wrong in (f"{stream}?lastEventId={quoted}1&lastEventId={quoted}2", f"{stream}?lastEventId=another%2F1"):
        refused = await ask(servers, "sse", "GET", wrong)
        assert (refused.status, refused.json["code"]) == (422, "invalid_request"), wrong
