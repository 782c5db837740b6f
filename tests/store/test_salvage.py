"""``store check`` and ``store export``: a whole file, a damaged page, pages that are gone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from protocols.__main__ import main
from shared.store.sqlite.store import SqliteStore
from tests.store.suite import new_session, talk
from tests.store.test_damage import damage_pages


async def filled(path: Path) -> tuple[str, list[str]]:
    store = SqliteStore(str(path))
    session_id = await new_session(store)
    turn_ids = [(await talk(store, session_id, f"one {n}", "x" * 900)).turn.turn_id for n in range(40)]
    await store.close()
    return session_id, turn_ids


def exported(capsys: pytest.CaptureFixture[str], path: Path) -> list[dict[str, object]]:
    assert main(["store", "export", "--file", str(path)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_a_whole_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.db"
    session_id, turn_ids = await filled(path)
    before = path.read_bytes()
    assert main(["store", "check", "--file", str(path)]) == 0
    assert "is whole" in capsys.readouterr().out
    lines = exported(capsys, path)
    assert [line["session_id"] for line in lines if line.get("table") == "sessions"] == [session_id]
    assert [line["turn_id"] for line in lines if line.get("table") == "turns"] == turn_ids
    assert len([line for line in lines if "seq" in line]) == 3 * len(turn_ids)
    assert path.read_bytes() == before


async def test_a_damaged_page_costs_what_lies_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.db"
    _, turn_ids = await filled(path)
    assert damage_pages(path, turn_ids[7].encode())
    assert main(["store", "check", "--file", str(path)]) == 1
    assert "store export" in capsys.readouterr().err
    lines = exported(capsys, path)
    assert [line["turn_id"] for line in lines if line.get("table") == "turns"] == turn_ids
    whole = {line["turn_id"] for line in lines if line.get("type") == "turn_completed"}
    assert turn_ids[7] not in whole
    assert len(whole) > len(turn_ids) // 2


async def test_what_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.db"
    assert main(["store", "check", "--file", str(path)]) == 2
    await filled(path)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))
    assert main(["store", "check", "--file", str(path)]) == 1
    assert main(["store", "export", "--file", str(path)]) == 0


async def test_a_file_that_has_lost_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.db"
    _, turn_ids = await filled(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - 4096])
    assert main(["store", "check", "--file", str(path)]) == 1
    capsys.readouterr()
    lines = exported(capsys, path)
    assert len([line for line in lines if line.get("type") == "turn_completed"]) > len(turn_ids) // 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("what", ["check", "export"])
def test_a_full_disk_is_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "chat.db"
    asyncio.run(filled(path))
    command = [sys.executable, "-m", "protocols", "store", what, "--file", str(path)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("content", [b"some text\n" * 100, b"SQLite format 3\0"])
def test_what_is_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert main(["store", "export", "--file", str(path)]) == 1
    assert "cannot be read (NotADBError)" in capsys.readouterr().err


def test_a_name_that_no_file_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", "--file", str(tmp_path / ("n" * 300))]) == 2
    assert "cannot be the name of a file" in capsys.readouterr().err
