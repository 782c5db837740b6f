"""A small run of all experiments over all lanes: every figure has a value from every pass."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compare.measuring.experiments.schedule import schedule
from tests.passes import PASSES, SMALL, small_run

# As in test_machine.py: set by ``make test-faults``.
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "0"))


@pytest.mark.skipif(not EXAMPLES, reason="minutes of measuring: make test-faults")
@pytest.mark.timeout(900)
def test_every_figure_of_every_experiment_has_a_value_from_every_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Load points have no rounds: they are measured in the first pass alone.
    rounds = [entry.name for group in schedule(SMALL, 6)[0] for entry in group.entries if not entry.once]
    made = small_run(tmp_path, monkeypatch, "--experiments", ",".join(rounds))
    assert not [key for key, numbers in made.rounds.items() if numbers != set(range(PASSES))]
    few = [
        (name, lane, metric)
        for name, experiment in made.results.experiments.items()
        for lane, figures in experiment.figures.items()
        for metric, found in figures.items()
        if found.n != PASSES
    ]
    assert not few
    assert not [failure for experiment in made.results.experiments.values() for failure in experiment.failures]
    if "packets" in made.results.experiments:
        assert any(f"{PASSES} rounds cannot tell" in said for said in made.results.experiments["packets"].verdicts)
