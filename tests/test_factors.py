"""The factors and the chains: a planted cost is booked on its factor, equal servers differ in nothing, and the parts add up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import ModuleType

import pytest

from compare import chain, everything, factors, run
from compare.chains.columns import saving
from compare.chains.play import CELLS as CHAIN_CELLS
from compare.chains.play import TurnSpans
from compare.factorial.cells import CELLS, FACTORS, Cell, pairs
from compare.factorial.effects import METRICS, Measured, effects
from compare.factorial.measure import running_cell
from compare.factorial.view import sections
from compare.measuring.floors.load.run import run as run_load
from compare.measuring.lanes import FURTHER_LANES
from tests.factor_plants import PLANT_US, measured_rounds
from tests.parts import part

ROUNDS = 6
BASE = {"bytes": 120.0, "delay": 2.0, "server_us": 15.0, "stream_kib": 17.0}


def measured(planted: dict[str, float], rounds: int = ROUNDS, spread: float = 0.02) -> list[Measured]:
    """Rounds of all cells with the same costs and a little chance; ``planted``: µs of server CPU by level."""
    dice = random.Random(7)
    found = []
    for number in range(rounds):
        for cell in CELLS:
            values = {name: value * (1 + dice.uniform(-spread, spread)) for name, value in BASE.items()}
            values["server_us"] += sum(planted.get(level, 0.0) for level in levels(cell))
            found.append(Measured(cell=cell.name, round=number, values=values))
    return found


def levels(cell: Cell) -> tuple[str, ...]:
    return (cell.encoding, cell.http, cell.framing, cell.library)


@pytest.mark.parametrize("level", [level for some in FACTORS.values() for level in some[1:]])
def test_a_planted_cost_is_booked_on_its_factor_and_on_no_other(level: str) -> None:
    found = [effect for effect in effects(measured({level: 20.0})) if effect.found]
    assert [(effect.level, effect.metric) for effect in found] == [(level, "server_us")]
    assert found[0].difference.median == pytest.approx(20, abs=1)


async def test_a_cost_that_a_server_really_has_is_booked_on_its_level() -> None:
    part("zttp")
    rounds = await measured_rounds((Cell("JSON", "HTTP/1.1", "lines", "ASGI"), Cell("JSON", "HTTP/2", "lines", "ASGI")))
    booked = rounds.booked("HTTP/2")["HTTP/2"]
    # Without the plant the increase is about 0. The machine may be busy, so that the middle between 0 and 20 is the bound.
    assert booked.median > PLANT_US / 2
    assert abs(rounds.booked("SSE")["HTTP/2"].median) < PLANT_US / 2


def test_equal_servers_differ_in_nothing() -> None:
    equal = measured({})
    assert not [effect for effect in effects(equal) if effect.found]
    said = sections(equal)[0].sentences
    assert len(said) == len(METRICS)
    assert all("no difference found by" in sentence for sentence in said)


def test_five_rounds_claim_nothing() -> None:
    few = measured({"grpcio": 500.0}, rounds=ROUNDS - 1)
    assert not [effect for effect in effects(few) if effect.found]
    assert sections(few)[0].sentences == ["5 rounds: no difference is claimed; it takes 6."]


def test_a_pair_differs_in_one_factor() -> None:
    for factor, of_factor in FACTORS.items():
        for level in of_factor[1:]:
            found = pairs(factor, level)
            assert found
            for base, other in found:
                differing = [name for name in FACTORS if getattr(base, name) != getattr(other, name)]
                assert differing == [factor]


@pytest.mark.parametrize(
    "cell",
    [
        Cell("protobuf", "HTTP/1.1", "prefix", "connectrpc"),
        Cell("JSON", "HTTP/2", "lines", "ASGI"),
        Cell("JSON", "HTTP/2", "prefix", "grpcio"),
    ],
    ids=lambda cell: cell.name,
)
async def test_a_server_of_the_factorial_sends_every_event(cell: Cell) -> None:
    if cell.library == "connectrpc":
        part("connectrpc")
    if cell.http == "HTTP/2" and cell.library == "ASGI":
        part("zttp")
    async with running_cell(cell) as running:
        found = await run_load(running.job("burst", 3, "/tokens 7 x", paced=True))
    assert (found.turns, found.events) == (3, 3 * 9)
    assert found.delay_p50_ms is not None
    assert found.delay_p50_ms > 0


@pytest.mark.parametrize("planted", ["20us", "gRPC=20us", "connectrpc=20"])
def test_the_plant_names_a_level(planted: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        factors.parse(["--plant", planted])
    assert "LEVEL=20us" in capsys.readouterr().err
    assert factors.parse(["--plant", "connectrpc=20us"]).planted == ("connectrpc", 20.0)


def test_the_columns_of_a_saving_add_up() -> None:
    dice = random.Random(3)

    def spans() -> TurnSpans:
        to_server, server, model, back = (dice.uniform(1, 100) for _ in range(4))
        return TurnSpans(to_server=to_server, server=server, model=model, back=back, up_bytes=1, down_bytes=1)

    found = saving({cell: [spans() for _ in range(3)] for cell in CHAIN_CELLS})
    assert found.handshake + found.upload + found.server_state + found.rest == pytest.approx(found.whole)


def test_the_usual_chains_take_less_than_15_minutes() -> None:
    plan = chain.parse([]).plan
    assert (plan.turns, plan.rtts_ms, plan.tls, plan.rounds) == (20, (1.0, 150.0), (False,), 6)
    assert plan.expected_s() < 15 * 60


def test_everything_says_first_how_long_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert everything.main(["--plan", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert [line.split("  about ")[0].strip() for line in said.splitlines()] == [
        "factors",
        "chains, without and with TLS",
        "the usual lanes",
        "the further lanes beside them",
        "all lanes with TLS",
        "together",
    ]
    assert not list(tmp_path.iterdir())
    lanes = next(step for step in everything.steps(tmp_path) if step.title.startswith("the further lanes"))
    assert set(FURTHER_LANES) <= set(run.parse(lanes.arguments).names)


@pytest.mark.parametrize("command", [run, chain, factors], ids=lambda command: command.__name__)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part("connectrpc")
    part("zttp")
    monkeypatch.setattr(command, "_run", None)
    (tmp_path / "taken").write_text("a file")
    assert command.main(["--out", str(tmp_path / "taken")]) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path / 'taken'}: no report can be written there: File exists. Name another folder.\n"
    )


def test_a_chain_over_tls_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--only", "ndjson,rest", "--turns", "2", "--rounds", "1", "--rtt", "1", "--tls", "on"]
    assert chain.main([*options, "--prompt-bytes", "60000", "--mbit", "200", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Chains of 2 turns: RTT 1 ms, TLS" in said
    assert "1 round a lane cannot tell a difference" in said
    chains = [json.loads(line) for line in (tmp_path / "chain.jsonl").read_text().splitlines()]
    assert {(one["wire"], one["history"], one["connection"]) for one in chains} == {
        (wire, *cell) for wire in ("ndjson", "rest") for cell in CHAIN_CELLS
    }
    second = {(one["history"], one["connection"]): one["turns"][1] for one in chains if one["wire"] == "ndjson"}
    assert second["kept", "kept"]["up_bytes"] > 60_000
    assert second["sent", "kept"]["up_bytes"] > 120_000
    assert "| NDJSON |" in (tmp_path / "chain.md").read_text()
