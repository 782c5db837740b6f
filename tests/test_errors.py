"""The error table, walked: every row on every transport, in the wire's own terms and as this project's client raises
it.

``TABLE`` is the contract's table written out again, so that the code's table is compared with it and not with itself.
"""

from __future__ import annotations

import ast
import asyncio
import re
import signal
import sqlite3
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import apsw
import httpx
import pytest

from protocols.grpc import chat_pb2 as pb
from protocols.grpc import image_generation_pb2
from shared.client.protocol import Ask, ChatClient, Item, collect, collect_picture
from shared.errors import ERRORS, ChatError, ConnectionLost, ErrorCode, known_code
from shared.events import Event, event_type
from shared.llm.gemini import PROVIDER
from shared.llm.provider import provider_error
from shared.store.open import open_store
from shared.store.protocol import Damaged, Options
from tests.conftest import KEY, WORDS, Connect, MakeServers, Servers, until
from tests.wires import WIRES, GrpcChatWire, GrpcWire, HttpWire, Outcome, SocketWire, Wire, channel

FOREVER = "/tokens 4 /stall 600 Wait."
IMAGES = "/imagegeneration.ImageGenerationService/GenerateImage"


@dataclass(frozen=True)
class Row:
    """HTTP's status, gRPC's, what a WebSocket does (a number: it closes with it), and whether a new request may succeed."""

    http: int
    grpc: str
    socket: Literal["error", "turn_failed"] | int | None
    retryable: bool = False
    waits: bool = False


TABLE: dict[ErrorCode, Row] = {
    "invalid_request": Row(422, "INVALID_ARGUMENT", "error"),
    "unauthenticated": Row(401, "UNAUTHENTICATED", 4401),
    "permission_denied": Row(403, "PERMISSION_DENIED", 403),
    "session_not_found": Row(404, "NOT_FOUND", "error"),
    "turn_not_found": Row(404, "NOT_FOUND", "error"),
    "image_not_found": Row(404, "NOT_FOUND", "error"),
    "turn_in_progress": Row(409, "ABORTED", "error", True),
    "turn_not_completed": Row(409, "ABORTED", None),
    "idempotency_key_reused": Row(422, "INVALID_ARGUMENT", "error"),
    "cursor_out_of_range": Row(422, "OUT_OF_RANGE", "error"),
    "turn_expired": Row(410, "OUT_OF_RANGE", "error"),
    "cursor_lost": Row(409, "DATA_LOSS", None, True),
    "payload_too_large": Row(413, "RESOURCE_EXHAUSTED", 1009),
    "unsupported_media_type": Row(415, "INVALID_ARGUMENT", 1003),
    "rate_limited": Row(429, "RESOURCE_EXHAUSTED", "error", True, True),
    "too_many_streams": Row(429, "RESOURCE_EXHAUSTED", "error", True, True),
    "model_not_found": Row(422, "INVALID_ARGUMENT", "turn_failed"),
    "content_refused": Row(422, "FAILED_PRECONDITION", "turn_failed"),
    "model_unauthorized": Row(502, "INTERNAL", "turn_failed"),
    "model_rate_limited": Row(503, "UNAVAILABLE", "turn_failed", True, True),
    "model_unavailable": Row(502, "UNAVAILABLE", "turn_failed", True),
    "model_timeout": Row(504, "DEADLINE_EXCEEDED", "turn_failed", True),
    "storage_unavailable": Row(503, "UNAVAILABLE", "error", True, True),
    "shutting_down": Row(503, "UNAVAILABLE", 1012, True),
    "internal": Row(500, "INTERNAL", "error", True),
}
FAILURES = [code for code, row in TABLE.items() if row.socket == "turn_failed"]


def test_the_table_is_the_contracts() -> None:
    assert list(ERRORS) == list(TABLE)
    for code, row in TABLE.items():
        kind = ERRORS[code]
        closes = row.socket if isinstance(row.socket, int) and row.socket >= 1000 else None
        assert (kind.http, kind.grpc, kind.ws_close, kind.retryable) == (row.http, row.grpc, closes, row.retryable)
        assert (kind.retry_after_s is not None) == row.waits
        assert kind.message.endswith(".")


def test_nothing_here_is_rate_limited() -> None:
    """No chat server limits requests by rate.

    The row is for a proxy in front of one, whose 429 the clients understand.
    """
    error = ChatError("rate_limited")
    assert (error.http_status, error.kind.grpc, error.retryable, error.retry_after_s) == (
        429,
        "RESOURCE_EXHAUSTED",
        True,
        1,
    )


NEXT = re.compile(
    r"\b([Gg]ive|open|make|add|ask|check|choose|connect|correct|give|join|must|raise|read|[Ss]end|set|shorten|start|takes|try|use|wait|restart"
    r"|log names|has one at|it draws|is a new|/docs|docs/|streams it|close)\b|pip install|begins with"
)
# The article's repository has these two.
GIVEN = {"Invalid API key", "Prompt is required"}


def words_of_refusals() -> dict[str, str]:
    """Each text that the servers' code gives to an error, with the file and line; what is computed stands as ``…``."""
    root = Path(__file__).parents[1]
    found = {}
    for path in (*root.glob("shared/**/*.py"), *root.glob("protocols/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name not in ("ChatError", "AnswerBroken", "sentence"):
                continue
            for part in node.args[-2 if name == "ChatError" else -1 :]:
                pieces = part.values if isinstance(part, ast.JoinedStr) else [part]
                text = "".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in pieces)
                if text.count(" ") > 1:
                    found[f"{path.relative_to(root)}:{part.lineno}"] = text
    return found


def test_every_error_says_what_to_do_next() -> None:
    found = words_of_refusals()
    assert len(found) > 60
    found |= {code: row.message for code, row in ERRORS.items()}
    found |= {
        f"the provider's {status} {code}": provider_error(PROVIDER, status, [code], model="m").message
        for status in (None, 302, *range(400, 600))
        for code in ("", "context_length_exceeded")
    }
    assert {where: text for where, text in found.items() if text not in GIVEN and not NEXT.search(text)} == {}
    assert {where: text for where, text in found.items() if not re.match(r"[A-Za-z…{-]", text)} == {}


@pytest.fixture(params=WIRES, ids=repr)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each wire: the five, and gRPC's ``Chat``."""
    chosen: Wire = request.param
    return chosen


def check(outcome: Outcome, wire: Wire, code: str, *, http: int | None = None, held: bool = False) -> None:
    """The row as this wire shows it. ``held``: on a held connection it came as a message, or as the end of it."""
    row = TABLE[known_code(code)]
    assert outcome.code == code, outcome
    assert outcome.message, outcome
    if isinstance(wire, HttpWire) or (isinstance(wire, SocketWire) and not held):
        if outcome.failed:
            assert (outcome.status, outcome.retryable) == (200, row.retryable), outcome
            return
        assert (outcome.status, outcome.retryable) == (http or row.http, row.retryable), outcome
        assert outcome.headers["content-type"] == "application/problem+json"
        assert (outcome.retry_after_s is not None) == row.waits, outcome
        assert ("www-authenticate" in outcome.headers) == (code == "unauthenticated")
    elif isinstance(wire, GrpcWire) or not held:
        assert outcome.status == row.grpc, outcome
        assert (outcome.retry_after_s is not None) == row.waits, outcome
        if outcome.failed:
            assert outcome.retryable == row.retryable
    elif isinstance(row.socket, int):
        assert outcome.status == (row.socket if isinstance(wire, SocketWire) else row.grpc), outcome
    else:
        assert (outcome.status, outcome.retryable) == (None, row.retryable), outcome
        assert outcome.failed == (row.socket == "turn_failed"), outcome


def held(wire: Wire) -> bool:
    return isinstance(wire, SocketWire | GrpcChatWire)


async def raised(work: Awaitable[object]) -> str:
    with pytest.raises(ChatError) as refusal:
        await work
    row = TABLE[refusal.value.kind.code]
    assert refusal.value.retryable == row.retryable
    assert refusal.value.message
    return refusal.value.code


async def events(items: AsyncGenerator[Item, None]) -> list[Item]:
    async with aclosing(items):
        return [item async for item in items]


@pytest.fixture
async def waiting(servers: Servers) -> AsyncIterator[Callable[..., Awaitable[tuple[str, str]]]]:
    """``await waiting(…)``: (session, turn) of an answer that is not finished before the test is."""
    started: list[tuple[ChatClient, str]] = []

    async def start(on: Servers | None = None, word: str = "rest", **options: Any) -> tuple[str, str]:
        client = (on or servers)[word].client(**options)
        snapshot = await client.start(Ask(text=FOREVER))
        started.append((client, snapshot.turn_id))
        assert snapshot.session_id is not None
        return snapshot.session_id, snapshot.turn_id

    yield start
    for client, turn_id in started:
        await client.cancel(turn_id)
        await client.aclose()


async def test_invalid_request(wire: Wire, servers: Servers, client: Connect) -> None:
    server = servers[wire.word]
    check(await wire.ask(server, "chat", message=" \n "), wire, "invalid_request", held=held(wire))
    check(await wire.ask(server, "image", prompt="x", size="big"), wire, "invalid_request", held=held(wire))
    check(await wire.raw(server, "{"), wire, "invalid_request", http=400, held=held(wire))
    here = await client(wire.word)
    assert await raised(collect(here.chat(" "))) == "invalid_request"
    assert await raised(collect_picture(here.image("x", size="0x0"))) == "invalid_request"


@pytest.mark.parametrize(
    ("code", "what", "fields"),
    [
        ("session_not_found", "chat", {"message": "Hi", "session_id": "nobody"}),
        ("session_not_found", "image", {"prompt": "Hi", "session_id": "nobody"}),
        ("session_not_found", "session", {"session_id": "nobody"}),
        ("session_not_found", "messages", {"session_id": "nobody"}),
        ("session_not_found", "clear", {"session_id": "nobody"}),
        ("session_not_found", "delete", {"session_id": "nobody"}),
        ("turn_not_found", "read", {"turn_id": "nothing", "after": 0}),
        ("turn_not_found", "turn", {"turn_id": "nothing"}),
        ("turn_not_found", "cancel", {"turn_id": "nothing"}),
        ("image_not_found", "picture", {"image_id": "nothing"}),
    ],
)
async def test_not_found(wire: Wire, code: str, what: str, fields: dict[str, Any], servers: Servers) -> None:
    outcome = await wire.ask(servers[wire.word], what, **fields)
    check(outcome, wire, code, held=held(wire) and what in ("chat", "image", "read", "cancel"))


async def test_not_found_as_the_client_says_it(word: str, client: Connect) -> None:
    here, nobody = await client(word), str(uuid.uuid4())
    works: list[Awaitable[object]] = [
        collect(here.chat("Hi", session_id=nobody)),
        here.get_session(nobody),
        here.list_messages(nobody),
        here.clear_session(nobody),
        here.delete_session(nobody),
    ]
    for work in works:
        assert await raised(work) == "session_not_found"
    works = [events(here.read(nobody, 0)), here.get_turn(nobody), here.cancel(nobody)]
    for work in works:
        assert await raised(work) == "turn_not_found"
    assert await raised(here.get_image(nobody)) == "image_not_found"


async def test_turn_in_progress(
    wire: Wire, servers: Servers, client: Connect, waiting: Callable[..., Awaitable[tuple[str, str]]]
) -> None:
    session_id, _ = await waiting()
    server, here = servers[wire.word], await client(wire.word)
    for what, name in (("chat", "message"), ("image", "prompt")):
        outcome = await wire.ask(server, what, None, **{"session_id": session_id, name: "Me too"})
        check(outcome, wire, "turn_in_progress", held=held(wire))
    for what in ("clear", "delete"):
        check(await wire.ask(server, what, session_id=session_id), wire, "turn_in_progress")
    for work in (
        collect(here.chat("Me too", session_id=session_id)),
        here.clear_session(session_id),
        here.delete_session(session_id),
    ):
        assert await raised(work) == "turn_in_progress"


async def test_idempotency_key_reused(wire: Wire, servers: Servers, client: Connect) -> None:
    key, server = f"{uuid.uuid4()} ~!", servers[wire.word]
    assert (await wire.ask(server, "chat", message="Hi", request_id=key)).code is None
    outcome = await wire.ask(server, "chat", message="Ho", request_id=key)
    check(outcome, wire, "idempotency_key_reused", held=held(wire))
    check(await wire.ask(server, "image", prompt="Hi", request_id=key), wire, "idempotency_key_reused", held=held(wire))
    here = await client(wire.word)
    assert await raised(collect(here.chat("Ho", request_id=key))) == "idempotency_key_reused"


async def test_cursor_out_of_range(
    wire: Wire, servers: Servers, client: Connect, waiting: Callable[..., Awaitable[tuple[str, str]]]
) -> None:
    """The cursor is beyond a turn that has ended, or beyond a turn that runs."""
    here, server = await client(wire.word), servers[wire.word]
    reply = await collect(here.chat("Hello"))
    _, running = await waiting()
    for turn_id in (reply.turn_id, running):
        for after in (2**31, 2**53):
            outcome = await wire.ask(server, "read", turn_id=turn_id, after=after)
            check(outcome, wire, "cursor_out_of_range", held=held(wire))
        assert await raised(events(here.read(turn_id, 99_999))) == "cursor_out_of_range"


@pytest.mark.parametrize("direction", ["/fail", "/fail-first"])
@pytest.mark.parametrize("code", [code for code in FAILURES if code != "model_not_found"])
async def test_the_model_fails(wire: Wire, code: str, direction: str, servers: Servers, client: Connect) -> None:
    """Plain REST answers with the error's own status; every stream ends in ``turn_failed``, on gRPC followed by the status."""
    server, here = servers[wire.word], await client(wire.word)
    outcome = await wire.ask(server, "chat", message=f"{direction} {code} Talk.")
    check(outcome, wire, code, held=held(wire))
    if wire.name != "rest":
        assert outcome.events == ["turn_started", *["chunk"] * (3 if direction == "/fail" else 0), "turn_failed"]
    drawn = await wire.ask(server, "image", prompt=f"{direction} {code} A hill", size="16x16")
    check(drawn, wire, code, held=held(wire))
    assert await raised(collect(here.chat(f"{direction} {code} Talk."))) == code
    assert await raised(collect_picture(here.image(f"{direction} {code} A hill", size="16x16"))) == code


async def test_model_not_found(wire: Wire, servers: Servers, client: Connect) -> None:
    outcome = await wire.ask(servers[wire.word], "chat", message="Hi", model_id="gemini-2.0-flash")
    check(outcome, wire, "model_not_found", held=held(wire))
    assert "GENAI_MODEL_ID" in outcome.message
    here = await client(wire.word)
    assert await raised(collect(here.chat("Hi", model_id="gemini-2.0-flash"))) == "model_not_found"


async def test_turn_not_completed(word: str, servers: Servers, client: Connect) -> None:
    """A cancelled picture has no bytes: a whole answer is refused, a stream ends, and the client raises the code."""
    prompt = f"/slow 600 {uuid.uuid4()}"
    here = await client(word)
    drawing = asyncio.create_task(collect_picture(here.image(prompt, size="16x16")))
    asking: asyncio.Task[Outcome] | None = None
    running = await until(lambda: running_of(servers, prompt, 1))
    if word == "rest":
        asking = asyncio.create_task(WIRES[0].ask(servers[word], "image", prompt=prompt, size="16x16"))
    elif word == "grpc":
        request = image_generation_pb2.ImageRequest(prompt=prompt, size="16x16").SerializeToString()
        asking = asyncio.create_task(GrpcWire("grpc", "grpc").call(servers[word], IMAGES, request))
    if asking is not None:
        running = await until(lambda: running_of(servers, prompt, 2))
    for turn_id in running:
        assert (await here.cancel(turn_id)).status == "cancelled"
    assert await raised(drawing) == "turn_not_completed"
    if asking is not None:
        wire = WIRES[0] if word == "rest" else WIRES[4]
        check(await asking, wire, "turn_not_completed")


def running_of(servers: Servers, prompt: str, count: int) -> list[str]:
    """The ids of the turns that draw this prompt, from the store; none before there are ``count``."""
    connection = sqlite3.connect(f"file:{servers.store}?mode=ro", uri=True)
    rows = connection.execute("SELECT turn_id FROM turns WHERE input = ? AND status = 'running'", (prompt,)).fetchall()
    connection.close()
    return [row[0] for row in rows] if len(rows) == count else []


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}], ids=str)
async def test_unauthenticated(wire: Wire, headers: dict[str, str], keyed: Servers, client: Connect) -> None:
    server = keyed[wire.word]
    if isinstance(wire, SocketWire):
        if headers:
            outcome = await wire.ask(server, "chat", headers, message="Hi")
            assert (outcome.status, outcome.code) == (401, "unauthenticated")
            assert "www-authenticate" in outcome.headers
        else:
            # Without a header a ticket may follow. Here another message follows.
            outcome = await wire.ask(server, "chat", message="Hi")
            check(outcome, wire, "unauthenticated", held=True)
    else:
        check(await wire.ask(server, "chat", headers, message="Hi"), wire, "unauthenticated", held=held(wire))
    for what, fields in (("session", {"session_id": "x"}), ("picture", {"image_id": "x"}), ("turn", {"turn_id": "x"})):
        check(await wire.ask(server, what, headers, **fields), wire, "unauthenticated")
    here = keyed[wire.word].client(key=headers.get("X-API-Key", "wrong"))
    try:
        assert await raised(collect(here.chat("Hi"))) == "unauthenticated"
        assert await raised(here.list_sessions()) == "unauthenticated"
    finally:
        await here.aclose()
    allowed = await wire.ask(server, "chat", {"X-API-Key": KEY}, message="Hello")
    assert allowed.code is None


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}], ids=str
)
async def test_permission_denied_to_foreign_pages(headers: dict[str, str], servers: Servers) -> None:
    """``Origin`` and ``Host`` are a browser's; gRPC has neither, and no browser speaks it."""
    for wire in WIRES[:3]:
        check(await wire.ask(servers[wire.word], "chat", headers, message="Hi"), wire, "permission_denied")
        if "Host" in headers:
            check(await wire.ask(servers[wire.word], "session", headers, session_id="x"), wire, "permission_denied")
    if headers != {"Host": "evil.example"}:
        wire = WIRES[3]
        outcome = await wire.ask(servers["websocket"], "chat", headers, message="Hi")
        assert (outcome.status, outcome.code) == (403, "permission_denied")


async def test_permission_denied_by_the_articles_service(keyed: Servers) -> None:
    wire = GrpcWire("grpc", "grpc")
    for key in ("", "wrong"):
        request = image_generation_pb2.ImageRequest(prompt="", api_key=key).SerializeToString()
        outcome = await wire.call(keyed["grpc"], IMAGES, request)
        check(outcome, wire, "permission_denied")
        assert outcome.message == "Invalid API key"
    outcome = await wire.call(
        keyed["grpc"], IMAGES, image_generation_pb2.ImageRequest(prompt="", api_key=KEY).SerializeToString()
    )
    check(outcome, wire, "invalid_request")
    assert outcome.message == "Prompt is required"


@pytest.fixture(scope="module")
def tight(make_servers: MakeServers) -> Servers:
    """Servers with room for very little."""
    return make_servers(MAX_BODY_BYTES="20000", MAX_RUNNING_TURNS="1", MAX_CONTEXT_CHARS="100000")


async def test_payload_too_large(wire: Wire, tight: Servers, client: Connect) -> None:
    server = tight[wire.word]
    check(await wire.ask(server, "chat", message="x" * 21_000), wire, "payload_too_large", held=held(wire))
    check(await wire.ask(server, "image", prompt="é" * 10_500), wire, "payload_too_large", held=held(wire))
    here = await client(wire.word, on=tight)
    assert await raised(collect(here.chat("x" * 21_000))) == "payload_too_large"
    assert (await wire.ask(server, "chat", message="x" * 19_000)).events[-1:] in ([], ["turn_completed"])


async def test_payload_too_large_without_a_length(tight: Servers) -> None:
    """The server counts a chunked body as it arrives. The refusal reaches the client while it is still sending."""

    async def body() -> AsyncIterator[bytes]:
        yield b'{"message": "'
        for _ in range(100):
            yield b"x" * 1000
        yield b'"}'

    for word in ("rest", "ndjson", "sse", "websocket"):
        address = f"http://{tight[word].address}/turns"
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            answer = await http.post(address, content=body(), headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
async def test_unsupported_media_type(media_type: str, servers: Servers) -> None:
    for wire in WIRES[:3]:
        outcome = await wire.raw(servers[wire.word], '{"message": "Hi"}', {"Content-Type": media_type})
        check(outcome, wire, "unsupported_media_type")
    outcome = await HttpWire("websocket", "websocket").raw(
        servers["websocket"], '{"message": "Hi"}', {"Content-Type": media_type}
    )
    check(outcome, WIRES[0], "unsupported_media_type")


async def test_unsupported_media_type_on_a_socket(servers: Servers) -> None:
    """A binary frame; gRPC has nothing but protobuf."""
    wire = WIRES[3]
    check(await wire.raw(servers["websocket"], b'{"type": "ping"}'), wire, "unsupported_media_type", held=True)


async def test_too_many_streams(
    wire: Wire, tight: Servers, client: Connect, waiting: Callable[..., Awaitable[tuple[str, str]]]
) -> None:
    await waiting(tight, wire.word)
    server, here = tight[wire.word], await client(wire.word, on=tight)
    before = (await here.list_sessions(200)).sessions
    check(await wire.ask(server, "chat", message="Me too"), wire, "too_many_streams", held=held(wire))
    check(await wire.ask(server, "image", prompt="Me too"), wire, "too_many_streams", held=held(wire))
    assert await raised(collect(here.chat("Me too"))) == "too_many_streams"
    # A refusal records nothing.
    assert [one.session_id for one in (await here.list_sessions(200)).sessions] == [one.session_id for one in before]


async def test_turn_expired(wire: Wire, tight: Servers, client: Connect) -> None:
    here = await client(wire.word, on=tight)
    reply = await collect(here.chat("Hello"))
    store = open_store(f"sqlite:///{tight.store}")
    store.clock_offset_ms = Options().retention_s * 1000 + 60_000
    while await store.purge():
        pass
    await store.close()
    server = tight[wire.word]
    for what in ("read", "turn", "cancel"):
        cursor = {"after": 0} if what == "read" else {}
        outcome = await wire.ask(server, what, None, turn_id=reply.turn_id, **cursor)
        check(outcome, wire, "turn_expired", held=held(wire) and what != "turn")
    for work in (events(here.read(reply.turn_id, 0)), here.get_turn(reply.turn_id), here.cancel(reply.turn_id)):
        assert await raised(work) == "turn_expired"
    assert reply.session_id is not None
    assert len(await here.list_messages(reply.session_id)) == 2


async def test_storage_unavailable(tight: Servers, client: Connect) -> None:
    """Another program locks the database for longer than the server waits. When the lock ends, all is well."""
    clients = {word: await client(word, on=tight) for word in WORDS}
    session = await clients["rest"].create_session()
    connection = apsw.Connection(str(tight.store))
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [wire.ask(tight[wire.word], "chat", message="Hi") for wire in WIRES]
        errors = [raised(collect(here.chat("Hi"))) for here in clients.values()]
        answers = await asyncio.gather(*outcomes, *errors)
        # Reads still work.
        for here in clients.values():
            assert (await here.get_session(session.session_id)).session_id == session.session_id
    finally:
        connection.execute("ROLLBACK")
        connection.close()
    for wire, outcome in zip(WIRES, answers, strict=False):
        assert isinstance(outcome, Outcome)
        check(outcome, wire, "storage_unavailable", held=held(wire))
    assert answers[len(WIRES) :] == ["storage_unavailable"] * len(WORDS)
    for here in clients.values():
        assert (await collect(here.chat("Hello"))).status == "completed"


async def test_internal(wire: Wire, tight: Servers, client: Connect) -> None:
    """A log that is damaged on the disk gives ``internal``, and no text of the exception reaches the client."""
    here = await client(wire.word, on=tight)
    # ContextMessage elsewhere, so that it is read from the disk and not from memory.
    reply = await collect((await client("rest" if wire.word != "rest" else "ndjson", on=tight)).chat("Hello"))
    connection = apsw.Connection(str(tight.store))
    connection.set_busy_timeout(5000)
    connection.execute("UPDATE segments SET lines = x'00ff' WHERE turn_id = ? AND first_seq = 1", (reply.turn_id,))
    connection.close()
    outcome = await wire.ask(tight[wire.word], "read", turn_id=reply.turn_id, after=0)
    check(outcome, wire, "internal", held=held(wire))
    assert outcome.message == Damaged().message
    assert await raised(events(here.read(reply.turn_id, 0))) == "internal"
    assert (await collect(here.chat("Hello"))).status == "completed"


async def test_shutting_down(make_servers: MakeServers, client: Connect) -> None:
    """After SIGTERM every wire refuses new turns. When the running answer ends, the server exits with 0."""
    five = make_servers(DRAIN_S="60")
    five.start()
    await asyncio.gather(*(refuse_while_draining(five, word) for word in WORDS))


async def refuse_while_draining(five: Servers, word: str) -> None:
    server = five[word]
    async with server.client() as here:
        running = await here.start(Ask(text=FOREVER))
        reading = asyncio.create_task(events(here.read(running.turn_id, 0)))
        async with channel(server) as line, connected(server) as socket:
            held_call = await open_chat(line) if word == "grpc" else None
            ending = asyncio.create_task(five.signal(word, signal.SIGTERM))
            await until(lambda: any(entry.get("event") == "stopping" for entry in list(server.log)))
            wires = [wire for wire in WIRES if wire.word == word]
            for wire in wires:
                if isinstance(wire, SocketWire):
                    assert socket is not None
                    outcome = await wire.exchange(socket, '{"type": "chat", "message": "Hi"}')
                elif isinstance(wire, GrpcChatWire):
                    assert held_call is not None
                    chat = pb.ChatRequest(chat=pb.SendMessageRequest(message="Hi")).SerializeToString()
                    outcome = await wire.exchange(held_call, chat)
                else:
                    outcome = await wire.ask(server, "chat", message="Hi")
                check(outcome, wire, "shutting_down", held=held(wire))
            async with server.client(resume=False) as another:
                assert await raised(collect(another.chat("Hi"))) == "shutting_down"
        # The server stops as soon as the answer has ended, maybe before the answer to the cancel.
        async with server.client() as another:
            with suppress(ConnectionLost):
                await another.cancel(running.turn_id)
        last = (await reading)[-1]
        assert isinstance(last, Event)
        assert event_type(last) == "turn_cancelled"
        assert await ending == 0


def connected(server: Any) -> Any:
    """An open WebSocket where there is one."""
    wire = WIRES[3]
    assert isinstance(wire, SocketWire)
    return wire.connected(server) if server.word == "websocket" else nullcontext(None)


async def open_chat(line: Any) -> Any:
    """An open ``Chat``."""
    call = line.stream_stream("/chat.ChatService/Chat")(timeout=60)
    await call.read()
    return call


def test_a_code_that_the_table_lacks_is_an_error_where_it_is_raised() -> None:
    with pytest.raises(KeyError):
        ChatError("tunr_in_progress")  # type: ignore[arg-type]


def test_a_client_keeps_a_code_that_it_does_not_know() -> None:
    error = ChatError.received("brand_new", "A newer server says this.")
    assert (error.code, error.message, error.kind) == ("brand_new", "A newer server says this.", ERRORS["internal"])
