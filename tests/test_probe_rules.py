"""The probe's rules on scripted answers of a hop: what a refusal means, and what one request's bad luck does not mean."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from compare.probing.checks import length, many, pace, rate, repeat, requests, servers, upload
from compare.probing.findings import ordered
from compare.probing.heard import Heard, HeardEvent, now
from compare.probing.http1 import fetch
from compare.probing.outcome import Finding, Kind, Outcome
from compare.probing.recognise import recognise
from compare.probing.subject import Subject
from compare.probing.target import parse_target
from compare.probing.wires import WIRES

# The answer to the request with this number, from 0, for this path.
Script = Callable[[int, str], bytes]


def reply(status: int, value: object = "", **headers: str) -> bytes:
    """A whole answer of HTTP/1.1."""
    body = (value if isinstance(value, str) else json.dumps(value)).encode()
    lines = [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close", *lines, "", ""])
    return head.encode() + body


OK, BAD_GATEWAY = reply(200, {}), reply(502, "<h1>Bad Gateway</h1>", Content_Type="text/html")
REFUSED = reply(422, {"code": "invalid_request"}, Content_Type="application/problem+json")


@asynccontextmanager
async def hop(script: Script) -> AsyncIterator[Subject]:
    """A hop that answers by the script, and the subject that probes it over SSE."""
    count = 0
    running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        task = asyncio.current_task()
        assert task is not None
        running[task] = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            number, count = count, count + 1
            writer.write(script(number, head.split()[1]))
            length_line = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length_line[1]) if length_line else 0)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield Subject(WIRES["sse"], parse_target(address, "key"), 1.0)
        for writer in running.values():
            writer.transport.abort()
        await asyncio.gather(*running)


def kinds(outcome: Outcome) -> list[Kind]:
    return [finding.kind for finding in outcome.findings]


@pytest.fixture
def no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks do not rest between requests."""
    monkeypatch.setattr(rate, "_LONELY_REST_S", 0.0)
    monkeypatch.setattr(pace, "_REST_S", 0.0)
    monkeypatch.setattr(repeat, "_BETWEEN_S", 0.0)


async def test_a_redirect_is_named_with_its_address() -> None:
    async with hop(lambda number, path: reply(301, Location="https://chat.example.com/")) as subject:
        outcome = await requests.check_key(subject)
    assert kinds(outcome) == ["redirected"]
    assert "https://chat.example.com/" in outcome.findings[0].measured


async def test_a_password_of_a_hop_is_not_called_a_wrong_key() -> None:
    async with hop(lambda number, path: reply(401, WWW_Authenticate='Basic realm="x"')) as subject:
        outcome = await requests.check_key(subject)
    assert kinds(outcome) == ["key_removed"]
    assert "a hop asks for a password of its own (Basic)" in outcome.words


async def test_headers_of_one_name_are_one_list() -> None:
    """RFC 9110, section 5.2: a hop that adds ``Cache-Control: public`` has not removed ``no-store``."""
    answer = b"HTTP/1.1 200 x\r\nCache-Control: no-store\r\nCache-Control: public\r\nContent-Length: 0\r\n\r\n"
    async with hop(lambda number, path: answer) as subject:
        heard = await fetch(subject.target, "GET", "/")
    assert heard.headers["cache-control"] == "no-store, public"


async def test_an_error_of_the_server_is_known_without_its_media_type() -> None:
    replaced = reply(422, {"code": "invalid_request"}, Content_Type="text/plain")
    async with hop(lambda number, path: replaced) as subject:
        assert subject.wire.refused_by_server(await fetch(subject.target, "GET", "/")) == "invalid_request"
    async with hop(lambda number, path: reply(422, {"code": "blocked"})) as subject:
        assert subject.wire.refused_by_server(await fetch(subject.target, "GET", "/")) is None


async def test_one_failed_upload_is_no_limit() -> None:
    async with hop(lambda number, path: BAD_GATEWAY if number % 2 else REFUSED) as subject:
        assert (await upload.check(subject)).words == "8,100 KiB pass"


async def test_every_second_request_fails(no_rests: None) -> None:
    async with hop(lambda number, path: BAD_GATEWAY if number % 2 else OK) as subject:
        assert kinds(await rate.check(subject)) == ["unreliable"]
        rest = Subject(WIRES["rest"], subject.target, 1.0)
        assert not kinds(await repeat.check(rest)), "no hop has removed the server"


async def test_a_server_that_is_gone_is_not_called_a_rate(no_rests: None) -> None:
    async with hop(lambda number, path: BAD_GATEWAY) as subject:
        assert kinds(await rate.check(subject)) == ["refused"]
    async with hop(lambda number, path: OK if number < 5 else reply(503)) as subject:
        assert kinds(await rate.check(subject)) == ["rate_limited"]
    async with hop(lambda number, path: reply(429) if number in (3, 4) else OK) as subject:
        assert kinds(await rate.check(subject)) == ["rate_limited"]
    async with hop(lambda number, path: BAD_GATEWAY if number == 11 else OK) as subject:
        assert not kinds(await rate.check(subject)), "one refusal alone"


async def test_a_refused_call_of_grpc_counts_though_its_http_status_is_200() -> None:
    heard = Heard(0.0, status=200, rpc_status=14)
    assert heard.by_gateway
    assert not rate._answered(heard)


async def test_a_hop_that_removes_the_server_after_one_error(no_rests: None) -> None:
    """The session and its turn pass; then nothing does."""
    async with hop(lambda number, path: reply(201, {"session_id": "s"}) if number < 1 else BAD_GATEWAY) as subject:
        rest = Subject(WIRES["rest"], subject.target, 1.0)
        outcome = await repeat.check(rest)
    assert kinds(outcome) == ["server_removed"]
    assert "HTTP 502" in outcome.words


async def test_the_first_question_is_asked_again_after_a_gateways_error() -> None:
    about = reply(200, {"status": "ok", "transport": "sse", "provider": "offline"})
    async with hop(lambda number, path: about if number == 1 else BAD_GATEWAY) as subject:
        assert (await recognise(subject.target)).word == "sse"


async def test_servers_that_do_not_know_each_other() -> None:
    unknown = reply(404, {"code": "turn_not_found"}, Content_Type="application/problem+json")
    known = reply(200, 'data: {"type": "turn_started", "seq": 1}\n\n', Content_Type="text/event-stream")
    async with hop(lambda number, path: unknown if number % 2 else known) as subject:
        subject.turn = Heard(0.0, turn_id="t")
        outcome = await servers.check(subject)
        assert kinds(outcome) == ["several_servers"]
        assert outcome.findings[0].numbers["unknown"] == 4
        assert subject.several_servers
    async with hop(lambda number, path: known) as subject:
        subject.turn = Heard(0.0, turn_id="t")
        assert not kinds(await servers.check(subject))


async def test_one_refusal_among_many_must_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Outcome("11 of 12", (Finding("few_at_once", "sse", "", {"streams": 11}),))
    outcomes = [refused, Outcome("12 at once"), refused, refused]

    async def start_all(subject: Subject) -> Outcome:
        return outcomes.pop(0)

    monkeypatch.setattr(many, "_start_all", start_all)
    subject = Subject(WIRES["sse"], parse_target("127.0.0.1:1"), 1.0)
    assert not kinds(await many.check(subject))
    assert kinds(await many.check(subject)) == ["few_at_once"]


def flowing(delays_s: list[float]) -> Heard:
    """A whole stream with an event each 0.1 s, which arrives as late as this."""
    heard = Heard(0.0, end="whole")
    heard.events = [HeardEvent("chunk", i, i * 0.1, i * 0.1 + late_s, i) for i, late_s in enumerate(delays_s)]
    return heard


def test_a_stream_that_falls_behind_is_told_from_a_buffer() -> None:
    assert length.falls_behind_s(flowing([i * 0.1 for i in range(40)])) == pytest.approx(3.9)
    # A buffer of three seconds: each event is late until the next flush, in both halves alike.
    assert length.falls_behind_s(flowing([3.0 - i % 30 * 0.1 for i in range(60)])) == 0.0
    # All at once at the end: the first events are the latest.
    assert length.falls_behind_s(flowing([4.0 - i * 0.1 for i in range(40)])) == 0.0


def test_what_random_failures_look_like_is_no_finding_of_its_own() -> None:
    every: list[Kind] = ["upload_limit", "few_at_once", "unreliable", "errors_replaced", "held"]
    assert [finding.kind for finding in ordered(Finding(kind, "sse", "") for kind in every)] == ["unreliable", "held"]


async def test_a_turn_that_a_hop_refuses_and_later_lets_pass(no_rests: None) -> None:
    done = 'data: {"type": "turn_completed", "seq": 1}\n\n'
    passes = reply(200, done, Content_Type="text/event-stream")
    refused = Heard(now(), status=502, end="refused")
    async with hop(lambda number, path: BAD_GATEWAY if number % 2 else passes) as subject:
        assert kinds(await pace.not_a_turn(subject, refused)) == ["unreliable"]
    async with hop(lambda number, path: BAD_GATEWAY) as subject:
        assert kinds(await pace.not_a_turn(subject, refused)) == ["refused"]
    async with hop(lambda number, path: passes) as subject:
        once = await pace.not_a_turn(subject, refused)
        assert not once.judged and not once.findings
    async with hop(lambda number, path: passes if number < pace.LATER else BAD_GATEWAY) as subject:
        assert kinds(await pace.not_a_turn(subject, refused)) == ["refused"]
