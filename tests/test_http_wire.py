"""Plain HTTP on the wire: whole replies, pictures, problems, connections and CORS, read from a raw socket by h11."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from PIL import Image

from protocols import TRANSPORTS
from shared.config import Settings
from shared.server.http.app import create_app
from shared.server.http.serving import serve
from shared.server.launch import open_context
from shared.server.stopping import Stopping
from tests.conftest import FAST, KEY, MakeServers, Servers, until
from tests.raw_http import Answer, ask, exchange, fields_of, line

HTTP_WORDS = ("rest", "ndjson", "sse", "websocket")
TOKENS_PER_S = 100


@pytest.fixture(scope="module")
def paced(make_servers: MakeServers) -> Servers:
    """Servers with a slow model that wait only a second for a request."""
    return make_servers(OFFLINE_TOKENS_PER_S=str(TOKENS_PER_S), REQUEST_TIMEOUT_S="1")


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


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ((), "application/json"),
        (("*/*",), "application/json"),
        (("text/html",), "application/json"),
        (("application/json", "image/png"), "application/json"),
        (("application/json;q=0.5, image/png",), "image/png"),
        (("application/json;q=0.5", "image/png"), "image/png"),
        (("application/octet-stream, image/png",), "image/png"),
        (("IMAGE/PNG",), "image/png"),
        (("Image/*; Q=0.7",), "image/png"),
        (("image/*;q=0.2, image/png;q=0",), "application/json"),
        (("image/*;q=0.2, */*;q=0.1",), "image/png"),
        (("image/png;q=0.1, */*",), "application/json"),
        (("image/png;q=0",), "application/json"),
        (("image/webp, image/jpeg",), "application/json"),
        (("image/png;charset=x;q=0.9, application/json;q=0.8",), "image/png"),
        (("image/*, */*;q=0.8, application/json;q=0.9, nonsense, /, image/png;q=2",), "image/png"),
    ],
)
async def test_the_media_type_that_a_client_prefers(accept: tuple[str, ...], media_type: str, servers: Servers) -> None:
    """RFC 9110, section 12.5.1: lists, weights, several lines, any case; and ``Vary`` for caches (section 12.5.5)."""
    body = b'{"prompt": "A hill", "size": "16x16"}'
    lines = "".join(f"Accept: {value}\r\n" for value in accept)
    head = f"POST /images HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{lines}"
    raw = await exchange(servers, "rest", f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert fields_of(raw, "content-type") == [media_type]
    assert "Accept" in fields_of(raw, "vary")[0].split(", ")
    assert raw.partition(b"\r\n\r\n")[2].startswith(b"\x89PNG" if media_type == "image/png" else b'{"turn_id"')


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
    # Several ranges, other units and broken ranges are ignored.
    for given in ("bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "bytes=-", "bytes"):
        assert (await get(range=given)).body == data, given
    for given in (etag, f'W/"x", {etag}', f"W/{etag}", "*"):
        unchanged = await get(if_none_match=given)
        assert (unchanged.status, unchanged.body) == (304, b""), given
        assert unchanged.headers["etag"] == etag
    assert (await get(if_none_match='"other"')).status == 200
    assert (await get(range="bytes=0-1", if_range=etag)).status == 206
    assert (await get(range="bytes=0-1", if_range='"other"')).status == 200


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_problems(word: str, servers: Servers) -> None:
    """A problem has the fields of RFC 9457 and of the contract, also where the framework refuses a path or a method."""
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


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_problem_is_in_the_log(word: str, servers: Servers) -> None:
    """The log line has the problem's ``request_id``, the path, the status and the code, and not the query."""
    for method, target, body in (
        ("GET", "/turns/nobody?ticket=secret", None),
        ("POST", "/turns", {"message": " "}),
        ("GET", "/models", None),
    ):
        headers = {"host": "evil.example"} if target == "/models" else {}
        problem = (await ask(servers, word, method, target, body=body, headers=headers)).json
        (entry,) = await until(partial(logged, servers, word, problem["request_id"]))
        assert (entry["status"], entry["code"]) == (problem["status"], problem["code"])
        assert entry["path"] == target.partition("?")[0]
        assert "secret" not in str(entry)


def logged(servers: Servers, word: str, request_id: str) -> list[dict[str, Any]]:
    """The lines of a server's log with this ``request_id``."""
    return [entry for entry in list(servers[word].log) if entry.get("request_id") == request_id]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_an_internal_error(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A page of an allowed origin can read a 500; the log names the fault, and the answer does not."""
    routes = APIRouter()

    @routes.api_route("/fault", methods=["GET", "POST"])
    async def fault() -> None:
        raise ZeroDivisionError("the text of a fault")

    async with running(routes) as address, httpx.AsyncClient(trust_env=False, verify=False) as http:
        answer = await http.request(method, f"http://{address}/fault", headers={"Origin": "http://localhost:8002"})
        assert (await http.get(f"http://{address}/health")).status_code == 200
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == "http://localhost:8002"
    assert "origin" in answer.headers["vary"].lower()
    assert answer.headers["cache-control"] == "no-store"
    assert "fault" not in answer.text
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"internal error"' in line]
    assert [(entry["level"], entry["why"], entry["path"]) for entry in logged] == [
        ("error", "ZeroDivisionError", "/fault")
    ]
    if method != "HEAD":
        assert answer.json()["code"] == "internal"
        assert answer.json()["request_id"] == logged[0]["request_id"]


@asynccontextmanager
async def running(routes: APIRouter) -> AsyncIterator[str]:
    """Run a server in this process with the test's own routes. Yields its address."""
    given = {name.lower(): value for name, value in FAST.items()}
    settings = Settings(_env_file=None, store_url="sqlite://", **given)  # type: ignore[arg-type]
    opening = open_context(TRANSPORTS, "rest", "FastAPI", settings, host="127.0.0.1", port=0)
    async with opening as (context, listener):
        stopping = Stopping(0)
        serving = asyncio.create_task(serve(create_app(context, routes, "A test"), context, listener, stopping))
        yield context.address
        stopping.asked.set()
        await serving


async def test_when_to_come_back(servers: Servers) -> None:
    answer = await ask(servers, "rest", "POST", "/chat", body={"message": "/fail-first model_rate_limited x"})
    assert (answer.status, answer.json["code"]) == (503, "model_rate_limited")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_key_is_wanted(word: str, keyed: Servers) -> None:
    answer = await ask(keyed, word, "GET", "/sessions")
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_connection_is_used_again(word: str, servers: Servers) -> None:
    """A connection serves the next request after an answer, an empty answer and a refusal."""
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


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_preflight(word: str, servers: Servers) -> None:
    """An allowed page may send the headers and methods of the contract; a foreign page gets no CORS header."""
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


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_echo(word: str, servers: Servers, make_servers: MakeServers) -> None:
    """The answer shows how a request arrived, and of a possible secret only the length. It needs the key, and PROBE."""
    given = {"accept": "text/plain", "x-forwarded-for": "10.1.2.3", "x-accel-x": "y", "authorization": "Bearer secret"}
    got = (await ask(servers, word, "GET", "/echo?ticket=secret", headers=given)).json
    assert (got["method"], got["http_version"], got["body_bytes"]) == ("GET", "1.1", 0)
    assert list(got) == ["method", "http_version", "headers", "body_bytes"]
    assert {tuple(pair) for pair in got["headers"]} >= {
        ("host", servers[word].address),
        ("accept", "text/plain"),
        ("x-forwarded-for", "10.1.2.3"),
        ("x-accel-x", "y"),
    }
    assert "secret" not in str(got)
    assert "authorization" in str(got)
    for media_type in ("text/plain", "application/octet-stream", "application/json"):
        sent = {"content-type": media_type, "content-encoding": "gzip", "connection": "upgrade", "upgrade": "h2c"}
        got = (await ask(servers, word, "POST", "/echo", body=b"x" * 5000, headers=sent)).json
        assert (got["method"], got["body_bytes"]) == ("POST", 5000)
        assert ["upgrade", "h2c"] in got["headers"]
    off = make_servers(PROBE="off", API_SECRET_KEY=KEY)
    for headers, status in (({}, 401), ({"x-api-key": KEY}, 404)):
        assert (await ask(off, word, "GET", "/echo", headers=headers)).status == status
    assert "/echo" not in (await ask(off, word, "GET", "/openapi.json")).json["paths"]
    assert "/echo" in (await ask(servers, word, "GET", "/openapi.json")).json["paths"]


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_the_cut_is_a_demonstration(word: str, servers: Servers, keyed: Servers) -> None:
    """The route ends this server's streams of a turn. Where a key is set, the route is not there."""
    turn = (await ask(servers, word, "POST", "/turns", body={"message": "/tokens 3 /stall 60 x"})).json["turn_id"]
    poll = asyncio.create_task(ask(servers, word, "GET", f"/turns/{turn}/events?after=0"))
    assert (await poll).status == 200
    assert (await ask(servers, word, "POST", f"/turns/{turn}/cut")).status == 204
    assert "/turns/{turn_id}/cut" in (await ask(servers, word, "GET", "/openapi.json")).json["paths"]
    await ask(servers, word, "POST", f"/turns/{turn}/cancel")
    cut = await ask(keyed, word, "POST", f"/turns/{turn}/cut", headers={"x-api-key": KEY})
    assert (cut.status, cut.json["code"]) == (404, "invalid_request")
    assert "/turns/{turn_id}/cut" not in (await ask(keyed, word, "GET", "/openapi.json")).json["paths"]


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
