"""The benchmark of the floors: every lane is driven alike, the plan is stated, and its sentences follow from its figures."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace as replaced
from rich.console import Console

from compare import floor
from compare.lines.fronts import FRONTS
from compare.measuring.floors import fronts
from compare.measuring.floors.before_after import compared, conclusion
from compare.measuring.floors.cells import cells
from compare.measuring.floors.further import FURTHER
from compare.measuring.floors.grpcio_layer import grpcio_layer
from compare.measuring.floors.language import language
from compare.measuring.floors.load.run import offsets
from compare.measuring.floors.load.run import run as load
from compare.measuring.floors.node_floor import NodeMissing, node_folder, node_server
from compare.measuring.floors.plan import LANES, SIDES, FloorRun, Side, SideResult, loaded_together
from compare.measuring.floors.rows import ROWS
from compare.measuring.floors.scale.shape import shape_of
from compare.measuring.floors.sides import floor_server, job, running_sides
from compare.showing.floor_table import show_floors, show_fronts
from compare.showing.growth import pictures
from protocols import TRANSPORTS, certs
from tests.parts import part


async def test_the_load_counts_what_the_floor_of_each_further_lane_sends() -> None:
    part("zttp")
    part("connectrpc")

    async def counted(word: str) -> tuple[int, int]:
        async with floor_server(word, "--tokens", "7") as side:
            result = await load(job(side, "burst", 5, message="/tokens 7 x"))
        return result.turns, result.events

    found = dict(zip(FURTHER, await asyncio.gather(*map(counted, FURTHER)), strict=True))
    assert found == {word: (5, 5 if word == "rest-h2" else 5 * 9) for word in FURTHER}


async def test_one_server_answers_the_load_of_all_its_lanes_alike() -> None:
    """The server of gRPC behind gRPC-Web and behind gRPC on uvicorn; two reads of a turn that has ended come from its log."""
    part("zttp")
    part("connectrpc")
    plan, _, _ = floor.parse(["--only", "grpc-web", "--sides", "memory", "--no-pin"])
    run = FloorRun(plan, lambda text: None, plan.sides)
    async with running_sides(run, "saturated", "grpc-web", [], {"HTTP2": "on", "OFFLINE_TOKENS_PER_S": "0"}) as (web,):
        asgi = Side(web.name, "grpc-asgi", web.address, web.pid, web.server)
        for side in (web, asgi):
            result = await load(job(side, "burst", 3, message="/tokens 7 x", stamps=True))
            assert (result.turns, result.events) == (3, 3 * 9)
            assert result.delay_p50_ms is not None
            assert result.delay_p50_ms > 0


async def test_floors_and_servers_are_measured_over_tls(tmp_path: Path) -> None:
    part("zttp")
    certs.make(tmp_path)
    certificate = certs.files(tmp_path)
    plan, _, _ = floor.parse(["--tls", "--only", "ndjson", "--sides", "floor,memory", "--no-pin"])
    run = FloorRun(plan, lambda text: None, plan.sides, certificate)

    async def floors(word: str) -> tuple[int, int]:
        async with floor_server(word, "--tokens", "7", certificate=certificate) as side:
            result = await load(job(side, "burst", 5, message="/tokens 7 x"))
        return result.turns, result.events

    async def sides() -> list[tuple[int, int]]:
        env = {"OFFLINE_TOKENS_PER_S": "0"}
        async with running_sides(run, "saturated", "ndjson", ["--tokens", "7"], env) as (bare, ours):
            assert ours.server is not None
            assert ours.server.url.startswith("https://")
            results = [await load(job(side, "burst", 5, message="/tokens 7 x")) for side in (bare, ours)]
            with pytest.raises(RuntimeError):
                await load(job(replace(bare, ca=""), "burst", 1, message="/tokens 7 x"))
        return [(result.turns, result.events) for result in results]

    found = await asyncio.gather(*map(floors, ("websocket", "grpc", "sse-h2")), sides())
    assert found == [*[(5, 5 * 9)] * 3, [(5, 5 * 9)] * 2]


async def test_a_proxy_with_http2_in_front_is_measured_beside_its_server() -> None:
    part("zttp")
    for name in FRONTS:
        part(name)
    plan, _, _ = floor.parse(["--proxies", "--only", "sse", "--no-pin"])
    assert not plan.rows
    async with fronts.running_fronts(FloorRun(plan, lambda text: None), "sse") as running:
        fields = {"message": "/tokens 7 x", "stamps": True}
        asked = [job(front.side, "burst", 3, **fields, proxy_pid=front.proxy_pid) for front in running]
        results = await asyncio.gather(*map(load, asked))
    assert [front.name for front in running] == [fronts.PLAIN, fronts.OWN, *FRONTS]
    assert [(result.turns, result.events) for result in results] == [(3, 3 * 9)] * len(running)
    assert [result.proxy_cpu_s is None for result in results] == [True] * 2 + [False] * len(FRONTS)
    cost = fronts.FrontCost("sse", "nginx")
    cost.add(replaced(results[2], events=1000, cpu_s=0.05, proxy_cpu_s=0.02, delay_p50_ms=1.0))
    said = io.StringIO()
    show_fronts(Console(file=said, width=200), [cost])
    assert (
        "│ sse  │ nginx │                    50.0 │                   20.0 │     70.0 │         1.00 │"
        in said.getvalue()
    )


def test_what_the_proxies_cost_in_one_sentence() -> None:
    """The sentence of docs/http2.md, from the medians of each lane."""

    def costs(rounds: int) -> list[fronts.FrontCost]:
        given = {fronts.PLAIN: (40.0, None), fronts.OWN: (52.2, None), "nginx": (41.0, 20.4), "caddy": (42.0, 34.0)}
        return [
            fronts.FrontCost("sse", name, [server] * rounds, [] if proxy is None else [proxy] * rounds)
            for name, (server, proxy) in given.items()
        ]

    said = (
        "The proxy took 20 to 34 µs of CPU time an event (nginx, caddy); the server alone took 40 µs without TLS, 52 µs with"
        " TLS and HTTP/2 of its own."
    )
    assert fronts.conclusion(costs(6)) == said
    assert fronts.conclusion(costs(1)) == f"{said} A claim needs 6 rounds: --rounds 6."
    assert fronts.conclusion(costs(6)[:2]) is None


async def test_the_servers_of_another_checkout_are_measured_beside_todays(tmp_path: Path) -> None:
    async def measured(tree: Path) -> tuple[list[SideResult], str]:
        arguments = [
            "--beside",
            str(tree),
            "--only",
            "ndjson",
            "--rows",
            "slow-model",
            "--sides",
            "memory,memory-before",
        ]
        plan, _, _ = floor.parse([*arguments, "--rounds", "1", "--no-pin"])
        said = io.StringIO()
        return await floor.measure(plan, cells(plan), Console(file=said, width=250)), said.getvalue()

    for transport in TRANSPORTS.values():
        server = tmp_path / "protocols" / transport.folder / "server.py"
        server.parent.mkdir(parents=True)
        server.write_text("raise SystemExit('too old')\n")
    (both, said), (today, why) = await asyncio.gather(measured(Path(floor.__file__).parents[1]), measured(tmp_path))
    assert {result.side for result in both} == {"memory", "memory-before"}
    assert "slow-model │ ndjson │ memory │ seconds" in said
    assert "Nothing is claimed: a claim needs 6 rounds of both checkouts" in said
    assert {result.side for result in today} == {"memory"}
    assert "slow-model, ndjson, memory-before: left out" in why
    assert "too old" in why


async def test_both_checkouts_are_loaded_in_the_same_windows() -> None:
    tree = str(Path(floor.__file__).parents[1])
    arguments = ["--beside", tree, "--at-once", "--only", "ndjson", "--rows", "saturated", "--rounds", "1"]
    plan, _, _ = floor.parse([*arguments, "--seconds", "0.2", "--streams", "4", "--no-pin"])
    assert loaded_together(plan.sides, plan) == [("floor",), ("memory", "memory-before"), ("sqlite", "sqlite-before")]
    asked: list[str] = []
    run = FloorRun(plan, asked.append, ("memory", "memory-before"))
    await ROWS["saturated"][0](run, "ndjson")
    assert asked[0] == "saturated ndjson memory, memory-before, round 1 of 1"
    assert {side: len(found.cpu_us) for (_, _, side), found in run.results.items()} == {"memory": 1, "memory-before": 1}
    alone, _, _ = floor.parse(arguments[:2])
    assert loaded_together(("memory", "memory-before"), alone) == [("memory",), ("memory-before",)]


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        floor.parse(["--beside", str(tmp_path)])
    assert "is no checkout of this program" in capsys.readouterr().err


def test_today_is_called_slower_only_where_the_rounds_do_not_overlap() -> None:
    costs = {("sse", "memory-before"): [5.0, 6.0, 5.5], ("sse", "memory"): [7.0, 6.5, 9.0]}
    costs |= {("sse", "sqlite-before"): [5.0, 6.0, 5.5], ("sse", "sqlite"): [6.0, 4.0, 7.0]}
    costs |= {("grpc", "memory-before"): [5.0, 6.0, 5.5], ("grpc", "memory"): [4.0, 4.5, 4.9]}
    pairs = compared(_saturated({side: 2 * values for side, values in costs.items()}))
    assert [(pair.word, pair.store, pair.verdict) for pair in pairs] == [
        ("sse", "memory", "slower"),
        ("sse", "sqlite", "overlap"),
        ("grpc", "memory", "quicker"),
    ]
    sentence, chance = conclusion(pairs, {})
    assert "Of 3 figures the ranges of 1 overlap. Slower today: saturated sse memory (CPU µs, × 1.27)." in sentence
    assert "Quicker today: saturated grpc memory (CPU µs, × 0.82)." in sentence
    assert chance.startswith("By chance alone, 0.0 of them would be slower")


_ONE_TOKEN, _SNAPSHOT = "POST /chat, 1 token", "GET /turns/…"


def _rest_beside(commit: str) -> str:
    """What a run says that measured two rows of REST beside another checkout of this commit."""
    plan = replace(floor.parse([])[0], beside=Path("before"), beside_commit=commit)
    run = FloorRun(plan, lambda text: None)
    costs = {
        (_ONE_TOKEN, "floor"): 72.0,
        (_ONE_TOKEN, "memory"): 780.0,
        (_ONE_TOKEN, "memory-before"): 1200.0,
        (_ONE_TOKEN, "sqlite"): 1000.0,
        (_ONE_TOKEN, "sqlite-before"): 1200.0,
        (_SNAPSHOT, "memory"): 140.0,
        (_SNAPSHOT, "memory-before"): 150.0,
    }
    for (row, side), cpu_us in costs.items():
        found = run.result_of(row, "rest", side)
        found.cpu_us += [cpu_us] * 6
        found.per_s += [1.0]
        found.load_share += [0.5]
    said = io.StringIO()
    show_floors(Console(file=said, width=250), run)
    return said.getvalue()


def test_a_goal_in_units_of_time_is_judged_as_a_share_of_the_commit_before() -> None:
    said = _rest_beside("e38f43e0123")
    rows = [line for line in said.splitlines() if " of " in line and "│" in line]
    judged = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows]
    assert [row[1:2] + row[5:] for row in judged] == [
        ["memory", "missed", "1,200.00", "0.65", "400 of 523–607 µs = 0.66–0.76", "met"],
        ["sqlite", "missed", "1,200.00", "0.83", "480 of 537–690 µs = 0.70–0.89", "not decided"],
        ["memory", "met", "150.00", "0.93", "150 of 215 µs = 0.70", "missed"],
    ]
    assert "on 2026-11-28" in said


def test_without_the_commit_before_the_goals_are_said_to_be_of_another_host() -> None:
    said = _rest_beside("0123456789")
    assert "of 523–607" not in said
    assert "were set on another host. The other checkout is 0123456 and not e38f43e" in said
    assert f"{_ONE_TOKEN}: there the floor needs 36 µs, here 72 µs (× 2.0)." in said


async def test_a_start_is_measured_to_the_first_answer() -> None:
    async def measured(word: str) -> SideResult:
        plan, _, _ = floor.parse(["--only", word, "--rows", "start", "--sides", "sqlite", "--rounds", "1", "--no-pin"])
        (found,) = await floor.measure(plan, cells(plan), Console(file=io.StringIO()))
        return found

    one, five = await asyncio.gather(measured("grpc"), measured("serve-all"))
    assert 0 < one.cpu_us[0] / 1e6 < one.took_s[0]
    assert five.took_s[0] > 0


def test_the_usual_plan_has_grpc_asgi_beside_grpc_and_takes_less_than_25_minutes() -> None:
    plan, _, _ = floor.parse([])
    planned = cells(plan)
    assert {cell.row for cell in planned if cell.word in FURTHER} == {"saturated"}
    assert sum(cell.expected_s for cell in planned) < 25 * 60
    every, _, _ = floor.parse(["--only", "all"])
    assert {cell.word for cell in cells(every)} == set(LANES)
    only, _, _ = floor.parse(["--only", "sse-h2"])
    assert {cell.word for cell in cells(only)} == {"sse-h2"}
    with pytest.raises(SystemExit):
        floor.parse(["--only", "carrier-pigeon"])


async def test_the_load_counts_what_the_floors_in_node_send() -> None:
    part("node")
    try:
        node_folder()
    except NodeMissing as error:
        pytest.skip(str(error))

    async def counted(word: str) -> tuple[int, int]:
        async with node_server(word, "--tokens", "7", "--rate", "500") as side:
            result = await load(job(side, "burst", 5, message="/tokens 7 x", stamps=True))
        # The time in an event is the one at which it was sent, not the one of the prepared turn.
        assert result.delay_p50_ms is not None
        assert 0 < result.delay_p50_ms < 60_000
        return result.turns, result.events

    words = ("ndjson", "sse", "websocket", "grpc")
    found = dict(zip(words, await asyncio.gather(*map(counted, words)), strict=True))
    assert found == dict.fromkeys(words, (5, 5 * 9))


def test_without_node_a_sentence_says_so_and_the_other_sides_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    plan, _, _ = floor.parse([])
    said = io.StringIO()
    planned = floor.with_node(cells(plan), Console(file=said, width=200))
    assert "The floors in Node are not measured here. Node is not installed: apt install nodejs npm" in said.getvalue()
    assert {side for cell in planned for side in cell.sides} == set(SIDES)


def test_the_language_is_named_only_where_the_rounds_do_not_overlap() -> None:
    rounds = {
        ("sse", "floor"): [9.0, 8.0, 10.0],
        ("sse", "node"): [4.0, 4.5, 5.0],
        ("sse", "memory"): [18.0, 4.8, 19.0],
    }
    (sentence,) = language(_saturated(rounds))
    assert sentence.count("a claim needs 6 rounds of both: --rounds 6.") == 2
    (sentence,) = language(_saturated({side: 2 * values for side, values in rounds.items()}))
    assert "floor in Node 4.5 µs, floor in Python 9.0 µs, server in Python 18.0 µs" in sentence
    assert "The floor in Python costs 2.00 times what the floor in Node costs." in sentence
    assert "The server against the floor in Node: no difference found" in sentence


def _saturated(costs: Mapping[tuple[str, str], list[float]]) -> list[SideResult]:
    return [SideResult("saturated", word, side, cpu_us=values) for (word, side), values in costs.items()]


def test_grpcio_is_named_only_where_the_rounds_do_not_overlap() -> None:
    few = {("grpc", "memory"): [50.0, 52.0, 49.0], ("grpc-asgi", "memory"): [20.0, 19.0, 22.0]}
    assert grpcio_layer(_saturated(few))[0].endswith("A claim needs 6 rounds of both: --rounds 6.")
    apart = {side: 2 * values for side, values in few.items()}
    (sentence,) = grpcio_layer(_saturated(apart))
    assert "50.0 (49.0–52.0) µs on grpcio, 20.0 (19.0–22.0) µs with the same servicer" in sentence
    assert "the rest, 30.0 µs (60%), is grpcio" in sentence
    assert len(grpcio_layer(_saturated({**apart, ("grpc", "floor"): [40.0, 41.0, 40.5] * 2}))) == 2
    assert len(grpcio_layer(_saturated({**apart, ("grpc", "floor"): [21.0, 41.0, 40.5] * 2}))) == 1
    overlap = {("grpc", "memory"): [50.0, 21.0, 50.0] * 2, ("grpc-asgi", "memory"): [20.0, 22.0, 21.0] * 2}
    (sentence,) = grpcio_layer(_saturated(overlap))
    assert "does not show that grpcio is the cost" in sentence
    assert grpcio_layer(_saturated({("grpc", "memory"): [50.0]})) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([20, 21, 19, 22], "flat"),
        ([20, 21, 19, 29], "flat"),
        ([60 + 0.01 * size for size in (1, 10, 1000, 5000)], "linear"),
        ([70, 140, 10_000, 51_000], "linear"),
        ([200, 22, 2.2, 2.0], "falls"),
        ([10, 10, 10, 400], "other"),
        ([10, 100, 10, 400], "other"),
    ],
)
def test_the_shape_of_a_line_is_found_by_a_fit(values: list[float], expected: str) -> None:
    assert shape_of(list(zip((1, 10, 1000, 5000), values, strict=True)), "µs").name == expected


def test_a_line_that_no_fit_describes_has_its_reason() -> None:
    points = [(1, 10.0), (10, 10.0), (1000, 10.0), (5000, 400.0)]
    assert "most of it between 1000 and 5000" in shape_of(points, "ms").words
    assert "core is full from 5000 on" in shape_of(points, "ms", cores={1: 0.1, 5000: 0.97}).words
    assert "the floor changes likewise, × 30.00" in shape_of(points, "ms", floor=[(1, 1.0), (5000, 30.0)]).words
    assert "so the server is the cause" in shape_of(points, "ms", floor=[(1, 1.0), (5000, 1.1)]).words
    assert shape_of([(1, 0.2), (5000, 1.9)], "ms", resolution=2.0).name == "flat"
    assert shape_of([(1, 10.0), (2, 30.0)], "µs").words == "× 3.00; two sizes allow no fit"


async def test_growth_is_measured_printed_and_drawn() -> None:
    _, _, scale = floor.parse(["--scale", "--only", "ndjson", "--seconds", "0.2", "--quick", "--no-pin"])
    assert scale is not None
    sizes = {"streams": (3,), "history": (1, 3), "store": (10,)}
    said = io.StringIO()
    lines = await floor.measure_growth(replace(scale, sizes=sizes), Console(file=said, width=200))
    assert "not measured here" not in said.getvalue()
    assert "axes" in said.getvalue().partition("\n")[0]
    figures = {(line.axis, line.figure) for line in lines}
    assert {
        ("streams", "delay p99"),
        ("history", "turn p50"),
        ("store", "purge, a turn"),
    } <= figures
    assert all((line.shape is not None) == (line.axis == "history") for line in lines)
    drawn = pictures(lines)
    assert "history-turn-p50" in drawn
    for svg in drawn.values():
        ElementTree.fromstring(svg)


def test_the_row_whose_sentences_claim_has_six_rounds() -> None:
    usual, quick, asked = (floor.parse(options)[0] for options in ([], ["--quick"], ["--rounds", "2"]))
    rounds = [(plan.of_row("saturated").rounds, plan.of_row("paced").rounds) for plan in (usual, quick, asked)]
    assert rounds == [(6, 3), (1, 1), (2, 2)]


@pytest.mark.parametrize("streams", [5, 8, 16, 20, 64, 160])
@pytest.mark.parametrize("tokens", [30, 60, 100, 150])
def test_streams_begin_at_any_moment_between_two_tokens(streams: int, tokens: int) -> None:
    """No tenth of the time between two tokens has the tokens of many streams, and no gap is twice the mean or longer."""
    begun = offsets(streams, 1.0)
    phases = [begin * tokens % 1 for begin in begun]
    assert max(sum((other - one) % 1 < 0.1 for other in phases) for one in phases) <= 1 + streams * 0.2
    assert max(late - early for early, late in zip(begun, [*begun[1:], 1.0], strict=True)) < 2 / streams
