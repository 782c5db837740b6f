"""The probe: its rules on made-up arrivals, its command on real servers, and its self-test in small."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from compare.probing import services, symptoms
from compare.probing.advice import ADVICE, CHECKED, HARM
from compare.probing.all_checks import CHECKS, Check, probe
from compare.probing.checks import pace
from compare.probing.findings import ordered
from compare.probing.frames import Lines, ServerSentEvents
from compare.probing.heard import Heard, HeardEvent
from compare.probing.outcome import Finding, Kind, Outcome
from compare.probing.planted.clean import CLEAN, HARMLESS
from compare.probing.planted.table import PLANTED
from compare.probing.steadiness import Steadiness, watching
from compare.probing.subject import Subject
from compare.probing.target import Target, parse_target
from compare.probing.wires import WIRES, Sse
from protocols import TRANSPORTS
from tests.conftest import MakeServers
from tests.parts import part
from tests.probing import probed

ROOT = Path(__file__).resolve().parents[1]
# Every number that a format of the advice may name.
NUMBERS = dict.fromkeys(
    re.findall(r"\{(\w+)", "".join(row.means for row in ADVICE.values())),
    2,
) | {"names": "cache-control", "coding": "gzip"}


def arriving(at_s: Sequence[float], arrived_s: Sequence[float], pieces: Sequence[int]) -> Heard:
    """A turn whose events have these stamps and arrived at these times in these pieces."""
    heard = Heard(0.0)
    kinds = ["turn_started", *["chunk"] * (len(at_s) - 2), "turn_completed"]
    heard.events = [
        HeardEvent(kind, number + 1, at, arrived, piece)
        for number, (kind, at, arrived, piece) in enumerate(zip(kinds, at_s, arrived_s, pieces, strict=True))
    ]
    heard.end = "whole"
    return heard


STAMPS = [i * 0.05 for i in range(20)] + [2.5 + i * 0.05 for i in range(20)]


def verdict(arrived: Sequence[float]) -> str:
    found = pace.pace_of(arriving(STAMPS, arrived, [sorted(set(arrived)).index(at) for at in arrived]))
    assert found is not None
    return found.verdict


def test_pace_in_time_and_held() -> None:
    assert verdict([at + 7.0 for at in STAMPS]) == "in time"
    assert verdict([9.0] * 40) == "held"
    assert verdict([(at // 1.0) + 1.0 for at in STAMPS]) == "held"


def test_a_busy_machine_is_late_and_does_not_hold() -> None:
    """One hiccup of 0.6 s joins twelve events into one piece; the others come in time."""
    assert verdict([max(at, 0.6) if at < 0.6 else at for at in STAMPS[:20]] + STAMPS[20:]) in ("in time", "slow_start")
    hiccup = [at if not 2.7 < at < 3.1 else 3.1 for at in STAMPS]
    assert verdict(hiccup) == "in time"


def test_events_that_the_server_sent_together_are_not_held() -> None:
    """A model that is as fast as it can makes bursts, and a burst is one piece."""
    stamps = [0.0] * 20 + [1.5] * 20
    found = pace.pace_of(arriving(stamps, [0.0] * 20 + [1.9] * 20, [0] * 20 + [1] * 20))
    assert found is not None
    assert found.verdict == "in time"


def test_a_slow_start_and_a_slow_line() -> None:
    assert verdict([max(at, 0.7) for at in STAMPS]) == "slow_start"
    assert verdict([i * 0.2 for i in range(40)]) == "slow_line"


async def test_a_starved_prober_says_so(make_servers: MakeServers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe gets the processor for a tenth of the time, while the server and the path are quick."""
    monkeypatch.setattr(pace, "TRIES", 1)
    monkeypatch.setattr(pace, "MESSAGE", "/tokens 40 /stall 0.2 hello")
    address = make_servers(OFFLINE_TOKENS_PER_S="40")["sse"].address
    loop = asyncio.get_running_loop()

    def starve() -> None:
        time.sleep(0.3)
        starving.append(loop.call_later(0.03, starve))

    starving = [loop.call_soon(starve)]
    try:
        async with watching() as steadiness:
            outcome = await pace.check(Subject(WIRES["sse"], parse_target(address), 1.0, steadiness))
    finally:
        starving[-1].cancel()
    assert not outcome.judged
    assert not outcome.findings
    assert "this machine was too slow itself" in outcome.words


async def test_a_prober_that_was_slow_itself_does_not_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(subject: Subject) -> tuple[Heard, Heard]:
        subject.steadiness.pauses.append((0.0, 9.1))
        return (arriving(STAMPS, [9.0] * 40, [0] * 40),) * 2

    monkeypatch.setattr(pace, "_two_turns", late)
    outcome = await pace.check(Subject(WIRES["sse"], parse_target("127.0.0.1:1"), 1.0, Steadiness()))
    assert not outcome.judged
    assert not outcome.findings
    assert "this machine was too slow itself" in outcome.words


@pytest.mark.parametrize(("busy", "found"), [(True, []), (False, ["held"])])
async def test_on_a_busy_machine_a_turn_must_look_held_more_often(
    busy: bool, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two turns look held and the third comes in time: the hop was starved, as this program was."""
    turns = [arriving(STAMPS, [9.0] * 40, [0] * 40)] * 2 + [arriving(STAMPS, STAMPS, list(range(40)))]

    async def next_turns(subject: Subject) -> tuple[Heard, Heard]:
        if busy:
            moment = asyncio.get_running_loop().time()
            subject.steadiness.pauses.append((moment, moment + 0.2))
        return (turns.pop(0),) * 2

    monkeypatch.setattr(pace, "_two_turns", next_turns)
    outcome = await pace.check(Subject(WIRES["sse"], parse_target("127.0.0.1:1"), 1.0, Steadiness()))
    assert [finding.kind for finding in outcome.findings] == found


# The self-test has no certificates: ``test_probe_command.py`` finds this one behind a proxy that ends TLS.
NEEDS_TLS: set[Kind] = {"https_unknown"}


def test_every_kind_of_finding_has_advice_and_is_planted() -> None:
    assert set(ADVICE) == set(get_args(Kind)) == {path.expected for path in PLANTED} | NEEDS_TLS
    for kind, row in ADVICE.items():
        assert row.kind == kind
        assert row.meaning(Finding(kind, "sse", "", NUMBERS)).strip()
        assert row.cures.keys() <= CHECKED.keys()
        assert row.documented.keys() <= set(services.PRODUCTS)
        assert set(row.unharmed) <= set(TRANSPORTS)
    planted_wires = {(path.expected, path.wire) for path in PLANTED}
    assert not [(kind, wire) for kind, wire in planted_wires if kind and wire in ADVICE[kind].unharmed]


def test_findings_come_in_the_order_of_their_harm() -> None:
    kinds: list[Kind] = ["compressed", "held", "repeated", "held"]
    found = ordered(Finding(kind, "sse", "") for kind in kinds)
    assert [finding.kind for finding in found] == ["repeated", "held", "compressed"]
    assert sorted(HARM.values()) == list(range(len(HARM)))


def test_a_limited_duration_is_not_called_a_silence_too() -> None:
    flow = Finding("cut_in_flow", "sse", "", {"after_s": 15.0})
    silence = Finding("cut_in_silence", "sse", "", {"after_s": 14.4, "total_s": 15.1})
    assert [finding.kind for finding in ordered([silence, flow])] == ["cut_in_flow"]
    noticed_late = Finding("cut_in_silence", "sse", "", {"after_s": 19.0, "total_s": 19.2})
    assert [finding.kind for finding in ordered([noticed_late, flow])] == ["cut_in_flow"]
    early = Finding("cut_in_silence", "sse", "", {"after_s": 2.0, "total_s": 2.3})
    assert len(ordered([early, flow])) == 2


async def test_what_a_busy_prober_found_is_found_again_or_is_no_finding() -> None:
    found = [Outcome("cut", (Finding("cut_in_silence", "sse", "cut", {"after_s": 1.0}),)), Outcome("passes")]

    async def once(subject: Subject) -> Outcome:
        subject.steadiness.pauses.append((0.0, 10.0**12))
        return found.pop(0)

    check = Check("silence", once, ("sse",), 1)
    subject = Subject(WIRES["sse"], parse_target("127.0.0.1:1"), 1.0, Steadiness())
    assert [outcome.words async for _, outcome in probe(subject, [check])] == ["passes"]


class Stripped(Sse):
    """A path that removes ``Authorization`` and lets ``X-API-Key`` through."""

    async def authorized(self, target: Target) -> Heard:
        heard = Heard(0.0)
        heard.status = 401 if target.key_header == "Authorization" else 200
        return heard


async def test_a_removed_key_is_found_by_a_busy_prober_too() -> None:
    steadiness = Steadiness()
    steadiness.pauses.append((0.0, 10.0**12))
    subject = Subject(Stripped(), parse_target("127.0.0.1:1", "k"), 1.0, steadiness)
    ((_, outcome),) = [made async for made in probe(subject, [check for check in CHECKS if check.name == "key"])]
    assert [finding.kind for finding in outcome.findings] == ["key_removed"]
    assert subject.target.key_header == "X-API-Key"


def test_the_self_test_has_enough_faults_and_clean_paths() -> None:
    assert len(PLANTED) >= 60
    assert len(CLEAN) == 30
    assert {path.expected for path in (*CLEAN, *HARMLESS)} == {None}
    assert {path.program for path in PLANTED} == {"nginx", "haproxy", "caddy", "envoy", "traefik", ""}
    assert sum(path.quick for path in PLANTED) == 12
    assert sum(path.quick for path in CLEAN) == 6
    assert any(path.loaded for path in CLEAN if path.quick)
    names = [(path.name, path.wire) for path in (*PLANTED, *CLEAN, *HARMLESS)]
    assert len(names) == len(set(names))


# Settings that have surprised people, each with the wires on which it was met.
SURPRISES = {
    "nginx client_max_body_size by default": "rest",
    "nginx buffering alone": "sse ndjson",
    "nginx gzip *": "sse ndjson",
    "nginx gzip * and buffering": "sse ndjson",
    "nginx proxy_read_timeout 2s": "rest ndjson sse websocket",
    "nginx grpc_read_timeout 2s": "grpc",
    "nginx client_max_body_size 64k": "sse grpc",
    "nginx without Upgrade": "websocket",
    "nginx strips Last-Event-ID": "sse",
    "nginx strips Authorization": "sse grpc",
    "nginx proxy_ignore_client_abort on": "sse",
    "nginx limit_conn 6": "ndjson",
    "nginx keepalive_timeout 1s": "rest",
    "nginx hides Cache-Control": "sse",
    "HAProxy timeout client 2s and server 2s": "ndjson",
    "HAProxy timeout server 2s": "rest sse grpc",
    "HAProxy timeout tunnel 2s": "websocket",
    "HAProxy timeout client 2s": "ndjson",
    "HAProxy compression": "sse",
    "HAProxy maxconn 6": "sse",
    "HAProxy timeout http-keep-alive 1s": "rest",
    "HAProxy without abortonclose": "sse rest",
    "HAProxy retry-on 502": "rest",
    "Caddy flush_interval 2s": "sse ndjson",
    "Caddy encode gzip": "sse",
    "Caddy request_body 64KB": "ndjson",
    "Envoy stream_idle_timeout 2s": "rest ndjson websocket grpc",
    "Envoy route timeout 3s": "rest sse grpc",
    "Envoy retry_on 5xx": "rest",
    "Traefik writeTimeout 3s": "rest sse",
    "Traefik buffering": "sse ndjson",
    "Traefik compress": "sse",
    "Traefik retries POST": "rest",
}


def test_the_settings_that_surprise_people_are_planted() -> None:
    planted = {(path.name, path.wire) for path in (*PLANTED, *HARMLESS)}
    wanted = {(name, wire) for name, wires in SURPRISES.items() for wire in wires.split()}
    assert wanted <= planted, sorted(wanted - planted)


def test_a_limited_rate_is_not_called_few_streams_too() -> None:
    found = [Finding("few_at_once", "sse", "", {"streams": 1}), Finding("rate_limited", "sse", "")]
    assert [finding.kind for finding in ordered(found)] == ["rate_limited"]


def test_the_settings_of_services_come_from_their_own_pages() -> None:
    homes = {
        "ALB": "https://docs.aws.amazon.com/elasticloadbalancing/",
        "Cloudflare": "https://developers.cloudflare.com/",
    }
    assert homes.keys() == set(services.PRODUCTS)
    shown = symptoms.table()
    for settings in services.SERVICES.values():
        for product, known in settings.items():
            assert known.page.startswith(homes[product])
            assert f"{product}: {known.setting} ([page]({known.page}))" in shown


def test_the_page_of_symptoms_has_the_advice() -> None:
    page = symptoms.PAGE.read_text(encoding="utf-8")
    assert symptoms.made(page) == page, "python -m compare.probing.symptoms"


def test_the_atlas_has_every_planted_setting() -> None:
    page = (ROOT / "compare" / "ATLAS.md").read_text(encoding="utf-8")
    missing = [path.name for path in PLANTED if path.expected and f"| {path.name} |" not in page]
    assert not missing, "python -m compare atlas"
    for path in PLANTED:
        assert path.expected is not None
        assert ADVICE[path.expected].title in page


async def test_the_events_of_a_foreign_stream_have_no_stamps() -> None:
    """An OpenAI-style stream, and JSON lines as Ollama sends them."""
    stream = (
        b'data: {"id": "1", "choices": [{"delta": {"content": "Hi"}}]}\n\n: a comment\n\n' * 2 + b"data: [DONE]\n\n"
    )
    heard = Heard(0.0)
    heard.pieces = [(1.0, len(stream))]
    ServerSentEvents(heard).feed(stream)
    assert (len(heard.tokens), len(heard.heartbeats), heard.end) == (2, 2, "whole")
    assert {event.at_s for event in heard.events} == {None}
    heard = Heard(0.0)
    heard.pieces = [(1.0, 1)]
    Lines(heard).feed(b'{"response": "Hi", "done": false}\n{"response": "", "done": true}\n')
    assert (len(heard.tokens), heard.end) == (1, "whole")


@pytest.mark.timeout(400)
async def test_the_self_test_in_small() -> None:
    """Twelve planted faults are named, and six clean paths are silent."""
    part("nginx"), part("haproxy"), part("caddy"), part("envoy"), part("traefik")
    status, out, err = await probed("--self-test", "--quick")
    assert "named 12 of 12, false alarms 0 of 6" in out, out + err
    assert status == 0
