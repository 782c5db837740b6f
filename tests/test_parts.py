"""The table of borrowed parts: each part has a command that installs it, and a missing part is a named skip or a failure."""

from __future__ import annotations

import json

import pytest

from tests import parts
from tests.parts import PARTS, TESTS, Part, part

ABSENT = Part("absent", "tool", "apt", "no-such-package", ("no-such-program",))


def test_a_missing_part_is_a_skip_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "absent", ABSENT)
    monkeypatch.delenv("REQUIRE_PARTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="absent is not installed: apt install no-such-package"):
        part("absent")


def test_a_missing_part_fails_where_every_part_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "absent", ABSENT)
    monkeypatch.setenv("REQUIRE_PARTS", "1")
    with pytest.raises(pytest.fail.Exception, match="absent is not installed"):
        part("absent")


def test_a_part_has_a_path_and_a_version() -> None:
    found = part("playwright")
    assert found.path.exists()
    assert found.version[0].isdecimal()


def test_npm_installs_each_package_of_the_table() -> None:
    for row in PARTS.values():
        if row.source == "npm":
            wanted = json.loads((TESTS / row.folder / "package.json").read_text(encoding="utf-8"))["dependencies"]
            assert row.package in wanted, row.name


def test_the_page_lists_the_parts_that_the_tests_ask_for() -> None:
    """The versions are not compared: they are those of the machine that wrote the page."""

    def rows(text: str) -> list[list[str]]:
        cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
        return [row[:4] + row[5:] for row in cells]

    page = parts.PAGE.read_text(encoding="utf-8")
    assert rows(page) == rows(parts.table()), "python -m tests.parts"
    assert parts.made(page, parts.table()).count("<!-- made") == 1
    assert len(rows(page)) > 10
    assert "not on this machine" not in page
