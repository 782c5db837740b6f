"""The edges of HTTP/1.1 (RFC 9110, RFC 9112) on a raw socket: methods, targets, framing, lists, ranges, conditions, refusals."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.conftest import KEY, Servers
from tests.raw_http import ask, exchange, fields_of, line

HTTP_WORDS = ("rest", "ndjson", "sse", "websocket")
HOST = "Host: localhost"
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
EXPECT = "Expect: 100-continue"
MODEL = b'{"model_id": "offline-1"}'
CHUNK = b"%x\r\n%b\r\n" % (len(MODEL), MODEL)
STATUS = rb"HTTP/1\.1 (\d{3}) "
NINE_MIB = 9 * 1024 * 1024


def request(start: str, *fields: str, body: bytes = b"", length: bool = True, close: bool = True) -> bytes:
    """A request as bytes. ``start``: the method and the target, and the version where it is not 1.1."""
    lines = [start if " HTTP/" in start else f"{start} HTTP/1.1", *fields]
    lines += [f"Content-Length: {len(body)}"] if body and length else []
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def get(target: str, *fields: str) -> bytes:
    return request(f"GET {target}", HOST, *fields)


def post(*fields: str, body: bytes = MODEL, length: bool = True, close: bool = True) -> bytes:
    return request("POST /sessions", HOST, *fields, body=body, length=length, close=close)


def chunked(*fields: str, body: bytes = CHUNK + b"0\r\n\r\n") -> bytes:
    return post(JSON, *(fields or (CHUNKED,)), body=body, length=False)


def statuses(raw: bytes) -> str:
    """The statuses of the answers on a connection, with the interim ones."""
    return " ".join(status.decode() for status in re.findall(STATUS, raw))


# By name: the bytes of the requests on one connection, and the statuses of the answers.
CASES: dict[str, tuple[bytes, str]] = {
    # Targets (RFC 9112, section 3.2)
    "a coded letter": (get("/%6dodels"), "200"),
    "a query that is no UTF-8": (get("/models?x=%ff"), "200"),
    "a long query": (get("/models?" + "a" * 30_000), "200"),
    "a query above the limit": (get("/models?" + "a" * 70_000), "414"),
    "an absolute target": (get("http://localhost/models"), "200"),
    "an absolute target without a path": (get("http://localhost"), "200"),
    "an absolute target with a query alone": (get("http://localhost?x=1"), "200"),
    "an absolute target with IPv6": (get("http://[::1]/models"), "200"),
    "an absolute target in upper case": (get("HTTP://LOCALHOST/models"), "200"),
    "an absolute target with a user": (get("http://user@localhost/models"), "400"),
    "an absolute target of another scheme": (get("ftp://localhost/models"), "400"),
    "two slashes": (get("//models"), "404"),
    "a dot": (get("/./models"), "404"),
    "two dots": (get("/x/../models"), "404"),
    "a coded slash": (get("/sessions/a%2Fb"), "404"),
    "a coded NUL": (get("/turns/%00"), "404"),
    "a path that is no UTF-8": (get("/sessions/%ff"), "404"),
    "a page's file with a slash": (get("/web/app.css/"), "404"),
    "a page's file after two slashes": (get("/web//app.css"), "404"),
    "a page's file after a coded dot": (get("/web/%2e/app.css"), "404"),
    "a file outside of the pages": (get("/web/..%2f..%2fsettings.py"), "404"),
    "a folder of the pages": (get("/web/wires"), "404"),
    "a blank in the target": (get("/mod els"), "400"),
    # Versions and heads
    "HTTP/2.0 in the form of 1.1": (request("GET /models HTTP/2.0", HOST), "505"),
    "HTTP/0.9 in the form of 1.1": (request("GET /models HTTP/0.9", HOST), "505"),
    "HTTP/1.2": (request("GET /models HTTP/1.2", HOST), "400"),
    "HTTP/2's first line": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
    "an empty line before": (b"\r\n" + get("/models"), "200"),
    "a folded header": (get("/models", "X-A: a\r\n b"), "400"),
    "a blank before the colon": (get("/models", "X-A : a"), "400"),
    "a NUL in a value": (get("/models", "X-A: a\0b"), "400"),
    "a lone CR in a value": (get("/models", "X-A: a\rb"), "400"),
    "Latin-1 in a value": (get("/models", "X-A: \xe4"), "200"),
    "an unknown method": (request("BREW /models", HOST), "400"),
    "the method in lower case": (request("get /models", HOST), "400"),
    "HTTP/1.0 does not keep alive": (
        request("GET /models HTTP/1.0", HOST, "Connection: keep-alive", close=False) * 2,
        "200",
    ),
    "nothing after Connection: close": (get("/models") * 2, "200"),
    # Hosts
    "a port": (request("GET /models", "Host: LocalHost:21800"), "200"),
    "an empty port": (request("GET /models", "Host: localhost:"), "200"),
    "IPv6 with a port": (request("GET /models", "Host: [::1]:80"), "200"),
    "a dot at the end": (request("GET /models", "Host: localhost."), "403"),
    "a short address": (request("GET /models", "Host: 127.1"), "403"),
    # Framing (RFC 9112, sections 6 and 7)
    "two equal lengths": (post(JSON, "Content-Length: 25"), "400"),
    "two lengths": (post(JSON, "Content-Length: 1"), "400"),
    "a negative length": (post(JSON, "Content-Length: -1", length=False), "400"),
    "a length with a sign": (post(JSON, "Content-Length: +25", length=False), "400"),
    "a length of thirty digits": (post(JSON, "Content-Length: " + "9" * 30, length=False), "400"),
    "a length and chunks": (chunked(CHUNKED, "Content-Length: 25"), "400"),
    "chunks": (chunked(), "201"),
    "CHUNKED": (chunked("Transfer-Encoding: CHUNKED"), "201"),
    "a compressed transfer": (chunked("Transfer-Encoding: gzip, chunked"), "501"),
    "a transfer that does not end in chunks": (chunked("Transfer-Encoding: chunked, identity"), "400"),
    "an unknown transfer": (chunked("Transfer-Encoding: xchunked"), "400"),
    "extensions of chunks": (
        chunked(body=b'%x;a="b;c"\r\n%b\r\n0;d\r\n\r\n' % (len(MODEL), MODEL)),
        "201",
    ),
    "a size of a chunk that is none": (chunked(body=b"zz\r\n"), "400"),
    "a size of twenty digits": (chunked(body=b"f" * 20 + b"\r\n"), "400"),
    "trailers": (chunked(body=CHUNK + b"0\r\nX-A: b\r\n\r\n"), "201"),
    "Host in the trailers": (chunked(body=CHUNK + b"0\r\nHost: evil.example\r\n\r\n"), "201"),
    "Origin in the trailers": (chunked(body=CHUNK + b"0\r\nOrigin: http://evil.example\r\n\r\n"), "201"),
    "no body at all": (request("POST /sessions", HOST), "201"),
    "a GET with a body": (request("GET /models", HOST, body=b"hello", close=False) + get("/health"), "200 200"),
    "three in a row": (
        request("GET /models", HOST, close=False) + post(JSON, close=False) + get("/health"),
        "200 201 200",
    ),
    "a refusal, and the connection goes on": (
        post("Content-Type: text/plain", close=False) + get("/health"),
        "415 200",
    ),
    # Expect (RFC 9110, section 10.1.1)
    "100-continue": (post(JSON, EXPECT), "100 201"),
    "100-Continue": (post(JSON, "Expect: 100-Continue"), "100 201"),
    "another expectation": (post(JSON, "Expect: x"), "201"),
    "100-continue of HTTP/1.0": (request("POST /sessions HTTP/1.0", HOST, JSON, EXPECT, body=MODEL), "201"),
    "100-continue, and refused by its type": (
        request("POST /sessions", HOST, "Content-Type: text/plain", EXPECT, "Content-Length: 9", close=False),
        "415",
    ),
    "100-continue, and refused by its host": (
        request("POST /sessions", "Host: evil.example", JSON, EXPECT, "Content-Length: 9", close=False),
        "403",
    ),
    "100-continue, and too large": (
        request("POST /sessions", HOST, JSON, EXPECT, f"Content-Length: {NINE_MIB}", close=False),
        "413",
    ),
    # Media types and codings
    "a charset": (post("Content-Type: application/json; charset=UTF-8"), "201"),
    "the type in upper case": (post("Content-Type: APPLICATION/JSON"), "201"),
    "a type of the family": (post("Content-Type: application/vnd.api+json"), "201"),
    "two types in one line": (post("Content-Type: application/json, text/plain"), "415"),
    "no type": (post(), "415"),
    "the coding identity": (post(JSON, "Content-Encoding: IDENTITY, identity"), "201"),
    "the coding br": (post(JSON, "Content-Encoding: br"), "415"),
    "codings in two lines": (post(JSON, "Content-Encoding: identity", "Content-Encoding: zstd"), "415"),
    # Headers that stand once
    **{
        f"{name} twice": (post(JSON, *(() if name == "Content-Type" else (f"{name}: a",)), f"{name}: b"), "400")
        for name in ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Origin", "X-API-Key")
    },
    "a cookie": (get("/models", "Cookie: a=b; session=c"), "200"),
    # JSON (RFC 8259)
    "NaN": (post(JSON, body=b'{"x": NaN}'), "400"),
    "Infinity": (post(JSON, body=b'{"x": [-Infinity]}'), "400"),
    "NaN in a text": (post(JSON, body=b'{"x": "NaN and Infinity"}'), "201"),
    "UTF-16": (post(JSON, body='{"x": 1}'.encode("utf-16")), "400"),
    "bytes that are no UTF-8": (post(JSON, body=b'{"x": "\xff"}'), "400"),
    "a number of 5,000 digits": (post(JSON, body=b'{"x": 1%b}' % (b"0" * 5000)), "400"),
    "lists in lists": (post(JSON, body=b'{"x": %b}' % (b"[" * 5000 + b"]" * 5000)), "400"),
    # Numbers in a query
    "an underscore in a number": (get("/sessions?limit=1_0"), "422"),
    "a number with a sign": (get("/sessions?limit=%2B5"), "422"),
    "digits of another script": (get("/sessions?limit=%D9%A5"), "422"),
    "a number that is none": (get("/sessions?limit="), "422"),
    "an unknown parameter": (get("/sessions?%ff=1&&="), "200"),
    # Ranges and conditions where nothing is sent in ranges or has a tag
    "a range of JSON": (get("/models", "Range: bytes=0-1"), "200"),
    "a range of a file": (get("/web/app.css", "Range: bytes=0-1"), "200"),
    "a range of another unit": (get("/web/app.css", "Range: lines=0-1"), "200"),
    "a range that is none": (get("/demo", "Range: bytes=9-5"), "200"),
    "a range of 5,000 digits": (get("/demo", "Range: bytes=" + "9" * 5000 + "-"), "200"),
}


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_edges(word: str, servers: Servers) -> None:
    for name, (sent, wanted) in CASES.items():
        raw = await exchange(servers, word, sent)
        assert statuses(raw) == wanted, (name, raw[:300])
        last = raw[[found.start() for found in re.finditer(STATUS, raw)][-1] :]
        assert fields_of(last, "connection") == ["close"], name
        if wanted[-3:] in ("403", "404", "405", "413", "415", "422", "501", "505"):
            assert fields_of(last, "content-type") == ["application/problem+json"], name


ALLOWED = {
    "/": "GET, HEAD",
    "/health": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
    "/web/app.css": "GET, HEAD",
    "/web/page.json": "GET, HEAD",
    "/images/x": "GET, HEAD",
    "/turns/x": "GET, HEAD",
    "/turns": "POST",
    "/turns/x/cancel": "POST",
    "/tickets": "POST",
    "/sessions": "GET, POST, HEAD",
    "/sessions/x": "GET, DELETE, HEAD",
    "/echo": "GET, POST, HEAD",
}


STREAMS = ("ndjson", "sse")


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_wrong_method_is_told_the_right_ones(word: str, servers: Servers) -> None:
    """RFC 9110, section 15.5.6."""
    more = {"/chat/stream": "POST", "/images/stream": "POST", "/turns/x/stream": "GET, HEAD"} if word in STREAMS else {}
    for path, allowed in (ALLOWED | more).items():
        for method in ("PUT", "PATCH", "OPTIONS", "TRACE", *({"DELETE"} - set(allowed.split(", ")))):
            raw = await exchange(servers, word, request(f"{method} {path}", HOST))
            assert statuses(raw) == "405", (method, path)
            assert fields_of(raw, "allow") == [allowed], (method, path)
    for path in ("/no/such/path", "/ws", "/models/"):
        assert statuses(await exchange(servers, word, request(f"PUT {path}", HOST))) == "404", path


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_refusal_reaches_a_client_that_still_sends(word: str, close: bool, keyed: Servers) -> None:
    """A connection that is closed while the client sends would be reset, and the client would not see the answer."""
    for start, wanted in (("PUT /sessions", "405"), ("POST /sessions", "413"), ("POST /nowhere", "404")):
        body = b"x" * NINE_MIB if wanted != "404" else b'{"x": "%b"}' % (b"x" * 1_000_000)
        sent = request(start, HOST, JSON, f"X-API-Key: {KEY}", body=body, close=close)
        for key in ("", KEY):
            given = sent if key else sent.replace(f"X-API-Key: {KEY}".encode(), b"X-A: b")
            if not close and not (key and wanted == "413"):
                # Ends the connection, which the server would keep.
                given += request("GET /health", HOST)
            answered = statuses(await exchange(keyed, word, given))
            assert answered.split()[0] == (wanted if key else "401"), (start, key)


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_white_space_around_a_value(word: str, keyed: Servers) -> None:
    """White space around a value does not belong to the value (RFC 9112, section 5.1)."""
    for field in (f"X-API-Key:   {KEY} \t", f"Authorization: bearer {KEY}  ", f"Authorization:\tBEARER  {KEY}"):
        assert statuses(await exchange(keyed, word, get("/models", field))) == "200", field
    for field in (f"Authorization: {KEY}", "Authorization: Bearer", f"Cookie: x-api-key={KEY}", f"X-API-Key: {KEY}x"):
        assert statuses(await exchange(keyed, word, get("/models", field))) == "401", field


async def test_a_trailer_is_no_key(servers: Servers) -> None:
    """With a key in the headers the second request would be the first turn again, with one in the trailers it is another turn."""
    body = b'{"message": "/tokens 1 Hi"}'
    turns = set()
    for _ in range(2):
        sent = b"%x\r\n%b\r\n0\r\nIdempotency-Key: trailer\r\n\r\n" % (len(body), body)
        raw = await exchange(servers, "rest", request("POST /turns", HOST, JSON, CHUNKED, body=sent, length=False))
        turns.add(json.loads(raw.partition(b"\r\n\r\n")[2])["turn_id"])
    assert len(turns) == 2


# ``{tag}`` stands for the picture's own tag.
PICTURE: dict[str, tuple[dict[str, str], int]] = {
    "the tag": ({"if-none-match": "{tag}"}, 304),
    "the weak tag": ({"if-none-match": "W/{tag}"}, 304),
    "any tag": ({"if-none-match": "*"}, 304),
    "a list with the tag": ({"if-none-match": '"x,y", {tag}'}, 304),
    "another tag": ({"if-none-match": '"x"'}, 200),
    "the tag without quotes": ({"if-none-match": "{bare}"}, 200),
    "the tag inside another": ({"if-none-match": '"x{tag}y"'}, 200),
    "the tag, and a range": ({"if-none-match": "{tag}", "range": "bytes=0-1"}, 304),
    "another tag, and a range": ({"if-none-match": '"x"', "range": "bytes=0-1"}, 206),
    "wanted": ({"if-match": '"x", {tag}'}, 200),
    "any is wanted": ({"if-match": "*"}, 200),
    "another is wanted": ({"if-match": '"x"'}, 412),
    "the weak one is wanted": ({"if-match": "W/{tag}"}, 412),
    "another is wanted, and the tag is known": ({"if-match": '"x"', "if-none-match": "{tag}"}, 412),
    "a date": ({"if-modified-since": "Sat, 28 Nov 2037 10:00:00 GMT"}, 200),
    "a suffix": ({"range": "bytes=-5"}, 206),
    "an empty suffix": ({"range": "bytes=-0"}, 416),
    "one byte": ({"range": "BYTES = 0-0"}, 206),
    "beyond the end": ({"range": "bytes=99999999-"}, 416),
    "two ranges": ({"range": "bytes=0-1, 4-5"}, 200),
    "another unit": ({"range": "lines=0-1"}, 200),
    "backwards": ({"range": "bytes=9-5"}, 200),
    "no range": ({"range": "bytes=-"}, 200),
    "if it is this picture": ({"range": "bytes=0-1", "if-range": "{tag}"}, 206),
    "if it is weakly this picture": ({"range": "bytes=0-1", "if-range": "W/{tag}"}, 200),
    "if it is another": ({"range": "bytes=0-1", "if-range": '"x"'}, 200),
    "if it is older": ({"range": "bytes=0-1", "if-range": "Sat, 28 Nov 2037 10:00:00 GMT"}, 200),
}


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_conditions_and_ranges_of_a_picture(word: str, servers: Servers) -> None:
    """RFC 9110, sections 13 and 14; the answer to HEAD has the same head, and no range."""
    made = (await ask(servers, "rest", "POST", "/images", body={"prompt": "A hill", "size": "64x64"})).json
    path, tag = f"/images/{made['image_id']}", f'"{made["sha256"]}"'
    async with line(servers, word) as connection:
        for name, (given, status) in PICTURE.items():
            headers = {
                field: value.replace("{tag}", tag).replace("{bare}", made["sha256"]) for field, value in given.items()
            }
            answer = await connection.ask("GET", path, headers)
            assert answer.status == status, name
            head = await connection.ask("HEAD", path, {k: v for k, v in headers.items() if "range" not in k})
            if "range" not in given:
                assert (head.status, head.body) == (status, b""), name
                assert head_of(head.headers) == head_of(answer.headers), name
            if status in (200, 206, 304):
                assert answer.headers["etag"] == tag


def head_of(headers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name != "date"}


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_conditions_of_a_pages_file(word: str, servers: Servers) -> None:
    for path in ("/demo", "/race", "/web/app.css", "/web/demo.js"):
        first = await ask(servers, word, "GET", path)
        tag = first.headers["etag"]
        assert "accept-ranges" not in first.headers
        for given, status in ((tag, 304), (f"W/{tag}", 304), (f'"x", {tag}', 304), ("*", 304), ('"x"', 200)):
            again = await ask(servers, word, "GET", path, headers={"if-none-match": given})
            assert again.status == status, (path, given)
            assert again.headers.get("cache-control") == first.headers.get("cache-control")
            assert again.body == (first.body if status == 200 else b"")


PNG = "image/png"
ACCEPTS = {
    'image/png;a="b,c";q=0': "application/json",
    'image/png;a=";q=0;"': PNG,
    "*/*;q=0": "application/json",
    "image/png;q=0.5, application/json;q=0.4": PNG,
    "image/png;level=1;q=0.1, application/json;q=0.2": "application/json",
    "application/json;q=0, */*": PNG,
    "image/svg+xml, image/*": PNG,
    "image/PNG;Q=1": PNG,
    "image/png,": PNG,
    ", ,": "application/json",
    "image": "application/json",
    "*/png": "application/json",
    "": "application/json",
}


async def test_accept_with_its_parameters(servers: Servers) -> None:
    """RFC 9110, section 12.5.1, beside what test_http_wire.py tries."""
    async with line(servers, "rest") as connection:
        for accept, wanted in ACCEPTS.items():
            body = {"prompt": "A hill", "size": "16x16"}
            answer = await connection.ask("POST", "/images", {"accept": accept}, body)
            assert answer.headers["content-type"] == wanted, accept
            assert "Accept" in answer.headers["vary"]


@pytest.mark.parametrize("word", ["ndjson", "sse"])
async def test_tickets_in_a_query(word: str, keyed: Servers) -> None:
    key = {"x-api-key": KEY}
    turn = (await ask(keyed, word, "POST", "/turns", headers=key, body={"message": "/tokens 1 Hi"})).json["turn_id"]
    ticket = (await ask(keyed, word, "POST", "/tickets", headers=key, body={"turn_id": turn})).json["ticket"]
    coded = "".join(f"%{ord(letter):02X}" for letter in ticket)
    for query, status in (
        (f"ticket={coded}", 200),
        (f"%74icket={ticket}", 200),
        (f"a=b&&ticket={ticket}&after=0", 200),
        (f"TICKET={ticket}", 401),
        (f"ticket={ticket}.", 401),
        (f"ticket=+{ticket}", 401),
        ("ticket=", 401),
        ("ticket=%ff", 401),
        (f"xticket={ticket}", 401),
        (f"a=b;ticket={ticket}", 401),
    ):
        assert (await ask(keyed, word, "GET", f"/turns/{turn}/stream?{query}")).status == status, query
