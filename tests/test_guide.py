"""The guide: one answer to all needs, the same in Python and on the pages, and what a report never says."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

import shared
from compare import guide as command
from compare import migration
from compare.measuring.goodput import Objectives
from compare.measuring.metrics import METRICS
from compare.measuring.statistics import Figure
from compare.measuring.verdicts import bunched, matters, verdict
from compare.showing import section
from compare.showing.facts import BRIEF, of_results, published
from compare.showing.guide import NEEDS, answer, guide_of, sentences
from compare.showing.guide_page import FILE, content
from compare.showing.plots import plots, round_ticks
from compare.showing.report import FILES, PLOTS, write
from compare.showing.results import Experiment, Results
from compare.showing.section import Section
from tests.parts import part

GUIDE = guide_of(published())
JS = Path(shared.__file__).parent / "web" / "guide.js"


def exact(value: float, n: int = 12, spread: float = 0.0) -> Figure:
    return Figure(value, value - spread, value + spread, n, value + spread)


def made_up() -> Results:
    """A run in which a proxy held two lanes back and then passed everything on at once."""
    gaps = {"ndjson": (0.01, 0.98), "sse": (0.01, 0.97), "websocket": (22.5, 0.0), "grpc": (22.6, 0.0)}
    held = {
        lane: {"icl_p99": exact(gap), "coalescing": exact(share), "delay_p50": exact(200.0 if share else 0.7)}
        for lane, (gap, share) in gaps.items()
    }
    first = {
        "rest": exact(385.0),
        "ndjson": exact(7.8, spread=0.2),
        "sse": exact(8.2, spread=0.1),
        "websocket": exact(7.0, spread=0.1),
        "grpc": exact(9.0, spread=0.1),
    }
    lanes = list(first)
    sse = {"sse": ["a buffer on the path: 97% of the chunks arrived together"]}
    shown = {
        "1 stream": ("One stream", ("ttft",), {lane: {"ttft": figure} for lane, figure in first.items()}, {}),
        "cut, with resume": ("Cut, with resume", ("lost",), {lane: {"lost": exact(0.0)} for lane in lanes}, {}),
        "nginx, gzip and buffering": ("Behind nginx", ("icl_p99", "coalescing", "delay_p50"), held, sse),
    }
    experiments = {}
    for name, (title, metrics, figures, findings) in shown.items():
        together = bunched(figures)
        said = [
            verdict(METRICS[metric], {lane: of[metric] for lane, of in figures.items() if metric in of}, together)
            for metric in metrics
        ]
        experiments[name] = Experiment(
            title=title,
            about="made up",
            metrics=metrics,
            figures=figures,
            verdicts=[one for one in said if one],
            findings=findings,
            failures=[],
        )
    return Results(
        begun_at=0.0,
        seconds=60.0,
        quick=True,
        seed=1,
        lanes=lanes,
        setup={"machine": "a machine", "python": "a Python", "versions": "some"},
        experiments=experiments,
        unmeasured={},
        objectives=Objectives(),
    )


@pytest.mark.parametrize(
    ("needs", "take"),
    [
        ("tokens,browser", "Server-Sent Events"),
        ("tokens,browser,resume", "Server-Sent Events"),
        ("tokens,browser,resume,pictures", "Server-Sent Events"),
        ("tokens", "NDJSON"),
        ("tokens,both-ways", "WebSocket"),
        ("tokens,contract", "gRPC"),
        ("", "REST"),
    ],
)
def test_the_answers_are_those_of_the_readme(needs: str, take: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--need", needs]) == 0
    said = capsys.readouterr().out
    assert f"\nTake {take}" in said
    assert "\nThe price:\n" in said
    assert "\nWhat would change it:\n" in said
    # A transport has its one name, not the word that a command takes.
    assert not re.search(r"\b(rest|ndjson|sse|websocket|grpc)\b", said.partition("\nSay what")[0])


def test_no_lane_is_dropped_in_silence() -> None:
    for names in itertools.combinations(NEEDS, 2):
        found = answer(GUIDE, names)
        named = {GUIDE.titles[lane] for lane in (found.take, *found.also)}
        named |= {line.partition(":")[0] for line in found.others}
        assert named == set(GUIDE.titles.values()), names
        assert all(line.partition(": ")[2] for line in found.others), names


def test_pictures_are_judged_by_the_way_one_fetches_them() -> None:
    pictures = next(need for need in GUIDE.needs if need.name == "pictures")
    assert all(judged.can and not judged.price for judged in pictures.lanes.values())
    assert "GET" in pictures.lanes["sse"].why


def test_a_run_of_one_lane_answers_with_that_lane() -> None:
    results = made_up()
    results.lanes = ["ndjson"]
    alone = guide_of(of_results(results))
    for names in ([], ["tokens"], ["browser", "contract"]):
        found = answer(alone, names)
        assert (found.take, found.also, found.others) == ("ndjson", [], [])
        assert found.changes == ["no single need, added or dropped, changes the answer"]


def test_what_nobody_can_feel_is_no_price() -> None:
    results = made_up()
    slower = {"websocket": 0.62, "ndjson": 0.68, "grpc": 0.95, "sse": 0.65, "rest": 0.7}
    results.experiments["network mobile"] = msgspec.structs.replace(
        results.experiments["1 stream"],
        metrics=("delay_p50",),
        figures={lane: {"delay_p50": exact(delay)} for lane, delay in slower.items()},
    )
    mobile = next(need for need in guide_of(of_results(results)).needs if need.name == "mobile")
    assert {lane: judged.price for lane, judged in mobile.lanes.items() if lane != "rest"} == {
        "ndjson": 0,
        "sse": 0,
        "websocket": 0,
        "grpc": 0,
    }
    assert not matters(METRICS["delay_p50"], exact(0.62), exact(0.95))
    assert not matters(METRICS["ttft"], exact(100.0), exact(109.0))
    assert matters(METRICS["ttft"], exact(100.0), exact(111.0))


def test_the_pages_combine_as_python_does() -> None:
    """guide.js and guide.py give the same answer to every pair of needs, and to some hundred larger sets."""
    dice = random.Random(1)
    sets = [list(pair) for size in (0, 1, 2) for pair in itertools.combinations(NEEDS, size)]
    sets += [dice.sample(list(NEEDS), dice.randint(3, len(NEEDS))) for _ in range(300)]
    program = (
        f"import {{ answer }} from {json.dumps(JS.as_uri())};"
        "let text = ''; for await (const piece of process.stdin) text += piece;"
        "const { guide, sets } = JSON.parse(text);"
        "console.log(JSON.stringify(sets.map((names) => answer(guide, new Set(names)))));"
    )
    given = msgspec.json.encode({"guide": GUIDE, "sets": sets})
    node = subprocess.run(
        [part("node").path, "--input-type=module", "-e", program],
        input=given,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(node.stdout) == [msgspec.to_builtins(answer(GUIDE, names)) for names in sets]


def test_the_file_of_the_pages_is_of_the_published_run() -> None:
    assert FILE.read_text(encoding="utf-8") == content(), "python -m compare.showing.guide_page writes it again"
    assert {(experiment, metric) for experiment, metric, _ in published().figures} == set(BRIEF)


def test_a_run_of_ones_own_and_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, made_up(), [], [])
    assert command.main(["--run", str(tmp_path), "--need", "tokens,proxy"]) == 0
    said = capsys.readouterr().out
    assert "Take WebSocket" in said or "Take NDJSON" in said
    assert "Server-Sent Events: a buffer on the path: 97%" in said
    assert command.main(["--run", str(tmp_path / "none")]) == 2
    assert "python -m compare run --quick" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--need", "speed"])
    assert "no such need: speed; there are tokens, " in capsys.readouterr().err


def test_bunched_tokens_are_never_good() -> None:
    said = made_up().experiments["nginx, gzip and buffering"].verdicts
    gaps = next(sentence for sentence in said if sentence.startswith("ICL p99"))
    assert "NDJSON and Server-Sent Events lower" not in gaps
    assert "not ranked for NDJSON and Server-Sent Events, whose chunks arrived together (98%, 97%)" in gaps


def test_all_zero_is_said_and_small_differences_are_none() -> None:
    results = made_up()
    assert results.experiments["cut, with resume"].verdicts == ["lost: 0 tokens on all lanes."]
    assert results.experiments["1 stream"].verdicts == [
        "TTFT: WebSocket, NDJSON, Server-Sent Events and gRPC lower (7.00 ms), no difference that matters between them, than"
        " REST (385 ms). Cause: nothing is shown before the reply is whole (REST)."
    ]


def test_both_libraries_of_grpc_stand_side_by_side() -> None:
    results = made_up()
    cpu = {"ndjson": 15.0, "grpc": 53.0, "grpc-asgi": 19.0}
    results.experiments["throughput"] = msgspec.structs.replace(
        results.experiments["1 stream"],
        metrics=("server_us",),
        figures={lane: {"server_us": exact(value)} for lane, value in cpu.items()},
    )
    made = guide_of(of_results(results))
    said = "grpcio's asyncio layer, not gRPC's wire: by connectrpc on uvicorn 19.0 µs"
    assert said in made.always["grpc"]
    assert said in next(need for need in made.needs if need.name == "streams").lanes["grpc"].why


def test_the_report_has_the_sections_of_other_commands_in_its_folder(tmp_path: Path) -> None:
    made = Section(
        name="chain-1ms",
        title="Chains of 20 turns",
        about="made up",
        heads=["wire", "saving"],
        rows=[["sse", "12.0"]],
        sentences=["sse: keeping saves 40% <most of it handshakes>."],
        svg="<svg></svg>",
    )
    section.write(tmp_path, "chain", [made], [])
    write(tmp_path, made_up(), [], [])
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Chains of 20 turns" in markdown
    assert "![Chains of 20 turns](plots/chain-1ms.svg)" in markdown
    assert (tmp_path / "plots" / "chain-1ms.svg").exists()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<section id="chain-1ms"><h2>Chains of 20 turns</h2>' in page
    assert "&lt;most of it handshakes&gt;" in page


def test_the_report_has_plots_beside_it_and_names_no_file_that_is_missing(tmp_path: Path) -> None:
    write(tmp_path, made_up(), [], [])
    assert {*FILES, PLOTS} == {path.name for path in tmp_path.iterdir()}
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"![One stream: TTFT, ms]({PLOTS}/first-token.svg)" in markdown
    assert "WIRE.md" not in markdown + (tmp_path / "report.html").read_text(encoding="utf-8")
    _, svg = plots(made_up())["first-token"]
    assert "ms (linear)" in svg
    assert "prefers-color-scheme:dark" in svg
    assert round_ticks(385.0) == [0, 100, 200, 300]
    assert round_ticks(0.83) == [0, 0.2, 0.4, 0.6, 0.8]


def test_times_are_never_negative_and_never_made_of_two_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert migration._middle([5.0, 60.0, 7.0, 6.0]) == "6.5 (5.8–20.2)"
    with pytest.raises(SystemExit):
        migration.main(["--rounds", "2"])
    assert "at least 4 rounds are needed" in capsys.readouterr().err


def test_an_answer_says_what_the_lane_cannot_do() -> None:
    found = answer(GUIDE, list(NEEDS))
    assert sentences(found)[0].startswith(f"Take {GUIDE.titles[found.take]}")
    with pytest.raises(KeyError):
        answer(GUIDE, ["speed"])
