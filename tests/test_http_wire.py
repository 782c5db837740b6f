"""The bytes of REST, NDJSON and SSE from a raw socket: read by h11, and by a parser of our own after WHATWG's text for SSE.

Nothing here uses our clients or httpx, so that what they share with the servers cannot hide a mistake.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from typing import Any

import h11
import pytest
from PIL import Image

from shared.events import EVENT_TYPES
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from tests.conftest import MakeServers, Servers

HTTP_WORDS = ("rest", "ndjson", "sse", "websocket")
STREAMS = ("ndjson", "sse")
MEDIA_TYPES = {"ndjson": "application/x-ndjson", "sse": "text/event-stream; charset=utf-8"}
TOKENS_PER_S = 100
RETRY_MS = 123
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def paced(make_servers: MakeServers) -> Servers:
    """Servers whose model takes its time, with short heartbeats and little patience for slow requests."""
    return make_servers(
        OFFLINE_TOKENS_PER_S=str(TOKENS_PER_S), HEARTBEAT_S="0.2", RETRY_MS=str(RETRY_MS), REQUEST_TIMEOUT_S="1"
    )


# -- HTTP from the socket ------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """One answer: its head, its body in the pieces in which it arrived (with the time of each), and its raw bytes."""

    status: int
    headers: dict[str, str]
    http_version: str
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    whole: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """A connection that speaks HTTP/1.1 as h11 understands it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader = reader
        self.writer = writer
        self._host = host
        self._http = h11.Connection(h11.CLIENT)
        self._raw = bytearray()

    async def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: Any = None) -> Answer:
        """Send a request and read the whole answer."""
        answer = await self.begin(method, target, headers, body)
        async for _ in self.pieces(answer):
            pass
        self._http.start_next_cycle()
        return answer

    async def begin(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Answer:
        """Send a request and read the head of the answer."""
        data = json.dumps(body).encode() if body is not None and not isinstance(body, bytes) else body or b""
        given = {"host": self._host, **(JSON if body is not None else {}), **(headers or {})}
        if method in ("POST", "DELETE"):
            given["content-length"] = str(len(data))
        self._raw.clear()
        for event in (
            h11.Request(method=method, target=target, headers=list(given.items())),
            h11.Data(data=data),
            h11.EndOfMessage(),
        ):
            self.writer.write(self._http.send(event) or b"")
        head = await self._next()
        assert isinstance(head, h11.Response)
        names = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, names, head.http_version.decode(), raw=self._raw)

    async def pieces(self, answer: Answer) -> AsyncIterator[bytes]:
        """The body as it arrives; each piece is noted in the answer."""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), event
            answer.pieces.append((time.perf_counter(), bytes(event.data)))
            yield bytes(event.data)
        answer.whole = True

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(30):
                data = await self.reader.read(65536)
            self._raw += data
            self._http.receive_data(data)
        return event


@asynccontextmanager
async def line(servers: Servers, word: str) -> AsyncIterator[Line]:
    """A connection to a server."""
    address = servers[word].address
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Line(reader, writer, address)
    finally:
        writer.close()


async def ask(servers: Servers, word: str, method: str, target: str, **given: Any) -> Answer:
    async with line(servers, word) as connection:
        return await connection.ask(method, target, given.get("headers"), given.get("body"))


def chunks_of(raw: bytes) -> list[bytes]:
    """The chunks of a chunked body (RFC 9112, section 7.1), to its end."""
    rest = raw[raw.index(b"\r\n\r\n") + 4 :]
    chunks: list[bytes] = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        if length == 0:
            assert rest == b"\r\n"
            return chunks
        chunks.append(rest[:length])
        rest = rest[length + 2 :]


# -- Server-Sent Events, as WHATWG HTML section 9.2.6 interprets a stream ---------------------------------------------------


@dataclass
class Message:
    event: str
    data: str
    last_event_id: str


@dataclass
class EventStream:
    """What a browser makes of a stream: the messages it dispatches, its reconnection time, and the comments it ignores."""

    messages: list[Message] = field(default_factory=list)
    retry_ms: list[int] = field(default_factory=list)
    comments: int = 0


def interpret(stream: bytes) -> EventStream:
    found = EventStream()
    text = stream.decode("utf-8").removeprefix("\ufeff")
    *lines, incomplete = re.split("\r\n|\n|\r", text)
    assert incomplete == "", "the stream ends inside a line"
    data: list[str] = []
    event = last_event_id = ""
    for line in lines:
        if line == "":
            if data:
                found.messages.append(Message(event or "message", "\n".join(data), last_event_id))
            data, event = [], ""
            continue
        if line.startswith(":"):
            found.comments += 1
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_event_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            found.retry_ms.append(int(value))
        else:
            raise AssertionError(f"a field that browsers ignore: {line}")
    assert not data, "the stream ends inside an event"
    return found


def events_of(word: str, body: bytes) -> list[dict[str, Any]]:
    """The events in a streamed body, read with the eyes of the wire's own standard."""
    if word == "ndjson":
        assert body.endswith(b"\n") or not body
        return [json.loads(line) for line in body.split(b"\n") if line]
    found = interpret(body)
    events = []
    for message in found.messages:
        event = json.loads(message.data)
        assert message.event == event["type"]
        assert message.last_event_id == f"{event['turn_id']}/{event['seq']}"
        events.append(event)
    return events


async def log(servers: Servers, turn_id: str) -> list[dict[str, Any]]:
    """The events of a turn by long-polling, which is another route and another framing."""
    events: list[dict[str, Any]] = (await ask(servers, "rest", "GET", f"/turns/{turn_id}/events")).json["events"]
    return events


def with_separators() -> str:
    """A message whose reply has U+2028 and U+0085 in it."""
    for n in count():
        message = f"Explain it, please ({n})."
        if "\u2028" in "".join(reply_tokens([ContextMessage("user", message)])):
            return message
    raise AssertionError


# -- streams ------------------------------------------------------------------------------------------------------------


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
    """Chunks that are well formed, events that are whole, and not one of the separators that line readers trip over."""
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
    # An event is in one chunk: no reader waits for its other half.
    for chunk in chunks_of(bytes(answer.raw)):
        assert chunk.endswith(b"\n")


async def test_what_a_browser_makes_of_sse(servers: Servers, paced: Servers) -> None:
    answer = await ask(paced, "sse", "POST", "/chat/stream", body={"message": "/tokens 5 Hello"})
    found = interpret(answer.body)
    assert found.retry_ms == [RETRY_MS]
    assert answer.body.startswith(b"retry: ")
    assert [message.event for message in found.messages] == ["turn_started", *["chunk"] * 5, "turn_completed"]
    # data is the NDJSON line of the same event, and one line.
    turn_id = json.loads(found.messages[0].data)["turn_id"]
    lines = (await ask(paced, "ndjson", "GET", f"/turns/{turn_id}/stream")).body.decode().splitlines()
    assert [message.data for message in found.messages] == lines


@pytest.mark.parametrize("word", STREAMS)
async def test_tokens_arrive_as_they_are_generated(word: str, paced: Servers) -> None:
    """The arrivals are spread over the generation: by the events' own clock, most of it passes between first and last."""
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


def whole_events(body: bytes) -> bytes:
    """The events that have arrived whole: to the last blank line of SSE, to the last line of NDJSON."""
    end = body.rfind(b"\n\n") + 2 if b"\ndata:" in body or body.startswith(b"retry") else body.rfind(b"\n") + 1
    return body[:end]


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
    """In the silence of a model there are blank lines, or comments; no parser takes them for events."""
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


# -- cursors ------------------------------------------------------------------------------------------------------------


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
    """EventSource comes back to the URL it was given, ``?after=`` and all, with the header of what it has."""
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
    """It answers as soon as there is one event, or after its time with none; the events and the status agree."""
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


# -- plain REST -----------------------------------------------------------------------------------------------------------


async def test_the_fields_of_a_reply(servers: Servers) -> None:
    answer = await ask(servers, "rest", "POST", "/chat", body={"message": "Hello", "model_id": None, "unknown": [1]})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    names = ["turn_id", "session_id", "model", "status", "text", "finish_reason", "usage", "message_count"]
    assert list(answer.json) == [*names, "elapsed_ms", "sha256"]
    assert set(answer.json["usage"]) == {"input_tokens", "output_tokens"}
    assert answer.json["sha256"] == hashlib.sha256(answer.json["text"].encode()).hexdigest()


async def test_a_picture_in_both_forms(servers: Servers) -> None:
    body = {"prompt": "A red bridge", "size": "120x80"}
    whole = await ask(servers, "rest", "POST", "/images", body=body)
    names = ["turn_id", "image_id", "mime_type", "width", "height", "image", "sha256", "revised_prompt"]
    assert list(whole.json) == names
    assert (whole.json["width"], whole.json["height"], whole.json["mime_type"]) == (120, 80, "image/png")
    for accept in ("image/*", "image/png", "image/png, image/webp;q=0.8, */*;q=0.1"):
        data = await ask(servers, "rest", "POST", "/images", body=body, headers={"accept": accept})
        assert (data.status, data.headers["content-type"]) == (200, "image/png")
        assert Image.open(BytesIO(data.body)).size == (120, 80)
        assert hashlib.sha256(data.body).hexdigest() == whole.json["sha256"]


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_picture_and_its_ranges(word: str, servers: Servers) -> None:
    """ETag, conditions and single ranges, as RFC 9110 sections 13 and 14 have them."""
    made = (await ask(servers, "rest", "POST", "/images", body={"prompt": "A hill", "size": "64x64"})).json
    target = f"/images/{made['image_id']}"
    whole = await ask(servers, word, "GET", target)
    data, size, etag = whole.body, len(whole.body), f'"{made["sha256"]}"'
    assert (whole.status, whole.headers["etag"], whole.headers["accept-ranges"]) == (200, etag, "bytes")
    assert (whole.headers["content-type"], int(whole.headers["content-length"])) == ("image/png", size)
    assert hashlib.sha256(data).hexdigest() == made["sha256"]

    async def get(**headers: str) -> Answer:
        return await ask(servers, word, "GET", target, headers={n.replace("_", "-"): v for n, v in headers.items()})

    for given, start, stop in (
        ("bytes=0-99", 0, 100),
        ("bytes=10-10", 10, 11),
        ("bytes=100-", 100, size),
        ("bytes=-50", size - 50, size),
        (f"bytes=5-{size * 9}", 5, size),
        (f"bytes=-{size * 9}", 0, size),
    ):
        part = await get(range=given)
        assert (part.status, part.body) == (206, data[start:stop]), given
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert int(part.headers["content-length"]) == stop - start
        assert part.headers["etag"] == etag
    for given in (f"bytes={size}-", "bytes=-0"):
        none = await get(range=given)
        assert (none.status, none.headers["content-range"]) == (416, f"bytes */{size}"), given
    # What is no range of ours is ignored.
    for given in ("bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "bytes=-", "bytes"):
        assert (await get(range=given)).body == data, given
    for given in (etag, f'W/"x", {etag}', f"W/{etag}", "*"):
        unchanged = await get(if_none_match=given)
        assert (unchanged.status, unchanged.body) == (304, b""), given
        assert unchanged.headers["etag"] == etag
    assert (await get(if_none_match='"other"')).status == 200
    assert (await get(range="bytes=0-1", if_range=etag)).status == 206
    assert (await get(range="bytes=0-1", if_range='"other"')).status == 200


# -- problems ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_problems(word: str, servers: Servers) -> None:
    """RFC 9457's fields and ours, also where the framework refuses: unknown paths and methods."""
    for method, target, body, status, code in (
        ("GET", "/sessions/nobody", None, 404, "session_not_found"),
        ("GET", "/turns/nobody", None, 404, "turn_not_found"),
        ("GET", "/images/nobody", None, 404, "image_not_found"),
        ("POST", "/turns", {"message": " "}, 422, "invalid_request"),
        ("POST", "/turns", b"{", 400, "invalid_request"),
        ("GET", "/no/such/path", None, 404, "invalid_request"),
        ("DELETE", "/turns", None, 405, "invalid_request"),
    ):
        answer = await ask(servers, word, method, target, body=body)
        problem = answer.json
        assert (answer.status, problem["status"], problem["code"]) == (status, status, code), target
        assert answer.headers["content-type"] == "application/problem+json"
        assert list(problem) == ["type", "title", "status", "detail", "code", "retryable", "request_id"]
        assert problem["title"]
        assert problem["detail"]
        if status == 405:
            assert "POST" in answer.headers["allow"]


async def test_when_to_come_back(servers: Servers) -> None:
    answer = await ask(servers, "rest", "POST", "/chat", body={"message": "/fail-first model_rate_limited x"})
    assert (answer.status, answer.json["code"]) == (503, "model_rate_limited")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_key_is_wanted(word: str, keyed: Servers) -> None:
    answer = await ask(keyed, word, "GET", "/sessions")
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


# -- connections ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_connection_is_used_again(word: str, servers: Servers) -> None:
    """After an answer, an empty one and a refusal."""
    async with line(servers, word) as connection:
        session = await connection.ask("POST", "/sessions")
        assert (session.status, session.headers["location"]) == (201, f"/sessions/{session.json['session_id']}")
        again = await connection.ask("GET", session.headers["location"])
        assert again.json == session.json
        assert (await connection.ask("POST", "/turns", body={"message": ""})).status == 422
        gone = await connection.ask("DELETE", session.headers["location"])
        assert (gone.status, gone.body) == (204, b"")
        assert "content-type" not in gone.headers
        assert (await connection.ask("GET", session.headers["location"])).status == 404


@pytest.mark.parametrize("word", HTTP_WORDS)
@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_a_request_that_never_ends_is_dropped(word: str, sent: bytes, paced: Servers) -> None:
    async with line(paced, word) as connection:
        connection.writer.write(sent)
        async with asyncio.timeout(20):
            assert await connection.reader.read() == b""


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_body_that_never_ends_is_refused(word: str, paced: Servers) -> None:
    async with line(paced, word) as connection:
        connection.writer.write(
            b"POST /turns HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        async with asyncio.timeout(20):
            answer = await connection.reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()


# -- browsers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_preflight(word: str, servers: Servers) -> None:
    """A page of ours may send what the contract names; a foreign one is told nothing."""
    origin = "http://localhost:8002"
    wanted = "authorization, x-api-key, content-type, idempotency-key, last-event-id"

    async def preflight(origin: str, method: str) -> Answer:
        headers = {
            "origin": origin,
            "access-control-request-method": method,
            "access-control-request-headers": wanted,
        }
        return await ask(servers, word, "OPTIONS", "/turns", headers=headers)

    for method in ("POST", "DELETE", "GET"):
        allowed = await preflight(origin, method)
        assert allowed.status == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        assert method in allowed.headers["access-control-allow-methods"]
        names = {name.strip() for name in allowed.headers["access-control-allow-headers"].lower().split(",")}
        assert set(wanted.split(", ")) <= names
    assert "access-control-allow-origin" not in (await preflight("http://evil.example", "POST")).headers
    answer = await ask(servers, word, "GET", "/models", headers={"origin": origin})
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert exposed == {"Location", "Content-Location", "Retry-After"}
    assert answer.headers["access-control-allow-origin"] == origin
    assert "origin" in answer.headers["vary"].lower()
    refusal = await ask(servers, word, "POST", "/sessions", headers={"origin": origin}, body={"model_id": 5})
    assert refusal.headers["access-control-allow-origin"] == origin


# -- what the server says about itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_pages(word: str, servers: Servers) -> None:
    for target, media_type in (("/docs", "text/html"), ("/demo", "text/html"), ("/", "application/json")):
        answer = await ask(servers, word, "GET", target)
        assert answer.status == 200, target
        assert answer.headers["content-type"].startswith(media_type), target
    assert (await ask(servers, word, "GET", "/")).json["transport"] == word
    assert (await ask(servers, word, "GET", "/health")).json["status"] == "ok"


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_metrics(word: str, servers: Servers) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    answer = await ask(servers, word, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert {"genai_requests", "genai_events", "genai_streams_active", "genai_server_info"} <= set(families)
    stats = (await ask(servers, word, "GET", "/stats")).json
    outcomes = {sample.labels["outcome"]: sample.value for sample in families["genai_requests"].samples}
    assert outcomes == {"succeeded": stats["requests_succeeded"], "failed": stats["requests_failed"]}


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_the_events_in_openapi(word: str, servers: Servers) -> None:
    """A union told apart by ``type``, complete, and true to what is sent."""
    document = (await ask(servers, word, "GET", "/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.startswith("#/components/schemas/"), reference
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    union = schemas["Event"]
    mapping = union["discriminator"]["mapping"]
    assert union["discriminator"]["propertyName"] == "type"
    assert set(mapping) == {str(kind.__struct_config__.tag) for kind in EVENT_TYPES}
    assert [one["$ref"] for one in union["oneOf"]] == list(mapping.values())
    for tag, reference in mapping.items():
        schema = schemas[reference.rpartition("/")[2]]
        assert schema["properties"]["type"]["enum"] == [tag]
        assert "type" in schema["required"]
    events = []
    for path, body in (("/chat/stream", {"message": "/fail model_timeout x"}), ("/images/stream", {"prompt": "Hill"})):
        events += events_of("ndjson", (await ask(servers, "ndjson", "POST", path, body=body)).body)
    assert {event["type"] for event in events} >= {"turn_started", "chunk", "image_chunk", "turn_failed"}
    for event in events:
        schema = schemas[mapping[event["type"]].rpartition("/")[2]]
        assert set(schema["required"]) <= set(event) <= set(schema["properties"])
    if word in STREAMS:
        for path in ("/chat/stream", "/images/stream"):
            content = document["paths"][path]["post"]["responses"]["200"]["content"]
            assert content[MEDIA_TYPES[word].partition(";")[0]]["schema"] == {"$ref": "#/components/schemas/Event"}


def references(node: Any) -> Iterable[str]:
    match node:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for value in node.values():
                yield from references(value)
        case list():
            for value in node:
                yield from references(value)
