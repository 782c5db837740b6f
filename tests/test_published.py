"""The short page of results: its first table, what TLS changed, and the parts of other commands."""

from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import pytest

from compare import results as command
from compare.measuring.statistics import Figure
from compare.showing import facts, section
from compare.showing.published import README, page, readme_table
from compare.showing.results import Results, read

RUN = Path(__file__).parent.parent / "compare" / "two_runs" / "first"
SECTION = section.Section(
    name="factors", title="What costs what", about="The factors.", heads=["a"], rows=[["1"]], sentences=["Nothing."]
)


def encrypted(plain: Results) -> Results:
    """The same run over TLS, in which one figure is twice what it was."""
    run = copy.deepcopy(plain)
    run.tls = True
    run.experiments["throughput"].figures["sse"]["server_us"] = Figure(90.0, 88.0, 92.0, 6, 92.0)
    return run


def test_the_page_says_what_tls_changed_and_nothing_else() -> None:
    plain = read(RUN)
    text = page(plain, encrypted(plain), [SECTION])
    (changed,) = [line for line in text.splitlines() if line.startswith("- Beside the plain run")]
    assert changed.startswith("- Beside the plain run: Throughput, server CPU: Server-Sent Events +")
    assert "NDJSON" not in changed
    assert max(line.count("|") for line in text.splitlines()) == 2 + 5, "a wider table does not fit GitHub's page"
    assert "## What costs what\n\nThe factors.\n\n- Nothing." in text
    same = copy.deepcopy(plain)
    same.tls = True
    assert "nothing changed by as much as matters" in page(plain, same)
    assert "## Over TLS" not in page(plain)


def test_the_guide_and_the_readme_read_the_first_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = read(RUN)
    text = page(plain, encrypted(plain))
    (tmp_path / facts.PUBLISHED).write_text(text, encoding="utf-8")
    monkeypatch.setattr(facts, "files", lambda _: tmp_path)
    found = facts.published()
    for experiment, metric in README.values():
        for lane in plain.lanes:
            there = plain.experiments[experiment].figure(lane, metric)
            assert found.median(experiment, metric, lane) == (there and pytest.approx(there.median, rel=0.01, abs=0.01))
    rows = readme_table(text).splitlines()
    assert len(rows) == 2 + len(plain.lanes)
    assert {row.count("|") for row in rows} == {2 + len(README)}
    with pytest.raises(ValueError, match="no table"):
        readme_table("# Nothing")


def test_the_command_takes_a_folder_of_compare_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = read(RUN)
    (tmp_path / "tls").mkdir()
    for folder, run in ((tmp_path, plain), (tmp_path / "tls", encrypted(plain))):
        (folder / "results.json").write_bytes(msgspec.json.encode(run))
    section.write(tmp_path, "factors", [SECTION], [])
    out = tmp_path / "results.md"
    assert command.main([str(tmp_path), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert "## Over TLS" in text
    assert "## What costs what" in text

    assert command.main([str(tmp_path / "tls")]) == 2
    assert "without TLS" in capsys.readouterr().err
    assert command.main([str(tmp_path / "nothing")]) == 2
    assert "python -m compare run" in capsys.readouterr().err
    assert command.main([str(tmp_path), "--out", str(tmp_path / "no" / "results.md")]) == 2
    assert "cannot be written" in capsys.readouterr().err
