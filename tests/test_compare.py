"""The comparison: known lines are recognised, bytes are counted right, and the report agrees with the results."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from rich.console import Console

from compare import diff, race, wire
from compare.lines.capture import CapturedBytes
from compare.lines.faults import Faults
from compare.lines.records import records
from compare.lines.relay import Relay
from compare.lines.spans.read import units
from compare.lines.spans.span import UnexpectedBytes
from compare.measuring.experiments.run import Description
from compare.measuring.findings import findings
from compare.measuring.floors.load.job import Job
from compare.measuring.floors.load.run import run
from compare.measuring.floors.sides import floor_server
from compare.measuring.formulas import delays as delays_of
from compare.measuring.goodput import Objectives
from compare.measuring.lanes import LANES, RunningLane, lane_label, running_lanes
from compare.measuring.recording import TurnSpec, count_generated, record_turn, warm_up
from compare.measuring.setup import setup
from compare.measuring.statistics import Figure, quantile
from compare.measuring.turns import Sample, TurnRecord
from compare.measuring.verdicts import summarise
from compare.showing import report
from compare.showing.facts import of_results
from compare.showing.figures_table import figures_table
from compare.showing.guide import guide_of
from compare.showing.race_view import RaceView, Track
from compare.showing.results import Results, conclude, read

RATE = 50.0
STREAMING = [name for name in LANES if name != "rest"]
PUSHED = [name for name in STREAMING if name != "rest-poll"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lanes() -> AsyncIterator[dict[str, RunningLane]]:
    async with running_lanes(list(LANES), rate=RATE, relayed=True) as up:
        yield up


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def recorded(lane: RunningLane, faults: Faults, spec: TurnSpec, *, count: int = 1) -> list[TurnRecord]:
    """Turns of one lane, through its relay with these faults."""
    assert lane.relay is not None
    lane.relay.faults = faults
    try:
        async with lane.client(resume=spec.resume) as client:
            await warm_up(lane, client)
            return [await record_turn(lane, client, spec, number=number, count_bytes=True) for number in range(count)]
    finally:
        lane.relay.faults = Faults()


@pytest.mark.parametrize("name", PUSHED)
async def test_a_delay_of_50_ms_is_measured_as_50_ms(lanes: dict[str, RunningLane], name: str) -> None:
    turns = await recorded(lanes[name], Faults(delay_s=0.05), TurnSpec(experiment="delay", tokens=25))
    assert [turn.error for turn in turns] == [None]
    least = quantile(delays_of(turns[0]), 0.05)
    assert least is not None
    assert 50 <= least < 65
    said = [line for line in findings(turns) if "one-way delay" in line]
    assert said
    assert 50 <= float(re.findall(r"about (\d+) ms", said[0])[0]) < 65


@pytest.mark.parametrize("name", PUSHED)
async def test_a_buffer_is_called_a_buffer(lanes: dict[str, RunningLane], name: str) -> None:
    faults = Faults(buffer_bytes=8192, buffer_s=0.3)
    turns = await recorded(lanes[name], faults, TurnSpec(experiment="buffer", tokens=40), count=3)
    assert [turn.error for turn in turns] == [None] * 3
    assert any(line.startswith("a buffer on the path") for line in findings(turns))


@pytest.mark.parametrize("name", ["ndjson", "websocket", "grpc"])
async def test_a_bandwidth_is_measured(lanes: dict[str, RunningLane], name: str) -> None:
    spec = TurnSpec(experiment="bandwidth", message="a red bridge", size="480x480", request_id=f"bandwidth {name}")
    await recorded(lanes[name], Faults(), spec)
    turns = await recorded(lanes[name], Faults(bytes_per_s=500_000), spec)
    (said,) = [line for line in findings(turns) if "bandwidth" in line]
    assert 0.4 <= float(re.findall(r"about ([\d.]+) MB/s", said)[0]) <= 0.6


async def test_rest_shows_nothing_before_everything(lanes: dict[str, RunningLane]) -> None:
    (turn,) = await recorded(lanes["rest"], Faults(), TurnSpec(experiment="rest", tokens=20))
    found = summarise([turn])
    assert found["ttft"] == found["e2e"]
    assert found["ttft"].median >= 19 * 1000 / RATE
    assert "delay_p50" not in found


@pytest.mark.parametrize("name", LANES)
async def test_a_cut_costs_nothing_with_resume(lanes: dict[str, RunningLane], name: str) -> None:
    spec = TurnSpec(experiment="cut", tokens=30, rate=RATE, cut_after=10)
    (turn,) = await recorded(lanes[name], Faults(), spec)
    await count_generated(lanes[name], turn)
    assert turn.error is None
    found = summarise([turn])
    assert [found[metric].median for metric in ("lost", "twice", "again")] == [0, 0, 0]
    assert found["back"].median > 0


@pytest.mark.parametrize("name", LANES)
async def test_a_cut_without_resume_is_paid_twice(lanes: dict[str, RunningLane], name: str) -> None:
    spec = TurnSpec(experiment="cut", tokens=30, rate=RATE, cut_after=10, resume=False)
    (turn,) = await recorded(lanes[name], Faults(), spec)
    await count_generated(lanes[name], turn)
    assert turn.error is None
    found = summarise([turn])
    assert found["again"].median == 30
    assert found["lost"].median > 0
    # The second answer repeats the tokens of the first answer. A whole reply had shown no token before.
    assert found["twice"].median == (0 if name == "rest" else 30 - found["lost"].median)


def _tshark() -> str:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("no tshark here (Debian: apt-get install tshark)")
    listed = subprocess.run([program, "-D"], capture_output=True, text=True, check=False)
    if not re.search(r"\blo\b", listed.stdout):
        pytest.skip("tshark may not capture on the loopback interface here (it needs root or CAP_NET_RAW)")
    return program


@pytest.mark.parametrize("name", LANES)
async def test_the_relay_counts_what_a_packet_capture_shows(lanes: dict[str, RunningLane], name: str) -> None:
    await _compare_with_a_packet_capture(lanes[name])


async def test_the_relay_counts_over_tls_what_a_packet_capture_shows() -> None:
    _tshark()
    async with running_lanes(["ndjson", "grpc"], rate=RATE, tls=True) as encrypted:
        for lane in encrypted.values():
            relay = await _compare_with_a_packet_capture(lane)
            found = records(relay.captured)
            for way, counted in (("up", relay.up_bytes), ("down", relay.down_bytes)):
                here = [record for record in found if record.direction == way]
                assert sum(record.size for record in here) == counted
                assert {"handshake", "application data"} <= {record.type for record in here}
            output = io.StringIO()
            wire.show_records(Console(file=output, width=160), relay)
            assert f"{relay.down_bytes} B of TCP payload, as the relay counted, in " in output.getvalue()


async def _compare_with_a_packet_capture(lane: RunningLane) -> Relay:
    """One turn through a relay, captured by tshark too; the relay afterwards."""
    program = _tshark()
    async with Relay(lane.server.address, capture=True) as relay, _silent_port() as silent_port:
        port = relay.address.rpartition(":")[2]
        fields = ("tcp.srcport", "tcp.dstport", "tcp.len", "tcp.analysis.retransmission")
        capture = await asyncio.create_subprocess_exec(
            *(program, "-i", "lo", "-f", f"tcp port {port} or tcp port {silent_port}"),
            *("-l", "-n", "-Q", "-T", "fields", "-E", "separator=,"),
            *(part for field in fields for part in ("-e", field)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert capture.stdout is not None
        seen = {"up": 0, "down": 0}

        def note(line: str) -> None:
            source, target, size, again = line.split(",")
            if port in (source, target) and not again:
                seen["down" if source == port else "up"] += int(size)

        try:
            async with asyncio.timeout(60):
                # tshark captures when it has shown a packet to this port, so the turn starts only then.
                captured = b""
                while not captured:
                    _, writer = await asyncio.open_connection("127.0.0.1", silent_port)
                    writer.close()
                    with contextlib.suppress(TimeoutError):
                        captured = await asyncio.wait_for(capture.stdout.readline(), 0.5)
                address = lane.server.url.replace(lane.server.address, relay.address)
                through = replace(lane, address=address, relay=relay)
                async with through.client() as client:
                    turn = await record_turn(through, client, TurnSpec(experiment="capture", tokens=20))
                assert turn.error is None
                while seen["up"] < relay.up_bytes or seen["down"] < relay.down_bytes:
                    note((await capture.stdout.readline()).decode().strip())
        finally:
            with contextlib.suppress(ProcessLookupError):
                capture.terminate()
            rest = (await capture.communicate())[0].decode()
        for line in rest.splitlines():
            note(line)
        assert seen == {"up": relay.up_bytes, "down": relay.down_bytes}
    return relay


@asynccontextmanager
async def _silent_port() -> AsyncIterator[int]:
    """A port whose connections are closed at once."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("name", LANES)
async def test_every_captured_byte_is_explained(lanes: dict[str, RunningLane], name: str) -> None:
    lane = lanes[name]
    async with Relay(lane.server.address, capture=True) as relay:
        through = replace(lane, address=relay.address, relay=relay)
        async with through.client() as client:
            turn = await record_turn(through, client, TurnSpec(experiment="wire", tokens=4))
    found = units(relay.captured)
    for way, counted in (("up", relay.up_bytes), ("down", relay.down_bytes)):
        assert sum(unit.size() for unit in found if unit.direction == way) == counted
        passed = b"".join(span.data for unit in found if unit.direction == way for span in unit.spans)
        assert sorted(passed) == sorted(b"".join(piece.data for piece in relay.captured if piece.direction == way))
    text = b"".join(span.data for unit in found for span in unit.spans if span.kind == "text")
    shown = "".join(arrival.text for arrival in turn.arrivals)
    tokens: str = text.decode() if name == "grpc" else json.loads(b'"' + text + b'"')
    assert tokens.endswith(shown)
    # The answer to POST /turns may hold the first tokens too.
    before = tokens.removesuffix(shown)
    assert shown.startswith(before) if name == "rest-poll" else not before
    what = " ".join(span.meaning for unit in found for span in unit.spans)
    expected = {
        "rest": "JSON: body",
        "rest-poll": "event: chunk",
        "ndjson": "chunk size, hexadecimal",
        "sse": "blank line dispatches",
        "websocket": "opcode 1 (text)",
        "grpc": "field 5 chunk, tag and length",
    }
    assert expected[name] in what
    output = io.StringIO()
    wire.show(Console(file=output, width=160), found, relay)
    assert f"{relay.down_bytes} B of TCP payload" in output.getvalue()


async def test_bytes_that_are_not_the_protocol_are_refused() -> None:
    with pytest.raises(UnexpectedBytes):
        units([CapturedBytes(0, 0, "down", b"HTTP/1.1 200 OK")])


async def test_the_race_prints_a_table_a_verdict_and_how_to_read_it() -> None:
    args = race.parse(["--only", "rest,sse,grpc", "--rounds", "6", "--tokens", "20", "--rate", "60", "--explain"])
    output = io.StringIO()
    assert await race.race(Console(file=output, width=132), args) == 0
    text = output.getvalue()
    for part in (
        "TTFT",
        "A token on its way, medians in ms",
        "bytes a token",
        "e_i − at_i",
        "in every lane",
        "no TLS",
        "loopback through the relay",
    ):
        assert part in text
    assert "TTFT: " in text
    assert re.search(r"TTFT: .*lower.* than .*REST", text)
    assert text.index("e_i − at_i") < text.index("TTFT: "), "the verdict comes last"
    assert max(map(len, text.splitlines())) <= 132


@pytest.mark.parametrize(("columns", "tables"), [(40, 3), (80, 1), (120, 1)])
async def test_a_table_of_figures_fits_its_terminal(columns: int, tables: int) -> None:
    metrics = ("ttft", "icl_p50", "icl_p99", "delay_p50", "delay_p99", "e2e", "down_per_token", "coalescing")
    figures = {lane: {name: Figure(1_234.5, 1_233.0, 1_236.0, 6, 1_236.0) for name in metrics} for lane in LANES}
    output = io.StringIO()
    console = Console(file=output, width=columns)
    console.print(figures_table("race", figures, metrics, intervals=False, width=columns))
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert max(map(len, lines)) <= columns
    assert "…" not in output.getvalue()
    for lane in LANES:
        assert sum(line.startswith(f"{lane_label(lane)} ") for line in lines) == tables


@pytest.mark.parametrize("columns", [40, 80, 120])
async def test_the_race_while_it_runs_fits_its_terminal(columns: int) -> None:
    gaps = [100.0 + 25 * i for i in range(40)]
    tracks = {name: Track(name, "streaming", ["word "] * 40, 40, arrived_ms=gaps) for name in LANES}
    for track in tracks.values():
        track.delays_ms, track.first_ms = [1.5] * 40, 1_988.0
    output = io.StringIO()
    console = Console(file=output, width=columns)
    console.print(RaceView(console, tracks, 80, "40 tokens a second"))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) == 1 + 2 * len(LANES)
    for name in LANES:
        (line,) = [line for line in lines if line.startswith(f"{lane_label(name)} ")]
        assert "streaming" in line
        assert "…" not in line
        assert ("late 1.5 ms" in line, "█" in line) == (columns > 40, columns > 80)


async def test_the_race_with_a_cut_has_both_tables() -> None:
    args = race.parse(
        ["--only", "rest,ndjson", "--rounds", "1", "--tokens", "20", "--cut-after", "5", "--network", "lan"]
    )
    output = io.StringIO()
    assert await race.race(Console(file=output, width=132), args) == 0
    assert "cut, with resume" in output.getvalue()
    assert "cut, without resume" in output.getvalue()
    assert "paid twice" in output.getvalue()


@pytest.mark.parametrize(
    "argv",
    [["--only", "carrier-pigeon"], ["--cut-after", "90"], ["--rounds", "0"], ["--network", "moon"], ["--rate", "0"]],
)
async def test_the_race_refuses_what_it_cannot_do(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        race.parse(argv)
    assert "race: error" in capsys.readouterr().err


async def written(lanes: dict[str, RunningLane], folder: Path) -> Results:
    """A small run, written with the same code as a large one."""
    turns: list[TurnRecord] = []
    spec = TurnSpec(experiment="1 stream", tokens=8, rate=RATE)
    for lane in lanes.values():
        turns += await recorded(lane, Faults(), spec, count=6)
    samples = [
        Sample(experiment="connect", lane=name, round=number, metric="connect_cold", value=1.0 + number)
        for name in lanes
        for number in range(6)
    ]
    about = {
        "1 stream": Description("One stream", "6 turns", ("ttft", "e2e", "delay_p50", "delay_p99")),
        "connect": Description("Connecting", "A new client", ("connect_cold",)),
    }
    results = Results(
        begun_at=1_800_000_000_000.0,
        seconds=1.0,
        quick=True,
        seed=1,
        lanes=list(lanes),
        setup=setup(),
        experiments=conclude(list(lanes), about, turns, samples),
        unmeasured={"picture 4 MB": "not in --quick"},
        objectives=Objectives(),
    )
    report.write(folder, results, turns, samples)
    return results


async def test_the_report(lanes: dict[str, RunningLane], tmp_path: Path) -> None:
    results = await written(lanes, tmp_path)
    assert msgspec.json.encode(read(tmp_path)) == msgspec.json.encode(results)
    raw = [json.loads(line) for line in (tmp_path / "arrivals.jsonl").read_text().splitlines()]
    assert len(raw) == 12 * len(LANES)

    text = (tmp_path / "report.md").read_text()
    assert "| REST |" in text
    assert "e_i − at_i" in text
    assert "picture 4 MB: not in --quick" in text
    assert re.search(r"\*\*the text appears as it is generated\*\*: (?!REST )", text)
    assert "REST: its first token is its last" in text
    assert "connect_cold" not in text

    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=.?(https?:)?//", page), "the page must open offline"
    embedded = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None
    data = json.loads(embedded[1])
    assert set(data["replay"]["1 stream"]) == set(LANES)
    assert "/*" + "DATA" not in page


async def test_the_guide_cites_only_cells_that_exist(lanes: dict[str, RunningLane], tmp_path: Path) -> None:
    results = await written(lanes, tmp_path)
    cited = {f"this run, “{name}”" for name in results.experiments}
    for need in guide_of(of_results(results)).needs:
        assert set(need.lanes) == set(LANES)
        for judged in need.lanes.values():
            assert judged.why or not judged.price, need.name
            assert judged.can or judged.why
            if judged.source.startswith("this run"):
                assert judged.source in cited


async def test_two_runs_side_by_side(
    lanes: dict[str, RunningLane], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = await written(lanes, tmp_path / "a")
    slower = msgspec.json.decode(msgspec.json.encode(results), type=Results)
    figures = slower.experiments["connect"].figures["grpc"]
    cold = figures["connect_cold"]
    figures["connect_cold"] = msgspec.structs.replace(
        cold, median=cold.median * 10, low=cold.low * 10, high=cold.high * 10
    )
    slower.setup["network"] = "the moon"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.json").write_bytes(msgspec.json.encode(slower))
    assert diff.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "worse" in said
    assert "the moon" in said
    assert "1 differ" in said
    assert diff.main([str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert "0 differ" in capsys.readouterr().out
    assert diff.main([str(tmp_path / "nothing"), str(tmp_path / "a")]) == 2


@pytest.mark.parametrize("word", ["rest", "ndjson", "sse", "websocket", "grpc"])
async def test_the_load_generator_counts_what_a_floor_sends(word: str) -> None:
    async with floor_server(word, "--tokens", "7") as floor:
        job = Job(wire=word, address=floor.address, pid=floor.pid, mode="burst", streams=5)
        result = await run(job)
    assert (result.turns, result.events) == (5, 5 if word == "rest" else 5 * 9)
    assert (result.cpu_s is not None) == sys.platform.startswith("linux")


@pytest.mark.parametrize("name", ["rest", "ndjson", "sse", "websocket", "grpc"])
async def test_the_load_generator_drives_our_servers_in_the_same_way(lanes: dict[str, RunningLane], name: str) -> None:
    server = lanes[name].server
    job = Job(wire=name, address=server.address, pid=server.process.pid, mode="burst", streams=3, message="/tokens 7 x")
    result = await run(msgspec.structs.replace(job, stamps=True))
    assert (result.turns, result.events) == (3, 3 if name == "rest" else 3 * 9)
    if name != "rest":
        assert result.delay_p50_ms is not None
        assert result.delay_p50_ms > 0


async def test_the_load_generator_says_what_the_server_said(lanes: dict[str, RunningLane]) -> None:
    server = lanes["ndjson"].server
    job = Job(wire="ndjson", address=server.address, pid=0, mode="burst", streams=1, path="/nowhere")
    with pytest.raises(RuntimeError, match="404"):
        await run(job)
