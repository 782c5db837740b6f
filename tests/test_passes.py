"""``compare run`` spreads the rounds of every figure over passes, each on servers that are started for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from compare.measuring.experiments.run import FULL, QUICK
from compare.measuring.experiments.schedule import expected_s, schedule
from compare.measuring.statistics import ENOUGH_ROUNDS, figure_of_rounds
from tests.passes import PASSES, SMALL, small_run


def test_every_pass_has_every_experiment_in_the_same_order() -> None:
    passes = schedule(FULL, 6)
    assert len(passes) == FULL.passes == ENOUGH_ROUNDS
    first, *others = ([entry for group in groups for entry in group.entries] for groups in passes)
    assert [entry.name for entry in first if entry.once] == ["loads"]
    for names in ([entry.name for entry in entries] for entries in others):
        assert names == [entry.name for entry in first if not entry.once]


def test_the_plan_keeps_its_limits() -> None:
    quick, full = expected_s(schedule(QUICK, 6)), expected_s(schedule(FULL, 6))
    assert quick < 3 * 60
    assert quick < full < 40 * 60


def test_each_round_of_a_figure_comes_from_a_pass_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--only", "ndjson", "--experiments", "one stream,bytes,cuts,connect,pictures")
    made = small_run(tmp_path, monkeypatch, *options)
    assert made.rounds
    assert {key: numbers for key, numbers in made.rounds.items() if numbers != set(range(PASSES))} == {}
    figures = [found for one in made.results.experiments.values() for found in one.figures["ndjson"].values()]
    assert {found.n for found in figures} == {PASSES}
    # Two groups of experiments a pass, no server in two of them.
    assert len(made.pids) == 2 * PASSES == len(set.union(*made.pids))
    said = capsys.readouterr().out
    assert "1 lane, 5 experiments, 2 passes, each on new servers: about " in said
    assert "pass 2 of 2, pictures: done, about 0 s left" in said


def test_a_quick_run_has_one_pass_whose_repetitions_are_its_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = dataclasses.replace(SMALL, passes=1, connects=6)
    made = small_run(tmp_path, monkeypatch, "--only", "ndjson", "--experiments", "connect", scale=quick)
    assert made.rounds["connect", "ndjson", "connect_cold"] == set(range(6))
    assert made.results.experiments["connect"].figures["ndjson"]["connect_cold"].n == 6


def test_the_values_of_a_round_are_one_value_and_the_largest_is_kept() -> None:
    found = figure_of_rounds([(0, 1.0), (0, 2.0), (0, 9.0), (1, 4.0)])
    assert found is not None
    assert (found.n, found.median, found.worst) == (2, 3.0, 9.0)
