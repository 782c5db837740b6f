"""Bad input on every wire gets the error of the table in the terms of that wire; never a 5xx, a hang or a traceback."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from protocols.grpc import chat_pb2 as pb
from tests.conftest import Servers
from tests.wires import WIRES, GrpcChatWire, GrpcWire, HttpWire, Outcome, SocketWire, Wire

HTTP = (*(wire for wire in WIRES if isinstance(wire, HttpWire)), HttpWire("websocket-http", "websocket"))
JSON_WIRES = (*HTTP, next(wire for wire in WIRES if isinstance(wire, SocketWire)))
PROTOBUF_WIRES = tuple(wire for wire in WIRES if isinstance(wire, GrpcWire | GrpcChatWire))
MAX_CHARS = 1_000_000
SURROGATE = "\ud800"

# Texts and bytes that are no object with a message.
NOT_A_CHAT: dict[str, str | bytes] = {
    "no JSON": "Hello",
    "half of it": '{"message": "Hi"',
    "nothing": "",
    "null": "null",
    "a list": '[{"message": "Hi"}]',
    "a text": '"Hi"',
    "a number": "5",
    "two objects": '{"message": "Hi"} {"message": "Ho"}',
    "NaN": '{"message": NaN}',
    "Infinity": '{"message": -Infinity}',
    "a huge number": '{"message": 1e999999}',
    "many digits": '{"message": 1' + "0" * 10_000 + "}",
    "single quotes": "{'message': 'Hi'}",
    "a trailing comma": '{"message": "Hi",}',
    "a comment": '{"message": "Hi"} // really',
    "Latin-1": '{"message": "Grüße"}'.encode("latin-1"),
    "an overlong encoding": b'{"message": "\xc0\xaf"}',
    "a raw surrogate": f'{{"message": "{SURROGATE}"}}',
    "a raw newline": '{"message": "a\nb"}',
    "a raw NUL": '{"message": "a\0b"}',
    "only NUL": "\0",
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
}
# Well-formed objects with a wrong value.
WRONG_VALUES: dict[str, dict[str, Any]] = {
    "no message": {},
    "a null message": {"message": None},
    "a number": {"message": 5},
    "a boolean": {"message": True},
    "a list": {"message": ["Hi"]},
    "an object": {"message": {"text": "Hi"}},
    "an empty message": {"message": ""},
    "white space": {"message": " \t\r\n\u2003"},
    "an escaped NUL": {"message": "a\0b"},
    "an escaped surrogate": {"message": f"a{SURROGATE}b"},
    "too long": {"message": "x" * (MAX_CHARS + 1)},
    "session_id 5": {"message": "Hi", "session_id": 5},
    "session_id []": {"message": "Hi", "session_id": []},
    "model_id {}": {"message": "Hi", "model_id": {}},
    "model_id true": {"message": "Hi", "model_id": True},
    "an empty model_id": {"message": "Hi", "model_id": ""},
    "a surrogate in model_id": {"message": "Hi", "model_id": SURROGATE},
    "a NUL in model_id": {"message": "Hi", "model_id": "\0"},
}
SIZES = [
    *("0x0", "0x100", "100x0", "100000x100000", "4097x4096", "99999999999999999999x1", "-1x5", "+5x5"),
    *(
        "big",
        "",
        "1024",
        "1024x",
        "x1024",
        "1024X1024",
        "1024x1024x1",
        " 8x8",
        "8x8\n",
        "1e3x1e3",
        "８x８",
        "8×8",
        "0x10x10",
    ),
]
KEYS = ["", "x" * 256, "é", "key\tkey", "key\x7f", "ключ", "🔑"]
# Texts that are no id of this server. Those that HTTP would read as another path have a test of their own.
IDS = ["x", "x" * 64, "x" * 65, "x" * 5000, "é", "' OR 1=1 --", "%s%n", "null", "🙂", "a b", "\u2028"]


@pytest.fixture(autouse=True)
def quiet(servers: Servers) -> Iterator[None]:
    """No server logs an error or a traceback because of bad input."""
    yield
    assert not servers.errors()


@pytest.fixture
async def goes_on(servers: Servers) -> AsyncIterator[list[Wire]]:
    """After a test, each wire that the test has appended to this list answers a healthy turn."""
    used: list[Wire] = []
    yield used
    for wire in used:
        outcome = await wire.ask(servers[wire.word], "chat", message="Hello")
        assert outcome.code is None, outcome
        if isinstance(wire, HttpWire) and wire.word in ("rest", "websocket"):
            assert outcome.status in (200, 202)
        else:
            assert outcome.events[-1] == "turn_completed"


def check(outcome: Outcome, wire: Wire, *codes: str, http: tuple[int, ...] = (400, 422)) -> None:
    """The outcome has one of these codes, with a status that says that the request is at fault."""
    assert outcome.code in codes, outcome
    if isinstance(wire, HttpWire) or (isinstance(wire, SocketWire) and isinstance(outcome.status, int)):
        assert outcome.status in http, outcome
        assert outcome.headers["content-type"] == "application/problem+json"
    elif isinstance(wire, GrpcWire):
        assert outcome.status in ("INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE"), outcome
    else:
        assert outcome.status is None, outcome
    assert "turn_started" not in outcome.events
    assert len(outcome.message) < 500


@pytest.mark.parametrize("name", NOT_A_CHAT)
@pytest.mark.parametrize("wire", JSON_WIRES, ids=repr)
async def test_bodies_without_a_message(wire: Wire, name: str, servers: Servers, goes_on: list[Wire]) -> None:
    goes_on.append(wire)
    data = NOT_A_CHAT[name]
    outcome = await wire.raw(servers[wire.word], data)
    if isinstance(wire, SocketWire) and isinstance(data, bytes):
        # On a WebSocket bytes are a binary frame.
        assert (outcome.status, outcome.code) == (1003, "unsupported_media_type")
    elif isinstance(wire, SocketWire) and name == "a raw surrogate":
        # The library refuses text that is not UTF-8 (RFC 6455, section 8.1).
        assert outcome.status == 1007
    else:
        check(outcome, wire, "invalid_request")


@pytest.mark.parametrize("name", WRONG_VALUES)
@pytest.mark.parametrize("wire", JSON_WIRES, ids=repr)
async def test_wrong_values_in_json(wire: Wire, name: str, servers: Servers, goes_on: list[Wire]) -> None:
    goes_on.append(wire)
    data = json.dumps({"type": "chat", **WRONG_VALUES[name]})
    outcome = await wire.raw(servers[wire.word], data)
    check(outcome, wire, "invalid_request", http=(422,))
    assert "xxxxxxxx" not in outcome.message


@pytest.mark.parametrize(
    "more",
    [
        '"unknown": {"deep": [[[[{"a": null}]]]]}',
        '"unknown": 123456789012345678901234567890.5e-10',
        '"unknown": "' + "x" * 100_000 + '"',
        '"\\u0000": 1, "": 2, "message ": 3',
        '"seq": "one", "turn_id": 7, "at": {}',
    ],
    ids=lambda more: more[:24],
)
@pytest.mark.parametrize("wire", JSON_WIRES, ids=repr)
async def test_unknown_fields_are_ignored(wire: Wire, more: str, servers: Servers) -> None:
    """Unknown fields are ignored, with any name and value. With a value that no parser reads, the body is no JSON."""
    outcome = await wire.raw(servers[wire.word], f'{{"type": "chat", "message": "Hello", {more}}}')
    assert outcome.code is None, outcome


@pytest.mark.parametrize(
    "data",
    [
        '{"type": "chat", "message": "Hello", "unknown": NaN}',
        '{"type": "chat", "message": "Hello", "unknown": "\\ud800"}',
        '{"type": "chat", "message": "Hello", "unknown": ' + "[" * 5_000 + "]" * 5_000 + "}",
        '{"type": "chat", "message": "Hello", "unknown": 1' + "0" * 5_000 + "}",
        '\ufeff{"type": "chat", "message": "Hello"}',
        '{"type": "chat", "message": "Hello"}'.encode("utf-16"),
        '{"type": "chat", "message": "Hello", "message": 5, "message": "Hello"}',
    ],
    ids=lambda data: ascii(data[-24:]),
)
@pytest.mark.parametrize("wire", JSON_WIRES, ids=repr)
async def test_what_a_json_parser_may_refuse_or_not(
    wire: Wire, data: str | bytes, servers: Servers, goes_on: list[Wire]
) -> None:
    """RFC 8259 leaves a name that stands twice to the parser: the answer is a healthy turn or ``invalid_request``."""
    goes_on.append(wire)
    outcome = await wire.raw(servers[wire.word], data)
    if isinstance(wire, SocketWire) and isinstance(data, bytes):
        assert (outcome.status, outcome.code) == (1003, "unsupported_media_type")
    elif outcome.code is not None:
        check(outcome, wire, "invalid_request")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sessions", "[]"),
        ("/sessions", '{"model_id": 5}'),
        ("/sessions", '{"model_id": ""}'),
        ("/sessions", '{"model_id": "\\u0000"}'),
        ("/turns", "{}"),
        ("/turns", '{"message": "Hi", "prompt": "Ho"}'),
        ("/turns", '{"prompt": "Hi", "size": 5}'),
        ("/turns", '{"prompt": ""}'),
        ("/turns", "null"),
        ("/tickets", '{"turn_id": 5}'),
        ("/tickets", "["),
    ],
)
@pytest.mark.parametrize("word", ["rest", "websocket"])
async def test_the_other_routes(word: str, path: str, body: str, servers: Servers) -> None:
    async with httpx.AsyncClient(base_url=f"http://{servers[word].address}", trust_env=False, verify=False) as http:
        answer = await http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["code"] == "invalid_request"


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"type": None},
        {"type": 5},
        {"type": "unknown"},
        {"type": ["chat"]},
        {"type": "turn_started"},
        {"type": "connected"},
        {"type": "resume"},
        {"type": "resume", "turn_id": "x"},
        {"type": "resume", "turn_id": "x", "after": "5"},
        {"type": "resume", "turn_id": "x", "after": 1.5},
        {"type": "resume", "turn_id": "x", "after": True},
        {"type": "resume", "turn_id": 5, "after": 0},
        {"type": "cancel"},
        {"type": "cancel", "turn_id": None},
        {"type": "join_session"},
        {"type": "join_session", "session_id": 5},
        {"type": "create_session", "model_id": 5},
        {"type": "image", "prompt": "x", "size": 5},
        {"type": "typing_start"},
        {"type": "auth", "ticket": 5},
        {"type": "chat", "message": "Hi", "request_id": 5},
    ],
    ids=json.dumps,
)
async def test_frames(frame: dict[str, Any], servers: Servers, goes_on: list[Wire]) -> None:
    (wire,) = (wire for wire in WIRES if isinstance(wire, SocketWire))
    goes_on.append(wire)
    check(await wire.raw(servers["websocket"], json.dumps(frame)), wire, "invalid_request")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\xff" * 1000,
        b"\x0a\x05Hi",
        b"\x08\x05",
        b"\x0a\x02\xff\xfe",
        b"\x0a\x03\xed\xa0\x80",
        b"\x0b" * 10_000,
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x00\x00\x00",
        b'{"message": "Hi"}',
    ],
    ids=lambda data: repr(data[:12]),
)
@pytest.mark.parametrize("wire", PROTOBUF_WIRES, ids=repr)
async def test_malformed_protobuf(wire: Wire, data: bytes, servers: Servers, goes_on: list[Wire]) -> None:
    """The status is never UNKNOWN, and the parser's words are not in it."""
    goes_on.append(wire)
    outcome = await wire.raw(servers["grpc"], data)
    check(outcome, wire, "invalid_request")
    assert "DecodeError" not in outcome.message


@pytest.mark.parametrize("wire", PROTOBUF_WIRES, ids=repr)
async def test_nothing_at_all_in_protobuf(wire: Wire, servers: Servers) -> None:
    """An empty message is a message whose fields are all absent."""
    check(await wire.raw(servers["grpc"], b""), wire, "invalid_request")


async def test_unknown_fields_in_protobuf(servers: Servers) -> None:
    more = b"\xfa\x3f\x04\xff\xff\xff\xff" + b"\xf8\x40\x05"
    chat = pb.SendMessageRequest(message="Hello").SerializeToString() + more
    outcome = await GrpcWire("grpc", "grpc").raw(servers["grpc"], chat)
    assert (outcome.status, outcome.events[-1]) == ("OK", "turn_completed")


@pytest.mark.parametrize("path", ["/chat.ChatService/NoSuch", "/no.Service/Chat", "/", "/chat.ChatService/"])
async def test_unknown_rpcs(path: str, servers: Servers) -> None:
    """The library itself answers UNIMPLEMENTED."""
    outcome = await GrpcWire("grpc", "grpc").call(servers["grpc"], path, b"")
    assert outcome.status == "UNIMPLEMENTED"


async def test_start_turn_without_a_turn(servers: Servers) -> None:
    wire = GrpcWire("grpc", "grpc")
    check(await wire.call(servers["grpc"], "/chat.ChatService/StartTurn", b""), wire, "invalid_request")


@pytest.mark.parametrize("message", ["", " \t\n", "a\0b", "\0", "x" * (MAX_CHARS + 1)], ids=lambda text: repr(text[:5]))
@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_messages(wire: Wire, message: str, servers: Servers, goes_on: list[Wire]) -> None:
    goes_on.append(wire)
    server = servers[wire.word]
    check(await wire.ask(server, "chat", message=message), wire, "invalid_request")
    check(await wire.ask(server, "image", prompt=message), wire, "invalid_request")


@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_a_megabyte_is_a_message(wire: Wire, servers: Servers) -> None:
    """The longest message that is allowed, with every character that a line reader could split on."""
    message = ('Straße, 数字, 👩‍👩‍👧‍👦, \u2028\u2029\u0085\r\n\t"\\ ' * 50_000)[:MAX_CHARS]
    outcome = await wire.ask(servers[wire.word], "chat", message=message)
    assert outcome.code is None, outcome
    if wire.name != "rest":
        assert outcome.events[-1] == "turn_completed"


@pytest.mark.parametrize("megabytes", [9, 20])
@pytest.mark.parametrize("wire", [*WIRES, HTTP[-1]], ids=repr)
async def test_a_body_that_is_too_large(wire: Wire, megabytes: int, servers: Servers, goes_on: list[Wire]) -> None:
    """The server refuses a body above MAX_BODY_BYTES. Far above it the library may refuse first, in its own words."""
    goes_on.append(wire)
    outcome = await wire.ask(servers[wire.word], "chat", message="x" * megabytes * 1024 * 1024)
    if isinstance(wire, HttpWire):
        assert (outcome.status, outcome.code) == (413, "payload_too_large")
    else:
        assert outcome.status == (1009 if isinstance(wire, SocketWire) else "RESOURCE_EXHAUSTED")
        if megabytes == 9:
            assert outcome.code == "payload_too_large"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_sizes(wire: Wire, size: str, servers: Servers) -> None:
    check(await wire.ask(servers[wire.word], "image", prompt="A hill", size=size), wire, "invalid_request")


@pytest.mark.parametrize("size", ["1x1", "1x2000", "17x31"])
@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_sizes_that_are_odd_and_good(wire: Wire, size: str, servers: Servers) -> None:
    assert (await wire.ask(servers[wire.word], "image", prompt="A hill", size=size)).code is None


@pytest.mark.parametrize("key", KEYS, ids=ascii)
@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_keys_of_requests(wire: Wire, key: str, servers: Servers, goes_on: list[Wire]) -> None:
    goes_on.append(wire)
    outcome = await wire.ask(servers[wire.word], "chat", message="Hi", request_id=key)
    if isinstance(wire, HttpWire) and key == "key\x7f":
        # The HTTP parser refuses this key in its own form.
        assert outcome.status == 400
    else:
        check(outcome, wire, "invalid_request")


@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_a_key_as_long_as_it_may_be(wire: Wire, servers: Servers) -> None:
    key = (str(uuid.uuid4()) + " ~!" + "x" * 255)[:255]
    assert (await wire.ask(servers[wire.word], "chat", message="Hi", request_id=key)).code is None


@pytest.mark.parametrize("after", [-1, -(2**31), -(2**63), 1, 2**31, 2**63 - 1])
@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_cursors(wire: Wire, after: int, servers: Servers) -> None:
    """A negative cursor is invalid, a cursor beyond the end is out of range; for an unknown turn the cursor does not matter."""
    server = servers[wire.word]
    session = await wire.ask(server, "create")
    session_id = session.answer["session_id"] if isinstance(session.answer, dict) else ""
    if not session_id:
        session_id = getattr(session.answer, "session_id", "") or pb.Session.FromString(session.answer).session_id
    assert (await wire.ask(server, "chat", message="/tokens 1 Hi", session_id=session_id)).code is None
    snapshot = await HTTP[0].ask(servers["rest"], "session", session_id=session_id)
    turn_id = snapshot.answer["last_turn_id"]
    outcome = await wire.ask(server, "read", turn_id=turn_id, after=after)
    if after == 1:
        assert outcome.events == ["chunk", "turn_completed"]
    else:
        check(outcome, wire, "invalid_request" if after < 0 else "cursor_out_of_range")
    check(
        await wire.ask(server, "read", turn_id="nothing", after=after),
        wire,
        "turn_not_found",
        "invalid_request",
        http=(404, 422),
    )


@pytest.mark.parametrize("identifier", IDS, ids=lambda identifier: ascii(identifier[:20]))
@pytest.mark.parametrize("wire", WIRES, ids=repr)
async def test_ids(wire: Wire, identifier: str, servers: Servers) -> None:
    server = servers[wire.word]

    async def ask(what: str, code: str, **fields: Any) -> None:
        check(await wire.ask(server, what, **fields), wire, code, http=(404,))

    await ask("chat", "session_not_found", message="Hi", session_id=identifier)
    await ask("image", "session_not_found", prompt="Hi", session_id=identifier)
    if not isinstance(wire, GrpcWire):
        return
    for what in ("session", "messages", "clear", "delete"):
        await ask(what, "session_not_found", session_id=identifier)
    for what, cursor in (("read", {"after": 0}), ("turn", {}), ("cancel", {})):
        await ask(what, "turn_not_found", turn_id=identifier, **cursor)
    await ask("picture", "image_not_found", image_id=identifier)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/sessions/%00",
            "/sessions/x%0d%0aSet-Cookie:a",
            "/sessions/%ff%fe",
            "/sessions/%F0%9F%99%82",
            "/sessions/a%2Fb",
        ),
        *(
            "/sessions/..%2f..%2fetc%2fpasswd",
            "/sessions/.",
            "/sessions/%2e%2e",
            "/sessions/" + "x" * 5000,
            "/sessions/%",
        ),
        *("/sessions/' OR 1=1 --", "/sessions/x/messages/y", "/turns/%00", "/turns/%00/events", "/turns//events"),
        *(
            "/turns/x/events?after=0&after=1",
            "/images/%00",
            "/images/",
            "/images/..%2f",
            "//",
            "/%",
            "/web/..%2f..%2fauth.py",
        ),
        *("/web/../auth.py", "/web/%2e%2e/auth.py", "/no/such/path", "/sessions/%C0%AF"),
    ],
)
@pytest.mark.parametrize("word", ["rest", "ndjson", "sse", "websocket"])
async def test_broken_paths(word: str, path: str, servers: Servers) -> None:
    """A path that is no route is not found, as problem+json, and never a file or a redirect."""
    status, body = await get(servers, word, path)
    assert status in (400, 404, 422), (status, body)
    assert b"Traceback" not in body
    assert b"def " not in body
    if status != 400:
        assert json.loads(body)["status"] == status


@pytest.mark.parametrize(
    "query",
    [
        *("/sessions?limit=0", "/sessions?limit=-1", "/sessions?limit=201", "/sessions?limit=x", "/sessions?limit=1e2"),
        *(
            "/sessions?limit=99999999999999999999",
            "/sessions?limit=NaN",
            "/sessions?cursor=x",
            "/sessions?cursor=nan_x",
        ),
        *("/sessions?cursor=inf_x", "/sessions?cursor=1e999_x", "/sessions?cursor=%00", "/sessions?cursor=5_%00"),
        *("/sessions?cursor=%ff", "/sessions?cursor=_", "/sessions?cursor=1_", "/sessions?limit="),
        *(
            "/turns/{}/events?after=x",
            "/turns/{}/events?after=1.5",
            "/turns/{}/events?after=-1",
            "/turns/{}/events?after=",
        ),
        *("/turns/{}/events?after=99999999999999999999", "/turns/{}/events?wait=x", "/turns/{}/events?wait=-1"),
        *(
            "/turns/{}/events?wait=NaN",
            "/turns/{}/events?wait=inf",
            "/turns/{}/events?wait=1e999",
            "/turns/{}/events?after=NaN",
        ),
    ],
)
async def test_broken_queries(query: str, servers: Servers) -> None:
    made = await HTTP[-1].ask(servers["websocket"], "chat", message="Hi")
    status, body = await get(servers, "rest", query.format(made.answer["turn_id"]))
    assert status == 422, body
    assert json.loads(body)["code"] in ("invalid_request", "cursor_out_of_range")


async def test_an_endless_wait_is_thirty_seconds_at_most(servers: Servers) -> None:
    made = await HTTP[-1].ask(servers["websocket"], "chat", message="Hi")
    await HTTP[0].ask(servers["rest"], "read", turn_id=made.answer["turn_id"], after=0)
    status, body = await get(servers, "rest", f"/turns/{made.answer['turn_id']}/events?after=0&wait=1e300")
    assert (status, json.loads(body)["events"][0]["seq"]) == (200, 1)


async def get(servers: Servers, word: str, target: str) -> tuple[int, bytes]:
    """A GET whose target no client library normalises."""
    import asyncio

    host, _, port = servers[word].address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {target.replace(' ', '%20')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(30):
        raw = await reader.read()
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"HELLO\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"POST /turns HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /turns HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /turns HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /turns HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 100,
    ],
    ids=lambda data: repr(data[:24]),
)
@pytest.mark.parametrize("word", ["rest", "websocket"])
async def test_malformed_http(word: str, request_bytes: bytes, servers: Servers) -> None:
    """The HTTP library refuses it, with a 4xx of its own or by closing."""
    import asyncio

    host, _, port = servers[word].address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_bytes)
    writer.write_eof()
    async with asyncio.timeout(30):
        try:
            raw = await reader.read()
        except ConnectionResetError:
            raw = b""
    writer.close()
    assert not raw.startswith(b"HTTP/1.1 5"), raw[:200]
    assert b"Traceback" not in raw
