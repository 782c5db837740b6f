"""``compare stores`` in small: SQLite and Valkey in one run, and every event that was written was read on the other node."""

from __future__ import annotations

import pytest

from compare import stores
from compare.measuring.stores.measure import known


def test_each_store_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert stores.main(["--only", "sqlite,valkey-always", "--turns", "2", "--readers", "3", "--seconds", "0.4"]) == 0
    said = capsys.readouterr().out
    assert "2 turns; 3 readers of one turn" in said
    for word in ("load", "sqlite", "valkey", "goals on a calm machine"):
        assert word in said


def test_a_store_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert [kind.name for kind in known(["valkey-replica"])] == ["valkey-replica"]
    assert stores.main(["--only", "oracle"]) == 2
    assert "no such store: oracle" in capsys.readouterr().err
