"""A damaged store: a damaged log affects no other turn, and an unusable file is refused with a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import apsw
import pytest

from protocols.__main__ import main
from shared.errors import ChatError
from shared.events import TurnInterrupted, now_ms
from shared.store.open import open_store
from shared.store.protocol import Damaged, Moved, News, Options, Pushed
from shared.store.sqlite.leases import select_orphans
from shared.store.sqlite.salvage import problems
from shared.store.sqlite.store import SqliteStore
from tests.store.suite import (
    LEASE_S,
    NOW,
    appended,
    asked,
    chunks,
    end,
    entry,
    log,
    messages_of,
    new_session,
    pass_s,
    purge_all,
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
    """Give every page of a table or an index that holds ``needle`` a type that no page has, and return the number of pages.
    ``kind`` of a page: ``leaf``, ``internal``.
    """
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = ?"
    starts = [(page - 1) * 4096 for (page,) in connection.execute(query, (name, kind))]
    connection.close()
    data, count = bytearray(path.read_bytes()), 0
    for start in starts:
        if needle in data[start : start + 4096]:
            data[start] = 0xFF
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


UNUSABLE = {
    "above all logs": [("segments", "internal", b"")],
    "above all turns": [("turns", "internal", b"")],
    "numbers of signals": [("sqlite_sequence", "leaf", b"")],
    "ids of turns": [("sqlite_autoindex_turns_1", "leaf", b"")],
    "sessions": [("sessions", "leaf", b""), ("sessions_by_use", "leaf", b"")],
    "a turn and indexes": [
        ("turns", "leaf", b"one 3"),
        *((name, "leaf", b"") for name in ("turns_running", "turns_of_session", "turns_by_end", "session_counts")),
    ],
}


@pytest.mark.parametrize("pages", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_store_that_takes_no_turn_is_written_anew(
    tmp_path: Path, pages: list[tuple[str, str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A server starts, has the conversations and ends the orphan. The damaged file stays for the export."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    session_id = await new_session(store)
    ended = [await talk(store, session_id, f"one {number}" + "x" * 2500, "y") for number in range(6)]
    orphan = await store.start_turn(asked(new_session_id="orphan", owner="gone"))
    cleared = await talk(store, await new_session(store), "cleared", "y")
    assert cleared.turn.session_id is not None
    await store.clear_session(cleared.turn.session_id, "me", NOW)
    last_signal = await store.last_signal()
    await store.close()
    for name, kind, needle in pages:
        assert damage_pages(path, needle, name, kind)
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    assert "the database was written anew" in store.notice
    assert problems(path) == []
    assert await store.last_signal() >= last_signal
    texts = [message.text for message in await messages_of(store, session_id)]
    assert texts == [text for number in range(6) for text in (f"one {number}" + "x" * 2500, "y")]
    with contextlib.suppress(ChatError):  # a session without messages is gone with its page
        assert await messages_of(store, cleared.turn.session_id) == []
    for started in ended:
        with pytest.raises(Damaged) if pages[0][0] == "segments" else contextlib.nullcontext():
            assert len(await log(store, started.turn.turn_id)) == 3
    assert await pass_s(store, LEASE_S * 1.5) == [orphan.turn.turn_id]
    newer = await store.start_turn(asked(session_id=session_id, max_context_chars=10_000))
    assert newer.context[-1].text == "y"
    await end(store, newer, "2")
    assert len(await log(store, newer.turn.turn_id)) == 3
    await store.close()
    store = SqliteStore(str(path))
    assert store.notice == ""
    await store.close()
    assert main(["store", "export", "--file", f"{path}.damaged-1"]) == 0
    capsys.readouterr()


async def test_servers_that_start_together_write_a_store_anew_once(tmp_path: Path) -> None:
    """A connection that was open before reads and writes the new tables."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    started = await talk(store, await new_session(store), "one", "1")
    await store.close()
    damage_pages(path, b"", "sqlite_sequence")
    before = apsw.Connection(str(path))
    count = "SELECT count(*) FROM turns"
    assert before.execute(count).fetchall() == [(1,)]
    stores = await asyncio.gather(*(asyncio.to_thread(SqliteStore, str(path)) for _ in range(3)))
    assert [bool(store.notice) for store in stores].count(True) == 1
    await talk(stores[0], started.turn.session_id or "", "two", "2")
    assert before.execute(count).fetchall() == [(2,)]
    before.execute("UPDATE turns SET last_read_at = 0")
    before.close()
    for one in stores:
        assert len(await log(one, started.turn.turn_id)) == 3
        await one.close()


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


async def test_a_damaged_page_costs_the_other_turns_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    bad, good = [await store.start_turn(asked(mark + "x" * 3000, new_session_id=mark)) for mark in ("bad", "good")]
    await store.start_turn(asked("x" * 3000, owner="another", new_session_id="another"))
    await store.close()
    assert damage_pages(path, b"badxxx", "turns") == 1
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    before = await store.get_turn(good.turn.turn_id)
    store.clock_offset_ms += 500
    standings = await store.renew("me", [bad.turn.turn_id, good.turn.turn_id], [good.turn.turn_id])
    assert [(standing.done, standing.why) for standing in standings] == [(False, "damaged"), (True, "")]
    after = await store.get_turn(good.turn.turn_id)
    assert before is not None
    assert after is not None
    assert after.lease > before.lease
    await store.close()


async def test_owners_on_a_damaged_page_share_the_limit(tmp_path: Path) -> None:
    """Two processes that are gone have more orphans than one look ends, and each of them has one on a damaged page."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    for number, owner in enumerate(["one"] * 4 + ["two"] * 4):
        mark = "bad" if number in (1, 5) else "good"
        await store.start_turn(asked(mark + "x" * 3000, new_session_id=f"s {number}", owner=owner))
    await store.close()
    assert damage_pages(path, b"badxxx", "turns") == 2
    connection = apsw.Connection(str(path))
    for limit, owners in ((2, ["one"] * 2), (4, ["one"] * 3 + ["two"]), (9, ["one"] * 3 + ["two"] * 3)):
        orphans = select_orphans(connection, {"one": math.inf, "two": math.inf}, limit)
        assert [orphan.owner for orphan in orphans] == owners
    connection.close()


async def test_a_page_of_messages_costs_no_other_message(tmp_path: Path) -> None:
    """A session of which one turn cannot be read shows the others, and takes new turns."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    session_id = await new_session(store)
    for mark in ("first", "bad", "third"):
        await talk(store, session_id, mark + "x" * 3000, mark)
    await talk(store, await new_session(store), "x" * 3000, "")
    await store.close()
    assert damage_pages(path, b"badxxx", "turns") == 1
    store = SqliteStore(str(path))
    assert [message.text[:5] for message in await messages_of(store, session_id)] == ["first"] * 2 + ["third"] * 2
    newer = await store.start_turn(asked(session_id=session_id, max_context_chars=10_000))
    assert [message.text[:5] for message in newer.context] == ["first"] * 2 + ["third"] * 2
    await end(store, newer, "2")
    with pytest.raises(Damaged, match=r"start a new session\. .*store check"):
        await store.delete_session(session_id, "me", NOW)
    await store.close()


async def test_a_page_of_logs_costs_no_other_follower(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    bad, good = [await store.start_turn(asked(new_session_id=name)) for name in ("bad", "good")]
    for started in (bad, good):
        for seq in range(2, 6):
            await store.append([entry(started, chunks(started.turn.turn_id, seq, "x" * 3000))])
    # A page of logs has some 30 short ones, and an insert that needs room reads the pages beside its own. Among few turns every
    # try of the server's check of writes would meet the damaged page.
    for number in range(500):
        await store.start_turn(asked(new_session_id=f"other {number}"))
    await store.close()
    assert damage_pages(path, bad.turn.turn_id.encode())
    store = SqliteStore(str(path))
    assert store.notice == ""
    for started in (bad, good):
        await store.follow(started.turn.turn_id)
    found: set[str] = set()
    news = cast("AsyncGenerator[News, None]", store.news(lambda: True))
    async with asyncio.timeout(10), aclosing(news):
        async for one in news:
            if isinstance(one, Moved | Pushed):
                found.add(one.turn_id)
            if len(found) == 2:
                break
    await store.close()


async def test_an_append_that_fails_costs_the_others_of_its_commit_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    bad, good = [await store.start_turn(asked(new_session_id=name)) for name in ("bad", "good")]
    for table in ("segments", "journal"):
        database(
            path,
            f"CREATE TRIGGER fails_{table} BEFORE INSERT ON {table}"
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


async def test_a_damaged_list_of_free_pages_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    started = await talk(store, await new_session(store), "one", "1")
    await store.close()
    data = bytearray(path.read_bytes())
    # The header names page 5 as the first of three free pages, and a table lies there.
    data[32:40] = (5).to_bytes(4) + (3).to_bytes(4)
    path.write_bytes(data)
    store = SqliteStore(str(path))
    assert store.notice
    assert len(await log(store, started.turn.turn_id)) == 3
    await store.close()


def test_what_is_no_file_is_refused_in_words(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ValueError, match="is a folder, a pipe or a device and no file; set STORE_URL"):
            open_store(f"sqlite:///{path}")


async def test_a_page_of_old_turns_stops_the_purge_until_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    options = Options(retention_s=10, tombstone_s=10)
    store = SqliteStore(str(path), options)
    session_id = await new_session(store)
    for mark in ("first", "bad", "third", "last"):
        await talk(store, session_id, mark + "x" * 3000, mark)
    await store.close()
    database(path, "UPDATE turns SET ended_at = 1")
    assert damage_pages(path, b"badxxx", "turns") == 1
    store = SqliteStore(str(path), options)
    assert store.notice
    assert len(await messages_of(store, session_id)) == 8
    await purge_all(store)
    await store.close()


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
