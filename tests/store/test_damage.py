"""A damaged store: a damaged log affects no other turn, and an unusable file is refused with a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import apsw
import pytest

from protocols.__main__ import main
from shared.errors import ChatError
from shared.events import TurnInterrupted, now_ms
from shared.store.open import open_store
from shared.store.protocol import Damaged, Options
from shared.store.sqlite.store import SqliteStore
from tests.store.suite import (
    LEASE_S,
    NOW,
    appended,
    asked,
    chunks,
    entry,
    log,
    messages_of,
    new_session,
    pass_s,
    talk,
)

BAD_LINES = (b"\x00\xff\x00", b"[]", b'{"type":"chunk"', b"", b'{"type":"turn_started"}\n{"type":"chunk"}')


def database(path: Path, *statements: str) -> None:
    """Change the file without the store."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def damage_log(path: Path, turn_id: str, lines: bytes = BAD_LINES[0]) -> None:
    database(path, f"UPDATE segments SET lines = x'{lines.hex()}' WHERE turn_id = '{turn_id}' AND first_seq = 1")


def damage_pages(path: Path, needle: bytes, name: str = "segments", kind: str = "leaf") -> int:
    """Make the cell pointers of every page of a table or an index that holds ``needle`` point nowhere, and return the
    number of pages. ``kind`` of a page: ``leaf``, ``internal``.
    """
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = ?"
    starts = [(page - 1) * 4096 for (page,) in connection.execute(query, (name, kind))]
    connection.close()
    data, count = bytearray(path.read_bytes()), 0
    for start in starts:
        if needle in data[start : start + 4096]:
            data[start + 8 : start + 28] = b"\xff" * 20
            count += 1
    path.write_bytes(data)
    return count


@pytest.mark.parametrize("lines", BAD_LINES)
async def test_a_log_that_is_no_log_ends_its_turn_and_costs_no_other(tmp_path: Path, lines: bytes) -> None:
    """The orphan with the damaged log and the healthy orphan are interrupted, and their readable text is kept."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    bad, good = [await store.start_turn(asked(new_session_id=name, owner="gone")) for name in ("bad", "good")]
    for started in (bad, good):
        assert await appended(store, entry(started, chunks(started.turn.turn_id, 2, "a", "b"))) == [True]
    damage_log(path, bad.turn.turn_id, lines)
    assert set(await pass_s(store, LEASE_S * 1.5)) == {bad.turn.turn_id, good.turn.turn_id}
    assert isinstance((await log(store, good.turn.turn_id))[-1], TurnInterrupted)
    with pytest.raises(Damaged):
        await store.read(bad.turn.turn_id, 0)
    for name in ("bad", "good"):
        assert [message.text for message in await messages_of(store, name)] == ["Hi", "ab"]
        assert (await talk(store, name, "Go on", "on")).context[1].text == "ab"
    await store.close()


async def test_pages_that_cannot_be_read_cost_their_turns_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    text = "x" * 3000
    bad = await store.start_turn(asked(new_session_id="bad", owner="gone"))
    for seq in range(2, 12):
        await store.append([entry(bad, chunks(bad.turn.turn_id, seq, text))])
    others = [await store.start_turn(asked(new_session_id=f"other {number}", owner="gone")) for number in range(300)]
    await store.close()
    assert damage_pages(path, bad.turn.turn_id.encode())
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    ended = await pass_s(store, LEASE_S * 1.5)
    assert set(ended) == {started.turn.turn_id for started in (bad, *others)}
    turn = await store.get_turn(bad.turn.turn_id)
    assert turn is not None
    assert turn.status == "interrupted"
    # A new turn whose id belongs on a damaged page is refused. Another id belongs elsewhere.
    recorded = 0
    for number in range(20):
        with contextlib.suppress(Damaged):
            await store.start_turn(asked(new_session_id=f"fresh {number}"))
            recorded += 1
    assert recorded
    await store.close()


async def test_logs_that_nobody_can_find_cost_no_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page above all logs is damaged: the store is opened all the same, and says so once."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    session_id = await new_session(store)
    ended = [await talk(store, session_id, f"one {number}", "x" * 2000) for number in range(5)]
    orphan = await store.start_turn(asked(new_session_id="orphan", owner="gone"))
    await store.close()
    assert damage_pages(path, b"", kind="internal") == 1
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    assert "the events of 6 turns lay on damaged pages" in store.notice
    for started in ended:
        with pytest.raises(Damaged):
            await store.read(started.turn.turn_id, 0)
    assert len(await messages_of(store, session_id)) == 10
    assert await pass_s(store, LEASE_S * 1.5) == [orphan.turn.turn_id]
    newer = await talk(store, session_id, "two", "2")
    assert [event.seq for event in await log(store, newer.turn.turn_id)] == [1, 2, 3]
    await store.close()
    store = SqliteStore(str(path))
    assert store.notice == ""
    assert len(await log(store, newer.turn.turn_id)) == 3
    await store.close()
    assert main(["store", "export", "--file", str(path)]) == 0
    assert '"text": "2"' in capsys.readouterr().out


async def test_a_log_without_its_end_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    started = await talk(store, await new_session(store), "one", "1")
    database(path, "DELETE FROM segments WHERE first_seq > 1")
    with pytest.raises(Damaged):
        await store.read(started.turn.turn_id, 0)
    await store.close()


async def test_a_page_of_turns_costs_no_other_turn(tmp_path: Path) -> None:
    """An orphan that cannot be read stays as it is; the other orphans are ended, and the sessions are listed."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    marks = ["bad" + "x" * 3000, *["good" + "x" * 3000] * 5]
    orphans = [
        await store.start_turn(asked(mark, new_session_id=f"s {number}", owner="gone"))
        for number, mark in enumerate(marks)
    ]
    await store.close()
    assert damage_pages(path, b"badxxx", "turns") == 1
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    turn_ids = [started.turn.turn_id for started in orphans]
    assert set(await store.owned("gone")) == set(turn_ids[1:])
    assert set(await pass_s(store, LEASE_S * 1.5)) == set(turn_ids[1:])
    page, _ = await store.list_sessions(10, None, 0.0)
    assert {session.session_id for session in page} == {f"s {number}" for number in range(6)}
    assert [bool(session.title) for session in page].count(False) == 1
    await store.close()


@pytest.mark.parametrize("name", ["sessions_by_use", "turns_of_session", "turns_running", "session_counts"])
async def test_a_store_that_takes_no_turn_of_a_session_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    await talk(store, await new_session(store), "one", "1")
    await store.start_turn(asked(new_session_id="running"))
    await store.close()
    assert damage_pages(path, b"", name)
    with pytest.raises(ValueError, match="is damaged; `python -m protocols store check`"):
        open_store(f"sqlite:///{path}")


async def test_an_append_that_fails_costs_the_others_of_its_commit_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    bad, good = [await store.start_turn(asked(new_session_id=name)) for name in ("bad", "good")]
    database(
        path,
        "CREATE TRIGGER fails BEFORE INSERT ON segments"
        f" WHEN new.turn_id = '{bad.turn.turn_id}' BEGIN SELECT raise(ABORT, 'planted'); END",
    )
    batch = [entry(started, chunks(started.turn.turn_id, 2, "a")) for started in (bad, good)]
    assert [(outcome.done, outcome.why) for outcome in await store.append(batch)] == [(False, "damaged"), (True, "")]
    # The operation that failed has changed nothing.
    row = await store.get_turn(bad.turn.turn_id)
    assert row is not None
    assert (row.last_seq, row.status) == (1, "running")
    await store.close()


async def test_what_waits_for_one_operation_is_not_undone_by_another(tmp_path: Path) -> None:
    """Operations that are run together in one transaction fail alone."""
    store = SqliteStore(str(tmp_path / "chat.db"))
    done = await asyncio.gather(
        *(store.create_session(name, None, 1.0) for name in ("one", "two", "one", "three")), return_exceptions=True
    )
    assert [type(outcome).__name__ for outcome in done] == ["NoneType", "NoneType", "Damaged", "NoneType"]
    for name in ("one", "two", "three"):
        assert await store.get_session(name) is not None
    await store.close()


async def test_a_file_that_is_deleted_or_replaced_takes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    session_id = await new_session(store)
    await store.check_write()
    path.rename(tmp_path / "moved.db")
    for write in (store.check_write(), store.start_turn(asked(session_id=session_id))):
        with pytest.raises(ChatError, match="deleted or replaced"):
            await write
    await SqliteStore(str(path)).close()
    with pytest.raises(ChatError, match="deleted or replaced"):
        await store.check_write()
    await store.close()


async def test_a_store_that_lacks_a_column_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    database(path, "ALTER TABLE turns DROP COLUMN input")
    with pytest.raises(ChatError, match="storage_unavailable"):
        await store.check_write()
    await store.close()
    with pytest.raises(ValueError, match="other tables than this program makes; set STORE_URL"):
        open_store(f"sqlite:///{path}")


async def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """The header is whole, and the pages are gone."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    await talk(store, await new_session(store), "one", "1")
    await store.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))
    with pytest.raises(ValueError, match=r"is damaged; `python -m protocols store check`.*store export") as refusal:
        open_store(f"sqlite:///{path}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["CREATE TABLE theirs (x)"], "belongs to another program"),
        (["PRAGMA application_id = 77", "CREATE TABLE turns (x)", "CREATE TABLE segments (x)"], "another program"),
        (["PRAGMA user_version = 2", "CREATE TABLE theirs (x)"], "belongs to another program"),
        (["PRAGMA user_version = 99"], "another version of this program"),
    ],
)
def test_a_foreign_database_is_not_touched(tmp_path: Path, statements: list[str], words: str) -> None:
    path = tmp_path / "theirs.db"
    database(path, *statements)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"STORE_URL: .*{words}.*another file"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before


async def test_a_damaged_list_of_free_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    await talk(store, await new_session(store), "one", "1")
    await store.close()
    data = bytearray(path.read_bytes())
    # The header names page 5 as the first of three free pages, and a table lies there.
    data[32:40] = (5).to_bytes(4) + (3).to_bytes(4)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        open_store(f"sqlite:///{path}")


def test_what_is_no_file_is_refused_in_words(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ValueError, match="is a folder, a pipe or a device and no file; set STORE_URL"):
            open_store(f"sqlite:///{path}")


async def test_damage_does_not_stop_the_purge(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path), Options(retention_s=10, tombstone_s=10))
    session_id = await new_session(store)
    bad = await talk(store, session_id, "one", "1")
    damage_log(path, bad.turn.turn_id)
    for seconds in (11, 22):
        store.clock_offset_ms = NOW - now_ms() + seconds * 1000
        for _ in range(20):
            await store.purge()
    assert await store.get_turn(bad.turn.turn_id) is None
    assert [message.text for message in await messages_of(store, session_id)] == ["one", "1"]
    await store.close()
