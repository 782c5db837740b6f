"""Caches and compressors between a server and its clients: they store only pictures and files, and delay no token."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from protocols.ports import free_port
from tests.conftest import KEY, MakeServers, Servers, until
from tests.event_streams import events_of, whole_events
from tests.parts import part
from tests.raw_http import ask, line

HTTP_WORDS = ("rest", "ndjson", "sse", "websocket")
STREAMS = ("ndjson", "sse")
WITH_KEY = {"x-api-key": KEY}
DEV_SERVER = """
const express = require("express");
const compression = require("compression");
const { createProxyMiddleware } = require("http-proxy-middleware");
const [,, port, target] = process.argv;
const app = express();
app.use(compression());
app.use(createProxyMiddleware({ target, changeOrigin: true }));
app.listen(+port, "127.0.0.1");
"""


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_who_may_keep_an_answer(word: str, servers: Servers) -> None:
    """Without ``Cache-Control`` a cache may store an answer by its own rules (RFC 9111, section 4.2.2)."""
    made = (await ask(servers, "rest", "POST", "/images", body={"prompt": "A hill", "size": "64x64"})).json
    turn, image = f"/turns/{made['turn_id']}", f"/images/{made['image_id']}"
    session = "/sessions/" + (await ask(servers, word, "POST", "/sessions")).json["session_id"]
    asked = [("GET", path) for path in ("/", "/health", "/models", "/stats", "/metrics", "/sessions", session)]
    asked += [("GET", path) for path in (f"{session}/messages", turn, f"{turn}/events", "/openapi.json")]
    asked += [
        ("GET", path) for path in ("/no/such", "/turns/nothing", f"{turn}/events?after=x", "/web/none.js", "/echo")
    ]
    asked += [("POST", f"{session}/clear"), ("POST", f"{turn}/cancel"), ("POST", "/tickets"), ("PUT", "/turns")]
    asked += [("POST", "/sessions"), ("DELETE", session), ("POST", "/turns")]
    for method, path in asked:
        answer = await ask(servers, word, method, path)
        assert answer.headers["cache-control"] == "no-store", (method, path)
    preflight = {"origin": "http://localhost:8000", "access-control-request-method": "POST"}
    assert (await ask(servers, word, "OPTIONS", "/turns", headers=preflight)).headers["cache-control"] == "no-store"
    for given in ({}, {"range": "bytes=0-9"}, {"if-none-match": "*"}):
        picture = await ask(servers, word, "GET", image, headers=given)
        assert picture.headers["cache-control"] == "private, max-age=31536000, immutable"
    beyond = await ask(servers, word, "GET", image, headers={"range": "bytes=999999-"})
    assert (beyond.status, beyond.headers["cache-control"]) == (416, "no-store")
    assert "no-store" not in (await ask(servers, word, "GET", "/web/app.css")).headers.get("cache-control", "")
    for page in ("/demo", "/race", "/docs"):
        assert (await ask(servers, word, "GET", page)).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_a_refusal_without_a_key_is_not_kept(word: str, keyed: Servers) -> None:
    for given in ({}, {"host": "evil.example"}):
        assert (await ask(keyed, word, "GET", "/sessions", headers=given)).headers["cache-control"] == "no-store"


async def test_whole_replies_are_not_kept(servers: Servers) -> None:
    for path, body, accept in (
        ("/chat", {"message": "Hi"}, "*/*"),
        ("/chat", {"message": "/fail model_timeout"}, "*/*"),
        ("/images", {"prompt": "A hill", "size": "16x16"}, "*/*"),
        ("/images", {"prompt": "A hill", "size": "16x16"}, "image/*"),
    ):
        answer = await ask(servers, "rest", "POST", path, body=body, headers={"accept": accept})
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("word", STREAMS)
async def test_what_a_stream_asks_of_proxies(word: str, servers: Servers, make_servers: MakeServers) -> None:
    """A stream's headers forbid storing and compressing.

    With INCREMENTAL=on they ask for each piece at once (RFC 10036).
    """
    asking = make_servers(INCREMENTAL="on")
    for five, incremental in ((servers, None), (asking, "?1")):
        answer = await ask(five, word, "POST", "/chat/stream", body={"message": "Hi"})
        turn = answer.headers["content-location"]
        for stream in (
            answer,
            await ask(five, word, "GET", f"{turn}/stream"),
            await ask(five, word, "HEAD", f"{turn}/stream"),
        ):
            assert stream.headers["cache-control"] == "no-store, no-transform"
            assert stream.headers["x-accel-buffering"] == "no"
            assert stream.headers.get("incremental") == incremental
        assert "incremental" not in (await ask(five, word, "GET", "/models")).headers


@asynccontextmanager
async def varnish(folder: Path, target: str) -> AsyncIterator[str]:
    """Run Varnish with its default rules and a backend. Yields its address."""
    program, port = part("varnish").path, free_port()
    host, _, target_port = target.rpartition(":")
    rules = folder / "default.vcl"
    rules.write_text(f'vcl 4.1;\nbackend default {{ .host = "{host}"; .port = "{target_port}"; }}\n')
    process = await asyncio.create_subprocess_exec(
        # Without its jail Varnish can read a folder that only the user of the tests can read.
        program, "-j", "none", "-F", "-a", f"127.0.0.1:{port}", "-f", rules, "-n", folder / "work", "-s", "malloc,16m",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await answering(f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def answering(address: str) -> None:
    """Wait until a proxy passes on the answers of its server."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:

        async def up() -> bool:
            try:
                return (await http.get(f"http://{address}/health")).status_code == 200
            except httpx.TransportError:
                return False

        await until(up)


async def test_varnish_gives_nobody_anothers_conversation(keyed: Servers, tmp_path: Path) -> None:
    """Varnish keeps any 200 that says nothing about caching for two minutes, ``X-API-Key`` or not."""
    async with (
        varnish(tmp_path, keyed["rest"].address) as address,
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, verify=False) as http,
    ):
        started = await http.post("/turns", json={"message": "/tokens 4 /stall 60 my PIN is 4711"}, headers=WITH_KEY)
        turn, session = started.headers["location"], f"/sessions/{started.json()['session_id']}"
        paths = (
            turn,
            f"{turn}/events",
            session,
            f"{session}/messages",
            "/sessions",
            "/models",
            "/stats",
            "/metrics",
        )
        for path in paths:
            assert (await http.get(path, headers=WITH_KEY)).status_code == 200
            stranger = await http.get(path)
            assert (stranger.status_code, "4711" in stranger.text) == (401, False), path
        assert (await http.get(turn, headers=WITH_KEY)).json()["status"] == "running"
        await http.post(f"{turn}/cancel", headers=WITH_KEY)
        assert (await http.get(turn, headers=WITH_KEY)).json()["status"] == "cancelled"


@asynccontextmanager
async def dev_server(folder: Path, target: str) -> AsyncIterator[str]:
    """Run a development server with express' compression before a proxy. Yields its address."""
    modules = part("express").path.parent
    for name in ("compression", "http-proxy-middleware"):
        part(name)
    port, script = free_port(), folder / "server.cjs"
    script.write_text(DEV_SERVER)
    process = await asyncio.create_subprocess_exec(
        part("node").path, script, str(port), f"http://{target}", env={"NODE_PATH": str(modules)}
    )
    try:
        await answering(f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("word", STREAMS)
async def test_compression_holds_no_token_back(word: str, make_servers: MakeServers, tmp_path: Path) -> None:
    """Each event reaches a client that accepts every coding, before the next is generated."""
    slow = make_servers(OFFLINE_TOKENS_PER_S="10")
    async with dev_server(tmp_path, slow[word].address) as address:
        for accepted in ("gzip", "gzip, deflate, br, zstd"):
            arrived: dict[int, float] = {}
            body = b""
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:
                asked = http.stream(
                    "POST",
                    f"http://{address}/chat/stream",
                    json={"message": "/tokens 12 hello"},
                    headers={"accept-encoding": accepted},
                )
                async with asked as answer:
                    assert "content-encoding" not in answer.headers
                    async for piece in answer.aiter_raw():
                        body += piece
                        for event in events_of(word, whole_events(body)):
                            arrived.setdefault(event["seq"], time.perf_counter())
            spread_s = arrived[13] - arrived[2]
            at = {event["seq"]: event["at"] for event in events_of(word, body)}
            assert spread_s > 0.7 * (at[13] - at[2]) / 1000
            assert len(set(arrived.values())) > 6


async def test_the_page_of_another_origin_reads_a_picture_from_its_cache(servers: Servers) -> None:
    """A picture that was stored without an origin's name is not served to a page that needs its name in the answer."""
    made = (await ask(servers, "rest", "POST", "/images", body={"prompt": "A hill", "size": "16x16"})).json
    for given in ({}, {"origin": "http://localhost:8000"}, {"origin": "http://evil.example"}):
        picture = await ask(servers, "rest", "GET", f"/images/{made['image_id']}", headers=given)
        assert "origin" in picture.headers["vary"].lower()


async def test_heads_of_a_line_that_is_reused(servers: Servers) -> None:
    """Every answer of a connection has the header, also after a stream."""
    async with line(servers, "ndjson") as connection:
        await connection.ask("POST", "/chat/stream", body={"message": "Hi"})
        answer = await connection.ask("GET", "/models")
        assert answer.headers["cache-control"] == "no-store"
        assert json.loads(answer.body)["models"]
