"""A store that goes back while it is read: SQLite, whose newest commits are deleted when the turn's owner is dead."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from shared.chat.turn_log import Reader, TurnLog
from shared.chat.turn_logs import TurnLogs
from shared.errors import ChatError
from shared.events import CursorLost, TurnInterrupted
from shared.store.protocol import TurnRow
from shared.store.record import Record
from tests.conftest import until
from tests.service.scripted import Here, Serve, Stepwise, refused, seq_is, silent


async def seqs(reader: Reader) -> list[int]:
    """The seqs of all events that the reader gives."""
    return [record.seq async for records in reader for record in records]


async def said(there: Here, play: Stepwise, count: int) -> str:
    """A turn with so many chunks, each committed for itself; its id."""
    turn = await there.service.start_chat("Hi", request_id="the-key")
    for number in range(count):
        play.say(f"{number} ")
        await until(lambda: seq_is(there.service, turn.turn_id, number + 2))  # noqa: B023
    return turn.turn_id


async def die(there: Here) -> None:
    """Stop a process without an end of its turns; its leases are no longer renewed."""
    await there.service.abandon()
    await there.store.close()


def forget(store: Path, last_seq: int) -> None:
    """Take the log of the one turn back to ``last_seq``."""
    with closing(sqlite3.connect(store)) as connection, connection:
        in_log = connection.execute("SELECT turn_id, last_seq, lines FROM segments ORDER BY first_seq").fetchall()
        newer = connection.execute(
            "SELECT turn_id, last_seq, lines FROM journal WHERE first_seq > ? ORDER BY number", (in_log[-1][1],)
        ).fetchall()
        lines = b"\n".join(row[2] for row in [*in_log, *newer]).split(b"\n")
        connection.execute("DELETE FROM segments")
        connection.execute("DELETE FROM journal")
        kept = (in_log[0][0], 1, last_seq, b"\n".join(lines[:last_seq]))
        connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?)", kept)
        connection.execute("UPDATE turns SET last_seq = ?", (last_seq,))


async def test_readers_of_a_store_that_goes_back(serve: Serve, tmp_path: Path) -> None:
    play = Stepwise()
    async with serve(play) as there, serve(silent) as here:
        turn_id = await said(there, play, 6)
        with await here.service.open(turn_id, 0) as ahead, await here.service.open(turn_id, 3) as behind:
            assert [record.seq for record in await anext(ahead)] == [1, 2, 3, 4, 5, 6, 7]
            posted = await here.service.start_chat("Hi", request_id="the-key")
            waiting = asyncio.create_task(posted.whole())
            await die(there)
            await asyncio.to_thread(forget, tmp_path / "chat.db", 4)

            assert await seqs(ahead) == []
            assert ahead.lost == CursorLost(turn_id=turn_id, last_seq=5, epoch=1)
            assert (ahead.over, ahead.complete) == (True, False)
            try:
                ahead.check_complete()
            except ChatError as error:
                assert (error.code, error.last_seq) == ("cursor_lost", 5)
            assert ahead.rewind() == CursorLost(turn_id=turn_id, last_seq=5, epoch=1)
            assert await seqs(ahead) == [1, 2, 3, 4, 5]
            assert ahead.rewind() is None
            assert ahead.complete

            # This one was shown nothing that is lost: for it the turn ends as it would have ended anyway.
            assert await seqs(behind) == [4, 5]
            assert behind.complete
        fold = await waiting
        assert isinstance(fold.terminal, TurnInterrupted)
        assert (fold.text, fold.terminal.chunks, fold.terminal.epoch) == ("0 1 2 ", 3, 1)


async def test_a_cursor_of_an_ended_turn(serve: Serve, tmp_path: Path) -> None:
    play = Stepwise()
    async with serve(silent) as here:
        async with serve(play) as there:
            turn_id = await said(there, play, 6)
            await die(there)
        await asyncio.to_thread(forget, tmp_path / "chat.db", 4)
        # The turn runs, so this waits until the turn has been ended.
        assert await refused(here.service.open(turn_id, 7)) == "cursor_lost"
        for after in (5, 6, 7, 2**70):
            assert await refused(here.service.open(turn_id, after)) == "cursor_lost"
            reader = await here.service.open(turn_id, after, rewinds=True)
            assert reader.lost == CursorLost(turn_id=turn_id, last_seq=5, epoch=1)
        for epoch in (1, 2, 2**70):
            assert (await here.service.open(turn_id, 5, epoch)).complete
            assert await refused(here.service.open(turn_id, 6, epoch)) == "cursor_out_of_range"
        with await here.service.open(turn_id, 4) as reader:
            assert await seqs(reader) == [5]
        assert await refused(here.service.open(turn_id, 4, -1)) == "invalid_request"


async def test_a_reader_that_comes_while_another_one_keeps_the_longer_log(serve: Serve, tmp_path: Path) -> None:
    """A turn that had ended is ended anew: an open reader keeps its log in memory, and a new reader gets the stored one."""
    play = Stepwise()
    async with serve(silent) as here, serve(play) as there:
        turn_id = await said(there, play, 4)
        play.end()
        with await here.service.open(turn_id, 0) as first:
            read = [record.seq for record in await anext(first)]
            await until(lambda: first.over)
            await die(there)
            with closing(sqlite3.connect(tmp_path / "chat.db")) as connection, connection:
                connection.execute("UPDATE turns SET status = 'running', ended_at = NULL, text = ''")
            await asyncio.to_thread(forget, tmp_path / "chat.db", 3)
            await until(lambda: seq_is(here.service, turn_id, 4))
            with await here.service.open(turn_id, 0) as second:
                assert await seqs(second) == [1, 2, 3, 4]
            assert [*read, *await seqs(first)] == [1, 2, 3, 4, 5, 6]


class Leased:
    """A store with one turn of another process, at seq 1; ``leases`` are those that it shows, one at each read."""

    def __init__(self, leases: list[float]) -> None:
        self.leases = leases
        self.turn_id = str(uuid.uuid4())

    async def read(self, turn_id: str, after: int) -> tuple[TurnRow, list[Record]]:
        row = TurnRow(
            turn_id=self.turn_id,
            kind="chat",
            session_id=None,
            status="running",
            last_seq=1,
            owner="another",
            epoch=0,
            unread_ms=0.0,
            lease=self.leases.pop(0),
            ended_at=None,
            expired=False,
        )
        return row, []


@pytest.mark.parametrize(
    ("leases", "ends_with"),
    [
        # An owner that renews its lease in the second half of the wait lives, so the cursor is wrong.
        ([1, 2, 3], None),
        ([1, 1, 2], None),
        # So does an owner whose clock has gone back.
        ([9, 9, 5], None),
        # An owner that does not may be dead. It renews in the next wait, or no process has ended the turn in that time.
        ([1, 2, 2, 3], None),
        ([1, 2, 0, 0], "storage_unavailable"),
        ([2, 2, 2, 2], "storage_unavailable"),
    ],
)
async def test_how_long_a_cursor_beyond_a_turn_of_another_process_waits(
    leases: list[float], ends_with: str | None
) -> None:
    store = Leased(leases)
    turn_logs = TurnLogs(store)  # type: ignore[arg-type]
    turn_log = TurnLog(store.turn_id, "chat")
    try:
        await turn_logs.reach(turn_log, 9, 0.02)
    except ChatError as error:
        assert error.code == ends_with
    else:
        assert ends_with is None
    assert store.leases == []
