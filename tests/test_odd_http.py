"""HTTP as old, foreign and careless clients speak it: offers of h2c, HEAD, HTTP/1.0, Host, FIN, slashes, digits, codings."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.server.http import uvicorn_adapter
from tests.conftest import KEY, MakeServers, Servers, until
from tests.event_streams import events_of
from tests.parts import part
from tests.raw_http import Answer, ask, exchange, fields_of, line, status_of

HTTP_WORDS = ("rest", "ndjson", "sse", "websocket")
STREAMS = ("ndjson", "sse")
NINES = "9" * 5000
JAVA = """
import java.net.URI;
import java.net.http.*;

public class Ask {
  public static void main(String[] args) throws Exception {
    HttpRequest request = HttpRequest.newBuilder(URI.create(args[0])).header("Content-Type", "application/json")
        .POST(HttpRequest.BodyPublishers.ofString(args[1])).build();
    HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
    System.out.println(answer.statusCode() + " " + answer.version());
    System.out.println(answer.body());
    System.exit(0);
  }
}
"""


def request(target: str, *fields: str, method: str = "POST", version: str = "1.1", body: bytes = b"") -> bytes:
    """A request as bytes; ``fields`` are its header lines, and a body brings its own two."""
    own = ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {target} HTTP/{version}", *fields, *own, "", ""]).encode("latin-1") + body


def asks_to_close(raw: bytes) -> bool:
    return fields_of(raw, "connection") == ["close"]


async def stalled(servers: Servers, word: str) -> str:
    """The path of a turn that is silent after its event 3."""
    turn = (await ask(servers, word, "POST", "/turns", body={"message": "/tokens 4 /stall 60 Count."})).json
    path = f"/turns/{turn['turn_id']}"

    async def silent() -> bool:
        return bool((await ask(servers, word, "GET", path)).json["last_seq"] == 3)

    await until(silent)
    return path


# A model, so that a lost body shows although POST /sessions needs none.
MODEL = b'{"model_id": "offline-1"}'
OFFERS = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    "Connection in two lines": ("Connection: keep-alive", "Connection: Upgrade", "Upgrade: h2c"),
    "another protocol": ("Connection: upgrade", "Upgrade: foo/2, TLS/1.0"),
    "a WebSocket by POST": ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_an_offer_is_declined_and_the_body_read(word: str, offer: str, servers: Servers) -> None:
    """RFC 9110, section 7.8: a server may ignore the offer. The connection goes on in HTTP/1.1."""
    sent = request("/sessions", "Host: localhost", *OFFERS[offer], body=MODEL)
    last = request("/health", "Host: localhost", "Connection: close", method="GET")
    for pieces in ([sent + last], [sent[:-10], sent[-10:] + last], [sent[:40], sent[40:], last]):
        async with line(servers, word) as connection:
            for piece in pieces:
                connection.writer.write(piece)
                await connection.writer.drain()
                await asyncio.sleep(0.01)
            async with asyncio.timeout(30):
                raw = await connection.reader.read()
        assert status_of(raw) == 201, raw
        assert b'"model":"offline-1"' in raw
        assert raw.count(b"HTTP/1.1 ") == 2


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_chunked_body_with_an_offer(word: str, servers: Servers) -> None:
    fields = ("Host: localhost", *OFFERS["h2c"], "Content-Type: application/json", "Transfer-Encoding: chunked")
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(MODEL), MODEL)
    closing = request("/health", "Host: localhost", "Connection: close", method="GET")
    raw = await exchange(servers, word, request("/sessions", *fields) + chunked + closing)
    assert b'"model":"offline-1"' in raw


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_javas_own_client(word: str, servers: Servers, tmp_path: Path) -> None:
    """The JDK's default client offers h2c with every request on plain HTTP."""
    java = part("java").path
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    path = {"rest": "/chat", "websocket": "/turns"}.get(word, "/chat/stream")
    url = f"http://{servers[word].address}{path}"
    process = await asyncio.create_subprocess_exec(
        java, source, url, '{"message": "/tokens 3 hello"}', stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    status, _, body = said.decode().partition("\n")
    assert status == ("202 HTTP_1_1" if word == "websocket" else "200 HTTP_1_1")
    assert '"turn_id"' in body


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_curl_with_http2(word: str, servers: Servers) -> None:
    curl = part("curl").path
    arguments = ("-s", "--http2", "-H", "Content-Type: application/json", "-d", MODEL.decode())
    process = await asyncio.create_subprocess_exec(
        curl, *arguments, f"http://{servers[word].address}/sessions", stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert json.loads(said)["model"] == "offline-1"


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_head_wherever_get(word: str, servers: Servers) -> None:
    """The head of GET's answer, and no body (RFC 9110, section 9.3.2)."""
    made = (await ask(servers, "rest", "POST", "/images", body={"prompt": "A hill", "size": "64x64"})).json
    session = (await ask(servers, word, "POST", "/sessions")).json["session_id"]
    paths = ["/", "/health", "/docs", "/openapi.json", "/demo", "/race", "/models", "/stats", "/metrics", "/sessions"]
    paths += [f"/images/{made['image_id']}", f"/turns/{made['turn_id']}", f"/turns/{made['turn_id']}/events"]
    paths += [
        "/web/app.css",
        "/web/lanes.json",
        f"/sessions/{session}",
        f"/sessions/{session}/messages",
        "/no/such/path",
    ]
    for path in paths:
        async with line(servers, word) as connection:
            head, get = await connection.ask("HEAD", path), await connection.ask("GET", path)
        assert (head.status, head.body) == (get.status, b""), path
        same = ("content-type", "content-length", "etag", "cache-control")
        if path not in ("/stats", "/metrics", "/no/such/path"):
            assert [head.headers.get(name) for name in same] == [get.headers.get(name) for name in same], path
    ranged = await ask(servers, word, "HEAD", f"/images/{made['image_id']}", headers={"range": "bytes=0-9"})
    assert ranged.status == 200
    for path, allow in (("/turns", "POST"), ("/models", "GET, HEAD")):
        refused = await ask(servers, word, "PUT", path)
        assert (refused.status, refused.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("word", STREAMS)
async def test_the_head_of_a_stream_starts_no_reader(word: str, servers: Servers) -> None:
    turn = await stalled(servers, word)
    before = (await ask(servers, word, "GET", "/stats")).json["streams_active"]
    head = await ask(servers, word, "HEAD", f"{turn}/stream")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-location"] == turn
    assert "transfer-encoding" not in head.headers
    assert (await ask(servers, word, "GET", "/stats")).json["streams_active"] == before
    assert (await asyncio.wait_for(ask(servers, word, "HEAD", f"{turn}/events?after=3&wait=30"), 15)).status == 200
    await ask(servers, word, "POST", f"{turn}/cancel")


@pytest.mark.parametrize("word", STREAMS)
async def test_a_stream_to_http_1_0(word: str, servers: Servers) -> None:
    """RFC 9112, sections 6.1 and 6.3: no chunks; the body ends with its connection."""
    body = b'{"message": "/tokens 5 Hello"}'
    raw = await exchange(servers, word, request("/chat/stream", "Host: localhost", version="1.0", body=body))
    assert status_of(raw) == 200
    assert fields_of(raw, "transfer-encoding") == []
    assert asks_to_close(raw)
    events = events_of(word, raw.partition(b"\r\n\r\n")[2])
    assert [event["seq"] for event in events] == list(range(1, 8))


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_http_1_0_without_a_host(word: str, servers: Servers) -> None:
    raw = await exchange(servers, word, request("/models", method="GET", version="1.0"))
    assert (status_of(raw), asks_to_close(raw)) == (200, True)
    assert len(raw.partition(b"\r\n\r\n")[2]) == int(fields_of(raw, "content-length")[0])


@pytest.mark.parametrize("word", STREAMS)
async def test_one_connection_line(word: str, servers: Servers) -> None:
    body = b'{"message": "/tokens 1 Hello"}'
    raw = await exchange(servers, word, request("/chat/stream", "Host: localhost", "Connection: close", body=body))
    assert asks_to_close(raw)
    async with line(servers, word) as connection:
        kept = await connection.ask("POST", "/chat/stream", body={"message": "/tokens 1 Hello"})
        assert "connection" not in kept.headers
        assert (await connection.ask("GET", "/health")).status == 200


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([], 400),
        (["Host: localhost", "Host: localhost"], 400),
        (["Host: evil.example", "Host: localhost"], 400),
        (["Host: localhost", "Host: evil.example"], 400),
        (["Host: evil.example"], 403),
        (["Host:"], 403),
        (["Host: localhost"], 200),
    ],
    ids=str,
)
@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_one_host(word: str, hosts: list[str], status: int, servers: Servers) -> None:
    """RFC 9112, section 3.2: an HTTP/1.1 request without a Host, and any request with two, is 400."""
    raw = await exchange(servers, word, request("/models", *hosts, "Connection: close", method="GET"))
    assert status_of(raw) == status
    if status != 200:
        assert fields_of(raw, "content-type") == ["application/problem+json"]
    if len(hosts) > 1:
        for path in ("/health", "/ws"):
            raw = await exchange(servers, word, request(path, *hosts, "Connection: close", method="GET"))
            assert status_of(raw) == 400
        old = await exchange(servers, word, request("/models", *hosts, method="GET", version="1.0"))
        assert status_of(old) == 400


async def test_one_host_at_a_handshake(servers: Servers) -> None:
    offer = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + "A" * 22 + "==",
    )
    for hosts, status in ((("Host: localhost",), 101), (("Host: localhost",) * 2, 400), ((), 400)):
        async with line(servers, "websocket") as connection:
            connection.writer.write(request("/ws", *hosts, *offer, method="GET"))
            assert int((await connection.reader.readline()).split()[1]) == status, hosts


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_the_host_of_an_absolute_target(word: str, servers: Servers) -> None:
    """RFC 9112, section 3.2.2: the host in the target counts, and ``Host`` does not."""
    for target, host, status in (
        ("http://localhost/models", "evil.example", 200),
        ("http://evil.example/models", "localhost", 403),
    ):
        raw = await exchange(servers, word, request(target, f"Host: {host}", "Connection: close", method="GET"))
        assert status_of(raw) == status, target


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_client_that_closes_its_side(word: str, servers: Servers) -> None:
    """The client counts as gone, so a wait ends and no reader remains.

    An answer that waits for nothing is still sent.
    """
    for target in ("/health", "/models", "/sessions"):
        raw = await exchange(servers, word, request(target, "Host: localhost", method="GET"), half_close=True)
        assert status_of(raw) == 200
    raw = await exchange(servers, word, request("/sessions", "Host: localhost", body=MODEL), half_close=True)
    assert status_of(raw) == 201
    two = request("/health", "Host: localhost", method="GET") * 2
    assert (await exchange(servers, word, two, half_close=True)).count(b"HTTP/1.1 200") == 2
    half = request("/sessions", "Host: localhost", body=MODEL)[:-5]
    assert await exchange(servers, word, half, half_close=True) == b""
    turn = await stalled(servers, word)
    waiting = request(f"{turn}/events?after=3&wait=30", "Host: localhost", method="GET")
    raw = await asyncio.wait_for(exchange(servers, word, waiting, half_close=True), 15)
    assert raw == b""
    await ask(servers, word, "POST", f"{turn}/cancel")


@pytest.mark.parametrize("word", STREAMS)
async def test_a_stream_ends_when_its_client_closes_its_side(word: str, make_servers: MakeServers) -> None:
    own = make_servers()
    async with line(own, word) as connection:
        body = b'{"message": "/tokens 4 /stall 60 Count."}'
        connection.writer.write(request("/chat/stream", "Host: localhost", body=body))
        await connection.reader.readuntil(b"turn_started")
        connection.writer.write_eof()
        async with asyncio.timeout(15):
            await connection.reader.read()

    async def nobody() -> bool:
        return bool((await ask(own, word, "GET", "/stats")).json["streams_active"] == 0)

    await until(nobody)


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_no_redirect_for_a_slash(word: str, servers: Servers) -> None:
    """A redirect would name an address that a client behind a proxy cannot reach."""
    for method, path in (
        ("POST", "/sessions/"),
        ("GET", "/models/"),
        ("GET", "/web"),
        ("GET", "/docs/"),
        ("GET", "//"),
    ):
        answer = await ask(servers, word, method, path)
        assert (answer.status, answer.json["code"]) == (404, "invalid_request"), path
        assert "location" not in answer.headers


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_any_number_of_digits(word: str, servers: Servers) -> None:
    """Python refuses to read more than 4,300 digits; that is no error of the server."""
    made = (await ask(servers, "rest", "POST", "/images", body={"prompt": "A hill", "size": "64x64"})).json
    whole = (await ask(servers, word, "GET", f"/images/{made['image_id']}")).body

    async def part_of(given: str) -> Answer:
        return await ask(servers, word, "GET", f"/images/{made['image_id']}", headers={"range": given})

    for given, status, start, stop in (
        (f"bytes=0-{NINES}", 206, 0, len(whole)),
        (f"bytes=-{NINES}", 206, 0, len(whole)),
        (f"bytes={'0' * 5000}5-{'0' * 5000}9", 206, 5, 10),
        (f"bytes={NINES}-", 416, 0, 0),
        (f"bytes={NINES}-{NINES}", 416, 0, 0),
        ("bytes=9-5", 200, 0, len(whole)),
    ):
        answer = await part_of(given)
        assert (answer.status, answer.body) == (status, whole[start:stop]), given[:20]
    turn = f"/turns/{made['turn_id']}"
    for target in (f"{turn}/events?after={NINES}", f"{turn}/events?after={'9' * 30}", f"{turn}/events?wait={NINES}"):
        answer = await ask(servers, word, "GET", target)
        assert (answer.status, answer.json["code"] in ("cursor_out_of_range", "invalid_request")) == (422, True), target
    for target in (f"/sessions?limit={NINES}", f"/sessions?cursor={NINES}.5_{'a' * 36}"):
        assert (await ask(servers, word, "GET", target)).status == 422
    if word == "sse":
        for cursor in (f"{made['turn_id']}/{NINES}", f"{made['turn_id']}/{'9' * 25}"):
            answer = await ask(servers, word, "GET", f"{turn}/stream", headers={"last-event-id": cursor})
            assert (answer.status, answer.json["code"]) == (422, "cursor_out_of_range")
        zeros = f"{made['turn_id']}/{'0' * 5000}1"
        answer = await ask(servers, word, "GET", f"{turn}/stream", headers={"last-event-id": zeros})
        assert events_of(word, answer.body)[0]["seq"] == 2


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_compressed_body_is_refused_with_the_coding_that_is_read(word: str, servers: Servers) -> None:
    for coding in ("gzip", "GZIP", "br", "gzip, identity"):
        answer = await ask(
            servers, word, "POST", "/sessions", body=gzip.compress(MODEL), headers={"content-encoding": coding}
        )
        assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type"), coding
        assert answer.headers["accept-encoding"] == "identity"
    plain = await ask(servers, word, "POST", "/sessions", body=MODEL, headers={"content-encoding": "identity"})
    assert plain.json["model"] == "offline-1"


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_methods_for_proxies(word: str, servers: Servers) -> None:
    for sent in (
        request("localhost:80", "Host: localhost", method="CONNECT"),
        request("/models", "Host: localhost", method="CONNECT"),
        request("*", "Host: localhost", "Connection: close", method="OPTIONS"),
        request("/models", "Host: localhost", "Connection: close", method="TRACE"),
    ):
        assert 400 <= status_of(await exchange(servers, word, sent)) < 500, sent


async def test_forwarded_headers_are_never_read(keyed: Servers) -> None:
    """Any client can send these headers. They change neither the origin of a request nor its host."""
    for name, value in (
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "host=evil.example;proto=https"),
    ):
        headers = {"x-api-key": KEY, "origin": "https://evil.example", name: value}
        answer = await ask(keyed, "rest", "POST", "/sessions", headers=headers)
        assert (answer.status, answer.json["code"]) == (403, "permission_denied"), name


def test_the_check_of_uvicorn_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uvicorn_adapter.missing() == []
    monkeypatch.delattr(HttpToolsProtocol, "on_message_begin")
    monkeypatch.setitem(uvicorn_adapter._USED, HttpToolsProtocol, ("on_message_begin", "no_such_attribute"))
    module = "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol"
    assert uvicorn_adapter.missing() == [f"{module}.no_such_attribute", f"{module}.on_message_begin"]
