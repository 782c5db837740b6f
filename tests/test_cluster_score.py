"""The score of ``make cluster`` notices faults: a small run is good, and a run with a damaged count is not."""

from __future__ import annotations

import pytest

from compare.cluster import Score, run
from tests.parts import part


@pytest.mark.parametrize("name", ["caddy", "a balancer of TCP connections"])
async def test_a_node_is_killed_and_nothing_is_lost(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "caddy":
        part("caddy")
    else:
        monkeypatch.setattr("compare.lines.balancer.caddy_program", lambda: None)
    score = await run(["ndjson"], 2, seconds=6, kill_every_s=3, tokens=60)
    assert score.turns > 0
    assert score.kills + score.failovers > 0
    assert score.good, str(score)
    assert name.lower() in capsys.readouterr().out.lower()


def test_what_is_not_good() -> None:
    assert Score().good
    assert not Score(lost=1).good
    assert not Score(twice=1).good
    assert not Score(differing=1).good
    assert not Score(hung=1).good
    score = Score()
    score.generated.update(["a", "b", "a"])
    assert score.paid_twice == 1
    assert not score.good
