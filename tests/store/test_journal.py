"""The journal of the SQLite store: the newest events of running turns stand there for a second, and then in their logs."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from protocols.__main__ import main
from shared.errors import ChatError
from shared.events import TurnInterrupted
from shared.store.protocol import Moved, News, Options, Pushed, Started
from shared.store.record import Record
from shared.store.sqlite import store as sqlite_store
from shared.store.sqlite import tails
from shared.store.sqlite.salvage import problems
from shared.store.sqlite.store import SqliteStore
from shared.store.sqlite.worker import Operation, Outcome
from tests.store.suite import LEASE_S, appended, asked, chunks, end, entry, pass_s
from tests.store.test_damage import damage_pages, database


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    with contextlib.closing(connection):
        return connection.execute(query).fetchall()


def journaled(path: Path) -> int:
    return int(str(rows(path, "SELECT count(*) FROM journal WHERE turn_id <> ''")[0][0]))


async def started_turns(store: SqliteStore, count: int) -> list[Started]:
    return [await store.start_turn(asked(new_session_id=f"s{number}")) for number in range(count)]


async def records_of(store: SqliteStore, turn_id: str) -> list[Record]:
    found = await store.read(turn_id, 0)
    assert found is not None
    return found[1]


async def say(store: SqliteStore, turns: list[Started], first_seq: int, last_seq: int) -> None:
    """One event for each turn in each commit."""
    for seq in range(first_seq, last_seq + 1):
        batch = [entry(turn, chunks(turn.turn.turn_id, seq, f"word {seq} ")) for turn in turns]
        assert await appended(store, *batch) == [True] * len(turns)


@contextlib.contextmanager
def answer_lost(store: SqliteStore) -> Iterator[None]:
    """The store commits what is appended in this block, and the caller gets an error in place of the answer."""
    run_each = store._appending._run_each

    async def lose(operations: Sequence[Operation]) -> list[Outcome]:
        await run_each(operations)
        raise ChatError("storage_unavailable")

    store._appending._run_each = lose
    try:
        yield
    finally:
        store._appending._run_each = run_each


@pytest.fixture
def kept_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are moved and rows are dropped with nearly every commit."""
    monkeypatch.setattr(tails, "_MOVE_AFTER_MS", 0.0)
    monkeypatch.setattr(tails, "_TRIM_EVERY_MS", 0.0)


async def test_what_is_in_the_journal_is_in_the_log(tmp_path: Path) -> None:
    """For this process and for another one: the events, the text, the last seq, and where a turn stands."""
    path = tmp_path / "chat.db"
    store, other = SqliteStore(str(path)), SqliteStore(str(path))
    turns = await started_turns(store, 3)
    await say(store, turns, 2, 9)
    assert rows(path, "SELECT max(last_seq), count(*) FROM segments") == [(1, 3)]
    turn_id = turns[0].turn.turn_id
    for one in (store, other):
        assert [record.seq for record in await records_of(one, turn_id)] == list(range(1, 10))
        found = await one.read(turn_id, 4)
        assert found is not None
        assert (found[0].last_seq, [record.seq for record in found[1]]) == (9, [5, 6, 7, 8, 9])
        turn, text = await one.read_text(turn_id) or (None, "")
        assert turn is not None
        assert (turn.last_seq, text) == (9, "".join(f"word {seq} " for seq in range(2, 10)))
        assert [standing.last_seq for standing in await one.renew("me", [turn_id], [])] == [9]
        row = await one.get_turn(turn_id)
        assert row is not None
        assert row.last_seq == 9
    await store.close()
    await other.close()


async def test_an_end_takes_the_journal_along(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    turns = await started_turns(store, 2)
    await say(store, turns, 2, 9)
    await end(store, turns[0], "last", after=9)
    assert rows(path, f"SELECT first_seq, last_seq FROM segments WHERE turn_id = '{turns[0].turn.turn_id}'") == [
        (1, 1),
        (2, 11),
    ]
    assert [record.seq for record in await records_of(store, turns[0].turn.turn_id)] == list(range(1, 12))
    await store.close()


async def test_the_journal_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside a turn that says nothing more: its events are moved with the commits of the others."""
    monkeypatch.setattr(tails, "_MOVE_AFTER_MS", 50.0)
    monkeypatch.setattr(tails, "_TRIM_EVERY_MS", 10.0)
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    quiet, *turns = await started_turns(store, 6)
    await say(store, [quiet], 2, 3)
    most = 0
    for seq in range(2, 102, 2):
        await say(store, turns, seq, seq + 1)
        await asyncio.sleep(0.01)
        most = max(most, journaled(path))
    assert most < 250
    for turn in turns:
        assert len(await records_of(store, turn.turn.turn_id)) == 101
    assert len(await records_of(store, quiet.turn.turn_id)) == 3
    assert rows(path, f"SELECT max(last_seq) FROM segments WHERE turn_id = '{quiet.turn.turn_id}'") == [(3,)]
    await store.close()


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_commits_gives_the_log(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small and large entries, repeats, moves, ends and trims in any order; another process follows them without a gap."""
    chance = random.Random(seed)
    monkeypatch.setattr(tails, "_MOVE_AFTER_MS", chance.choice((0.0, 2.0, 20.0)))
    monkeypatch.setattr(tails, "_TRIM_EVERY_MS", chance.choice((0.0, 5.0)))
    path = tmp_path / "chat.db"
    store, other, third = [SqliteStore(str(path)) for _ in range(3)]
    turns = await started_turns(store, 5)
    said: dict[str, list[Record]] = {turn.turn.turn_id: await records_of(store, turn.turn.turn_id) for turn in turns}
    told: dict[str, int] = dict.fromkeys(said, 1)
    for turn_id in said:
        await other.follow(turn_id)
        await other.read(turn_id, 0)
    news = cast("AsyncGenerator[News, None]", other.news(lambda: True))

    async def listen() -> None:
        async with aclosing(news):
            async for one in news:
                if isinstance(one, Pushed):
                    # What another process is told follows what it was told before, or overlaps it.
                    assert one.first_seq <= told[one.turn_id] + 1, (one.first_seq, told)
                    for seq, line in enumerate(one.lines, one.first_seq):
                        # The end may be told before this test has noted it.
                        assert b"turn_completed" in line or line == said[one.turn_id][seq - 1].stored
                    told[one.turn_id] = max(told[one.turn_id], one.first_seq + len(one.lines) - 1)
                else:
                    assert not isinstance(one, Moved)

    listening = asyncio.create_task(listen())
    for _ in range(150):
        batch = []
        for turn in chance.sample(turns, chance.randint(1, 5)):
            turn_id = turn.turn.turn_id
            size = chance.choice((5, 5, 5, 5, 3000))
            texts = ["x" * size for _ in range(chance.choice((1, 1, 1, 3)))]
            records = chunks(turn_id, len(said[turn_id]) + 1, *texts)
            said[turn_id] += records
            batch.append(entry(turn, records))
        if chance.random() < 0.1:
            # The answer is lost, and the caller tries again: what is there already is not added.
            with pytest.raises(ChatError), answer_lost(store):
                await store.append(batch)
            others = [turn for turn in turns if turn.turn.turn_id not in {one.turn_id for one in batch}]
            for turn in others[: chance.randint(0, 2)]:
                # Meanwhile the journal is moved.
                records = chunks(turn.turn.turn_id, len(said[turn.turn.turn_id]) + 1, "in between")
                said[turn.turn.turn_id] += records
                assert await appended(store, entry(turn, records)) == [True]
        assert await appended(store, *batch) == [True] * len(batch)
        if chance.random() < 0.1:
            late = entry(turns[0], chunks(turns[0].turn.turn_id, len(said[turns[0].turn.turn_id]) + 2, "gap"))
            (refused,) = await store.append([late])
            assert (refused.done, refused.why) == (False, "behind")
            assert refused.last_seq == len(said[turns[0].turn.turn_id])
        if chance.random() < 0.2:
            turn_id = chance.choice(list(said))
            for one in (store, third):
                assert [record.stored for record in await records_of(one, turn_id)] == [r.stored for r in said[turn_id]]
                row = await one.get_turn(turn_id)
                assert row is not None
                assert row.last_seq == len(said[turn_id])
            await asyncio.sleep(0.001)
    for turn in turns[:2]:
        await end(store, turn, after=len(said[turn.turn.turn_id]))
        said[turn.turn.turn_id] = await records_of(store, turn.turn.turn_id)
    async with asyncio.timeout(10):
        while told != {turn_id: len(records) for turn_id, records in said.items()}:
            assert not listening.done(), listening.exception()
            await asyncio.sleep(0.02)
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    for turn_id, records in said.items():
        for one in (store, third):
            assert [record.stored for record in await records_of(one, turn_id)] == [record.stored for record in records]
    await store.close()
    await other.close()
    await third.close()


async def test_a_process_that_is_gone_leaves_everything_in_the_journal(tmp_path: Path, kept_short: None) -> None:
    """Another process ends its turns with all events and the whole text, and then drops the rows."""
    path = tmp_path / "chat.db"
    gone, store = SqliteStore(str(path), Options(lease_s=LEASE_S)), SqliteStore(str(path), Options(lease_s=LEASE_S))
    turns = [await gone.start_turn(asked(new_session_id=f"s{number}", owner="gone")) for number in range(3)]
    await say(gone, turns, 2, 30)
    await gone.close()
    assert set(await pass_s(store, LEASE_S * 1.5)) == {turn.turn.turn_id for turn in turns}
    for turn in turns:
        records = await records_of(store, turn.turn.turn_id)
        assert [record.seq for record in records] == list(range(1, 32))
        last = records[-1].event
        assert isinstance(last, TurnInterrupted)
        assert last.chunks == 29
        _, text = await store.read_text(turn.turn.turn_id) or (None, "")
        assert text == "".join(f"word {seq} " for seq in range(2, 31))
    await store.close()


async def test_what_a_process_has_left_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    turns = await started_turns(store, 2)
    await say(store, turns, 2, 20)
    await end(store, turns[0], after=20)
    await store.close()
    monkeypatch.setattr(sqlite_store, "_JOURNAL_OLD_S", 0.0)
    store = SqliteStore(str(path))
    for _ in range(3):
        while await store.purge():
            pass
    # The rows of the turn that is still running are kept.
    assert {turn_id for (turn_id,) in rows(path, "SELECT turn_id FROM journal")} == {turns[1].turn.turn_id}
    assert len(await records_of(store, turns[1].turn.turn_id)) == 20
    await store.close()


async def test_the_fence_holds_in_the_journal(tmp_path: Path) -> None:
    """A process whose turn another one has ended adds nothing more, and one that is asked to cancel learns it."""
    path = tmp_path / "chat.db"
    store, other = [SqliteStore(str(path), Options(lease_s=LEASE_S)) for _ in range(2)]
    ended, cancelled, kept = await started_turns(store, 3)
    await say(store, [ended, cancelled, kept], 2, 5)
    await other.cancel(cancelled.turn.turn_id, "other")
    await store.renew("me", [], [], [ended.turn.turn_id])
    assert await other.reap() == [ended.turn.turn_id]
    outcomes = await store.append([entry(turn, chunks(turn.turn.turn_id, 6, "x")) for turn in (ended, cancelled, kept)])
    assert [(one.done, one.why, one.cancel) for one in outcomes] == [
        (False, "fenced", False),
        (True, "", True),
        (True, "", False),
    ]
    assert len(await records_of(other, ended.turn.turn_id)) == 6
    await store.cancel(kept.turn.turn_id, "me")
    (outcome,) = await store.append([entry(kept, chunks(kept.turn.turn_id, 7, "x"))])
    assert outcome.cancel
    await store.close()
    await other.close()


async def test_a_damaged_page_costs_nothing_while_the_process_lives(tmp_path: Path, kept_short: None) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    turns = await started_turns(store, 3)
    for seq in range(2, 80):
        await say(store, turns, seq, seq)
    assert damage_pages(path, b"word", "journal")
    await say(store, turns, 80, 200)
    for turn in turns:
        assert [record.seq for record in await records_of(store, turn.turn.turn_id)] == list(range(1, 201))
        await end(store, turn, after=200)
    assert rows(path, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'journal%'") == [(2,)]
    await store.close()
    other = SqliteStore(str(path))
    for turn in turns:
        assert [record.seq for record in await records_of(other, turn.turn.turn_id)] == list(range(1, 202))
    await other.close()


async def test_a_damaged_page_of_a_process_that_is_gone(tmp_path: Path) -> None:
    """What only the damaged page had is lost, and the turns end all the same. The file can be exported."""
    path = tmp_path / "chat.db"
    gone = SqliteStore(str(path), Options(lease_s=LEASE_S))
    turns = [await gone.start_turn(asked(new_session_id=f"s{number}", owner="gone")) for number in range(3)]
    await say(gone, turns, 2, 60)
    await gone.close()
    assert damage_pages(path, b"word 40", "journal")
    assert problems(path)
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    assert set(await pass_s(store, LEASE_S * 1.5)) == {turn.turn.turn_id for turn in turns}
    for turn in turns:
        records = await records_of(store, turn.turn.turn_id)
        assert isinstance(records[-1].event, TurnInterrupted)
        assert records[-1].epoch == 1
    newer = await store.start_turn(asked(new_session_id="new"))
    await say(store, [newer], 2, 9)
    assert len(await records_of(store, newer.turn.turn_id)) == 9
    await store.close()


async def test_an_export_has_what_is_in_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    turns = await started_turns(store, 2)
    await say(store, turns, 2, 9)
    await end(store, turns[0], after=9)
    await store.close()
    assert main(["store", "export", "--file", str(path)]) == 0
    out = capsys.readouterr().out
    for turn, last in zip(turns, (10, 9), strict=True):
        seqs = [line for line in out.splitlines() if f'"turn_id": "{turn.turn.turn_id}", "seq": ' in line]
        assert len(seqs) == last


async def test_a_quiet_turn_in_a_damaged_journal(tmp_path: Path) -> None:
    """It says nothing while the journal is mended. Others read it all the same, also after its process is gone."""
    path = tmp_path / "chat.db"
    gone = SqliteStore(str(path), Options(lease_s=LEASE_S))
    turns = [await gone.start_turn(asked(new_session_id=f"s{number}", owner="gone")) for number in range(3)]
    await say(gone, turns, 2, 60)
    assert damage_pages(path, b"word", "journal")
    await say(gone, turns[:2], 61, 62)
    other = SqliteStore(str(path), Options(lease_s=LEASE_S))
    assert len(await records_of(other, turns[2].turn.turn_id)) == 60
    await say(gone, [turns[2]], 61, 62)
    assert len(await records_of(other, turns[2].turn.turn_id)) == 62
    await gone.close()
    assert len(await pass_s(other, LEASE_S * 1.5)) == 3
    for turn in turns:
        assert [record.seq for record in await records_of(other, turn.turn.turn_id)] == list(range(1, 64))
    await other.close()


async def test_another_process_puts_the_journal_aside(tmp_path: Path) -> None:
    """A process whose rows are gone with a damaged page adds the next events where readers find them, and keeps its newest rows."""
    path = tmp_path / "chat.db"
    store, other = [SqliteStore(str(path), Options(lease_s=LEASE_S)) for _ in range(2)]
    # The server has run for long, and its rows have large numbers.
    database(path, "INSERT INTO journal VALUES (5000000, 0, '', 0, 0, x'')")
    mine = await started_turns(store, 2)
    await say(store, mine, 2, 60)
    theirs = await other.start_turn(asked(new_session_id="theirs", owner="other"))
    assert damage_pages(path, b"word", "journal")
    await say(other, [theirs], 2, 3)
    assert rows(path, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'journal%'") == [(2,)]
    newer = await store.start_turn(asked(new_session_id="newer"))
    for seq in range(2, 6):
        store.clock_offset_ms += 150
        await say(store, [newer], seq, seq)
    assert len(await records_of(other, newer.turn.turn_id)) == 5
    store.clock_offset_ms += 1100
    await say(store, mine, 61, 70)
    store.clock_offset_ms += 1100
    await store.renew("me", [turn.turn.turn_id for turn in mine], [])
    for turn in mine:
        for one in (store, other):
            assert [record.seq for record in await records_of(one, turn.turn.turn_id)] == list(range(1, 71))
    await store.close()
    await other.close()


async def test_an_idle_process_moves_what_is_old(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path))
    turns = await started_turns(store, 2)
    await say(store, turns, 2, 9)
    store.clock_offset_ms += 1100
    await store.renew("me", [turn.turn.turn_id for turn in turns], [])
    assert rows(path, "SELECT max(last_seq), count(*) FROM segments") == [(9, 4)]
    await store.close()


async def test_a_turn_that_was_given_up_gets_no_lease_with_its_events(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store, other = [SqliteStore(str(path), Options(lease_s=LEASE_S)) for _ in range(2)]
    dropped, kept = await started_turns(store, 2)
    await say(store, [dropped, kept], 2, 9)
    await store.renew("me", [kept.turn.turn_id], [], [dropped.turn.turn_id])
    store.clock_offset_ms += 1100
    await say(store, [kept], 10, 10)
    assert rows(path, "SELECT min(last_seq) FROM turns") == [(9,)]
    assert await other.reap() == [dropped.turn.turn_id]
    await store.close()
    await other.close()


async def test_an_entry_that_is_damaged_takes_nothing_along(tmp_path: Path) -> None:
    """The end of a turn meets a damaged page elsewhere. What was committed before stays, and another process ends the turn."""
    path = tmp_path / "chat.db"
    store, other = [SqliteStore(str(path), Options(lease_s=LEASE_S)) for _ in range(2)]
    bad, good = await started_turns(store, 2)
    await say(store, [bad, good], 2, 20)
    connection = apsw.Connection(str(path))
    connection.execute(
        f"CREATE TRIGGER fails BEFORE UPDATE ON sessions WHEN new.session_id = '{bad.turn.session_id}'"
        " BEGIN SELECT raise(ABORT, 'planted'); END"
    )
    connection.close()
    with pytest.raises(AssertionError):
        await end(store, bad, after=20)
    for seq in range(21, 25):
        store.clock_offset_ms += 400
        await say(store, [good], seq, seq)
    await store.renew("me", [good.turn.turn_id], [], [bad.turn.turn_id])
    assert await other.reap() == [bad.turn.turn_id]
    for one in (store, other):
        assert [record.seq for record in await records_of(one, bad.turn.turn_id)] == list(range(1, 22))
    await store.close()
    await other.close()


async def test_a_mend_waits_for_the_append_that_runs(tmp_path: Path) -> None:
    """An entry that is appended while the journal is mended is in the store afterwards, in its order."""
    path = tmp_path / "chat.db"
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    (turn,) = await started_turns(store, 1)
    await say(store, [turn], 2, 60)
    assert damage_pages(path, b"word", "journal")
    mending = [asyncio.create_task(store._appending.mend(1e15)) for _ in range(2)]
    for seq in range(61, 70):
        await say(store, [turn], seq, seq)
    await asyncio.gather(*mending)
    assert rows(path, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'journal%'") == [(2,)]
    assert [record.seq for record in await records_of(store, turn.turn.turn_id)] == list(range(1, 70))
    await store.close()


async def test_a_mend_looks_at_the_journal_between_two_appends(tmp_path: Path) -> None:
    """While an append runs, nobody knows what the journal has. The mend begins when the append has ended."""
    store = SqliteStore(f"{tmp_path}/chat.db")
    (turn,) = await started_turns(store, 1)
    run_each, read = store._appending._run_each, store._appending._reader.run
    runs, goes_on = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def wait(operations: Sequence[Operation]) -> list[Outcome]:
        runs.set()
        await goes_on.wait()
        outcomes = await run_each(operations)
        order.append("appended")
        return outcomes

    async def note(operation: Callable[[apsw.Connection], Any]) -> Any:
        order.append("looked")
        return await read(operation)

    store._appending._run_each = wait
    store._appending._reader.run = note  # type: ignore[method-assign, assignment]
    appending = asyncio.create_task(appended(store, entry(turn, chunks(turn.turn.turn_id, 2, "word"))))
    await runs.wait()
    mending = asyncio.create_task(store._appending.mend(1e15))
    await asyncio.sleep(0.05)
    goes_on.set()
    assert await appending == [True]
    assert await mending is False
    assert order[0] == "appended"
    assert "looked" in order
    await store.close()


async def test_what_can_be_read_of_a_damaged_journal_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a process that is gone, too. The text of a turn with a damaged segment is what stands in the journal."""
    path = tmp_path / "chat.db"
    gone = SqliteStore(str(path), Options(lease_s=LEASE_S))
    turns = [await gone.start_turn(asked(new_session_id=f"s{number}", owner="gone")) for number in range(3)]
    await say(gone, turns, 2, 80)
    await gone.close()
    assert damage_pages(path, b"word 40", "journal")
    store = SqliteStore(str(path), Options(lease_s=LEASE_S))
    assert len(await pass_s(store, LEASE_S * 1.5)) == 3
    for turn in turns:
        records = await records_of(store, turn.turn.turn_id)
        assert 20 < len(records) < 60
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        _, text = await store.read_text(turn.turn.turn_id) or (None, "")
        assert text.startswith("word 2 word 3 ")
    await store.close()
    assert main(["store", "export", "--file", str(path)]) == 0
    capsys.readouterr()
