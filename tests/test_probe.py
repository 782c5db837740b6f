"""The probe: its rules on made-up arrivals, its command on real servers, and its self-test in small."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from compare.probing import symptoms
from compare.probing.advice import ADVICE, CHECKED, HARM
from compare.probing.all_checks import Check, probe
from compare.probing.checks import pace
from compare.probing.findings import ordered
from compare.probing.frames import Lines, ServerSentEvents
from compare.probing.heard import Heard, HeardEvent
from compare.probing.outcome import Finding, Kind, Outcome
from compare.probing.planted.table import CLEAN, PLANTED
from compare.probing.steadiness import Steadiness
from compare.probing.subject import Subject
from compare.probing.target import parse_target
from compare.probing.wires import WIRES
from protocols import TRANSPORTS
from tests.conftest import KEY, MakeServers, Servers
from tests.parts import part

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


async def test_a_prober_that_was_slow_itself_does_not_judge(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(subject: Subject) -> tuple[Heard, Heard]:
        subject.steadiness.pauses.append((0.0, 9.1))
        return (arriving(STAMPS, [9.0] * 40, [0] * 40),) * 2

    monkeypatch.setattr(pace, "_two_turns", late)
    outcome = await pace.check(Subject(WIRES["sse"], parse_target("127.0.0.1:1"), 1.0, Steadiness()))
    assert not outcome.judged
    assert not outcome.findings
    assert "this machine was too slow itself" in outcome.words


def test_every_kind_of_finding_has_advice_and_is_planted() -> None:
    assert set(ADVICE) == set(get_args(Kind)) == {path.expected for path in PLANTED}
    for kind, row in ADVICE.items():
        assert row.kind == kind
        assert row.meaning(Finding(kind, "sse", "", NUMBERS)).strip()
        assert row.cures.keys() <= CHECKED.keys()
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
    late = Finding("cut_in_silence", "sse", "", {"after_s": 2.0, "total_s": 2.3})
    assert len(ordered([late, flow])) == 2


async def test_what_a_busy_prober_found_is_found_again_or_is_no_finding() -> None:
    found = [Outcome("cut", (Finding("cut_in_silence", "sse", "cut", {"after_s": 1.0}),)), Outcome("passes")]

    async def once(subject: Subject) -> Outcome:
        subject.steadiness.pauses.append((0.0, 10.0**12))
        return found.pop(0)

    check = Check("silence", once, ("sse",), 1)
    subject = Subject(WIRES["sse"], parse_target("127.0.0.1:1"), 1.0, Steadiness())
    assert [outcome.words async for _, outcome in probe(subject, [check])] == ["passes"]


def test_the_self_test_has_enough_faults_and_clean_paths() -> None:
    assert len(PLANTED) >= 60
    assert len(CLEAN) == 30
    assert {path.program for path in PLANTED} == {"nginx", "haproxy", "caddy", "envoy", "traefik", ""}
    assert sum(path.quick for path in PLANTED) == 12
    assert sum(path.quick for path in CLEAN) == 6
    assert any(path.loaded for path in CLEAN if path.quick)
    names = [(path.name, path.wire) for path in (*PLANTED, *CLEAN)]
    assert len(names) == len(set(names))


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


async def probed(*arguments: str) -> tuple[int, str, str]:
    """The command in a process of its own: its exit status, its output, its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "compare", "probe", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_nobody_there() -> None:
    status, out, err = await probed("127.0.0.1:9")
    assert (status, out) == (2, "")
    assert "127.0.0.1:9" in err
    assert "Traceback" not in err


async def test_a_wrong_key_is_found_and_the_answer_is_json(keyed: Servers) -> None:
    status, out, _ = await probed(keyed["sse"].address, "--key", "wrong", "--patience", "1", "--json")
    record = json.loads(out)
    assert status == 1
    assert [finding["kind"] for finding in record["findings"]] == ["key_removed"]
    assert {"check", "judged", "words"} == record["checks"][0].keys()
    status, out, _ = await probed(keyed["sse"].address, "--direct", keyed["sse"].address, "--key", "wrong", "--json")
    assert status == 0, "what the server does without the path too is no finding"


async def test_a_real_model_gets_no_turn_unless_it_is_allowed(make_servers: MakeServers) -> None:
    """The server has a provider, whose address leads nowhere: a turn would fail and be counted."""
    real = make_servers(
        GENAI_PROVIDER="gemini", GEMINI_API_KEY="x", GOOGLE_GEMINI_BASE_URL="http://127.0.0.1:9", API_SECRET_KEY=KEY
    )
    async with real["ndjson"].client(key=KEY) as client:
        before = (await client.stats()).sessions_created
        status, out, _ = await probed(real["ndjson"].address, "--key", KEY, "--patience", "1")
        assert status == 0, out
        assert "the gemini model answers: the probe starts no turn" in out
        assert (await client.list_sessions()).sessions == []
        assert (await client.stats()).sessions_created == before


async def test_the_port_for_pages_is_probed_as_grpc_web(make_servers: MakeServers) -> None:
    part("connectrpc")
    pages = make_servers(GRPC_WEB_PORT="0", OFFLINE_TOKENS_PER_S="20")
    status, out, err = await probed(pages["grpc"].page_url or "", "--patience", "1", "--json")
    record = json.loads(out)
    assert (status, record["wire"], record["provider"], record["findings"]) == (0, "grpc-web", "offline", []), err
    judged = {check["check"] for check in record["checks"] if check["judged"]}
    assert judged >= {"pace", "cursor", "trailers", "silence", "upload", "leaving", "many"}, out


async def test_a_foreign_stream_costs_nothing_unless_it_is_allowed(servers: Servers) -> None:
    address = f"http://{servers['sse'].address}/chat/stream"
    body = ["--body", '{"message": "/tokens 8 hello"}']
    status, _, err = await probed(address, *body)
    assert status == 2
    assert "--allow-turns" in err
    status, out, _ = await probed(address, *body, "--allow-turns", "--patience", "3")
    assert "10 events in" in out
    assert status in (0, 1)


async def test_a_foreign_grpc_method_is_called_by_reflection(servers: Servers) -> None:
    address = servers["grpc"].address
    arguments = (
        "--method",
        "chat.ChatService/SendMessage",
        "--body",
        '{"message": "/tokens 8 hello"}',
        "--allow-turns",
    )
    status, out, err = await probed(address, *arguments, "--patience", "3")
    assert "10 events in" in out, err
    assert status in (0, 1)
    status, _, err = await probed(address, "--method", "chat.ChatService/Nothing", "--allow-turns")
    assert status == 2
    assert "no method" in err


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
