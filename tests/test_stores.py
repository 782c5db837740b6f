"""``compare stores`` in small: SQLite and Valkey in one run, and every event that was written was read on the other node."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compare import stores
from compare.measuring.stores.measure import KINDS, ReadingCost, known

ROOT = Path(__file__).parent.parent
SMALL = ("--turns", "2", "--readers", "3", "--seconds", "0.4")


def test_each_store_has_a_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This tree stands for the other one: its SQLite is measured in the same rounds, and the figures are shares of it."""
    monkeypatch.setattr(stores, "_ADDITIONS", 100_000)
    assert stores.main(["--only", "valkey-always", *SMALL, "--before", str(ROOT)]) == 0
    said = capsys.readouterr().out
    assert "2 turns; 3 readers of one turn" in said
    for word in ("load", "0.1 million additions in Python take", "sqlite of ", "valkey", "goals on a calm machine"):
        assert word in said
    shares = re.search(
        r"^valkey-always, share of sqlite of \S+: p50 ([\d.]+)%, p99 ([\d.]+)%, CPU ([\d.]+)%$", said, re.M
    )
    assert shares is not None
    assert all(float(share) > 0 for share in shares.groups())
    assert "the goals are 8% and 16% of it" in said


def test_a_share_has_the_span_of_its_rounds() -> None:
    def one(late_ms: float) -> stores.Round:
        cost = ReadingCost(events=1, late_p50_ms=late_ms, late_p99_ms=10.0, writer_us=1.0, store_us=0.0, reader_us=1.0)
        return stores.Round(cost)

    new, old = (stores.Side(name, KINDS["sqlite"]) for name in ("new", "old"))
    line = stores._against(new, [one(1.0), one(3.0), one(2.0)], old, [one(10.0), one(10.0), one(40.0)])
    assert line == (
        "new, share of old: p50 10.0% (5.0% to 30.0%), p99 100.0% (100.0% to 100.0%), CPU 100.0% (100.0% to 100.0%)"
    )


def test_a_store_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert [kind.name for kind in known(["valkey-replica"])] == ["valkey-replica"]
    assert stores.main(["--only", "oracle"]) == 2
    assert "no such store: oracle" in capsys.readouterr().err
