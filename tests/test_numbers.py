"""Your numbers: the same in Python and in the report, right where the costs are known, and honest where nothing was measured."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from compare import numbers as command
from compare.measuring.loads import LoadPoint
from compare.measuring.statistics import Figure
from compare.showing.numbers import CONSTANTS, FORMULAS, INPUTS, OPENING_TRIPS, coefficients, curve, predict, queue
from compare.showing.report import write
from compare.showing.results import Experiment, Results
from protocols import TRANSPORTS
from sequence_diagrams.glance import _round_trips
from tests.parts import part
from tests.test_guide import exact, made_up

DEFAULTS = {one.name: one.default for one in INPUTS}
_JS = (files("compare.showing") / "template" / "numbers.js").read_text(encoding="utf-8")


def with_loads() -> Results:
    """A run whose servers cost 900 µs an answer, 100 µs a token, 60 MiB and 64 KiB a reader; 400 B an answer, 110 B a token."""
    return msgspec.structs.replace(
        made_up(),
        loads=[_point(word, users, tokens) for word in TRANSPORTS for users, tokens in ((16, 4), (16, 60), (160, 60))],
        connections=dict.fromkeys(TRANSPORTS, 1),
        cut_tokens=50,
        experiments={
            **made_up().experiments,
            "cut, without resume": _measured({"again": exact(50.0)}),
            "cut, with resume": _measured({"back": exact(48.0)}),
            "picture 100 kB": _measured({"image_ms": exact(7.0), "image_wire": exact(1.34)}),
            "picture 1 MB": _measured({"image_ms": exact(16.0), "image_wire": exact(1.34)}),
        },
    )


def _point(word: str, users: int, tokens: int) -> LoadPoint:
    answers_s = users / (tokens / 20)
    whole = word == "rest"
    return LoadPoint(
        word=word,
        users=users,
        tokens=tokens,
        rate=20.0,
        tokens_s=answers_s * tokens,
        answers_s=answers_s,
        cpu_s=(answers_s * 900 + answers_s * tokens * 100) / 1e6,
        answer_bytes=400.0 + 110.0 * tokens,
        first_ms=3.0 + whole * (tokens - 1) * 50,
        memory_mib=60.0 + users / 16,
    )


def _measured(figures: dict[str, Figure]) -> Experiment:
    return Experiment(
        title="made up",
        about="made up",
        metrics=tuple(figures),
        figures=dict.fromkeys(TRANSPORTS, figures),
        verdicts=[],
        findings={},
        failures=[],
    )


def test_costs_that_are_known_are_found_again() -> None:
    known = coefficients(with_loads())
    assert set(known) == set(TRANSPORTS)
    given = {**DEFAULTS, "users": 100, "tokens": 21, "rate": 10, "rtt": 80, "loss": 2, "cuts": 3, "price": 4}
    sse, rest = (predict(known[word], given) for word in ("sse", "rest"))
    # 20 gaps of 100 ms, 80 ms of round trip and 3 ms of the server.
    answer_s = 2.083
    assert sse["answer_s"] == pytest.approx(answer_s)
    assert sse["first_ms"] == pytest.approx(83)
    assert rest["first_ms"] == pytest.approx(2083)
    assert sse["cores"] == pytest.approx(100 / answer_s * (900 + 21 * 100) / 1e6, rel=1e-3)
    assert sse["memory_mib"] == pytest.approx(60 + 100 / 16)
    assert sse["down_kb"] == pytest.approx(2.71)
    assert sse["still_s"] == pytest.approx(0.02 * 21 * 0.28)
    assert rest["packets"] == 2
    assert sse["repaid"] == pytest.approx(100 * 3 * 21)
    assert sse["money"] == pytest.approx(100 * 3 * 21 * 4 / 1e6)
    assert sse["back_far_ms"] == pytest.approx(48 + 160)
    assert sse["picture_ms"] == pytest.approx(6 + 80 + 10)


def test_the_form_computes_as_python_does() -> None:
    dice = random.Random(1)
    known = coefficients(with_loads())
    unmeasured = coefficients(msgspec.structs.replace(with_loads(), experiments={}))
    cases = [
        (one, {each.name: dice.uniform(each.least, min(each.most, 100 * each.default)) for each in INPUTS})
        for one in [*known.values(), unmeasured["grpc"]]
        for _ in range(40)
    ]
    program = (
        f"{_JS}; let text = ''; for await (const piece of process.stdin) text += piece;"
        "const { numbers, cases } = JSON.parse(text);"
        "console.log(JSON.stringify(cases.map(([one, given]) => predict(numbers, one, given))));"
    )
    data = msgspec.json.encode({"numbers": {"formulas": FORMULAS, "constants": CONSTANTS}, "cases": cases})
    node = subprocess.run(
        [part("node").path, "--input-type=module", "-e", program],
        input=data,
        capture_output=True,
        check=True,
        timeout=60,
    )
    for (one, given), found in zip(cases, json.loads(node.stdout), strict=True):
        assert found == pytest.approx(predict(one, given))


def test_a_queue_grows_slowly_at_first() -> None:
    points = [(1_000.0, 5.0), (4_000.0, 80.0)]
    assert [queue(points, x) for x in (1, 1_000, 2_000, 4_000, 1e6)] == pytest.approx([5, 5, 20, 80, 80])
    assert queue([(1_000.0, 0.0)], 1_000) == pytest.approx(0.1)


def test_a_curve_is_level_beyond_its_ends() -> None:
    points = [(100.0, 8.0), (10_000.0, 2.0)]
    assert [curve(points, x) for x in (1, 100, 1_000, 10_000, 1e6)] == pytest.approx([8, 8, 5, 2, 2])


def test_round_trips_are_those_of_the_readme() -> None:
    assert {word: _round_trips(word) for word in TRANSPORTS} == OPENING_TRIPS


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Results], str]:
    def written(results: Results) -> str:
        write(tmp_path, results, [], [])
        return str(tmp_path)

    return written


def test_the_command(run: Callable[[Results], str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(with_loads())
    assert command.main(["--run", folder, "--users", "100", "--tokens", "500", "--rtt", "80"]) == 0
    said = capsys.readouterr().out
    assert "first token, ms" in said
    assert "users 100, tokens 500, rate 50, rtt 80" in said.replace("\n", " ")
    assert command.main(["--run", folder, "--formulas"]) == 0
    assert "repaid = users * cuts * tokens * again_share" in capsys.readouterr().out
    assert command.main(["--run", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["grpc"]["results"]["connections"] == 1000


def test_what_was_not_measured_is_not_computed(
    run: Callable[[Results], str], capsys: pytest.CaptureFixture[str]
) -> None:
    known = coefficients(msgspec.structs.replace(with_loads(), experiments={}))
    assert predict(known["sse"], DEFAULTS)["money"] is None
    assert command.main(["--run", run(made_up())]) == 2
    assert "no load points. Make some with: python -m compare run --quick" in capsys.readouterr().err
    assert command.main(["--run", "/nowhere"]) == 2
    assert "Make some with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--loss", "99"])
    assert "--loss 99: give a value from 0 to 50" in capsys.readouterr().err
