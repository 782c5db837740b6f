"""Several processes on one store."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw

from shared.events import (
    Chunk,
)
from shared.store.protocol import News, Pushed, Signal, Store
from shared.store.sqlite.connection import connect, refuse_foreign
from shared.store.sqlite.schema import make_tables
from tests.conftest import until
from tests.store.suite import (
    NOW,
    Backend,
    appended,
    asked,
    chunks,
    end,
    entry,
    log,
    new_session,
    refused,
    shared,
)


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[list[News]]:
    """The list of the store's news, which grows as they arrive."""
    heard: list[News] = []

    async def listen() -> None:
        async for news in store.news(lambda: True):
            heard.append(news)

    task = asyncio.create_task(listen())
    # The task asks for the newest signal first. What is asked afterwards is answered afterwards.
    await asyncio.sleep(0)
    await store.last_signal()
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@shared
async def test_another_process_is_told(store: Store, other: Store) -> None:
    """Every signal arrives once and in order. An earlier signal does not arrive."""
    early = await store.start_turn(asked(new_session_id="early"))
    await store.cancel(early.turn.turn_id, "me")
    before = await other.last_signal()
    assert before > 0
    async with listening(other) as heard:
        session_id = await new_session(store)
        # A store that pushes has to be connected first.
        await until(lambda: heard or not hasattr(other, "_subscription"))
        started = await store.start_turn(asked("one", session_id=session_id))
        await store.cancel(started.turn.turn_id, "me")
        await end(store, started, "1")
        await store.clear_session(session_id, "me", NOW)
        await store.delete_session(session_id, "me", NOW)
        signals = await until(lambda: len(found := [one for one in heard if isinstance(one, Signal)]) >= 5 and found)
        assert [(signal.origin, signal.kind) for signal in signals] == [
            ("me", "turn_started"),
            ("me", "cancel"),
            ("me", "message_added"),
            ("me", "session_cleared"),
            ("me", "session_deleted"),
        ]
        assert [signals[0].message_count, signals[2].message_count] == [1, 2]
        assert signals[1].turn_id == started.turn.turn_id
        assert [signal.signal_id for signal in signals] == list(range(before + 1, before + 6))
        assert await other.last_signal() == signals[-1].signal_id


@shared
async def test_what_is_committed_to_a_followed_turn_is_told(store: Store, other: Store) -> None:
    """From the moment on at which a turn is followed, its events arrive with their text and without a gap.

    Events of other turns do not.
    """
    followed = await store.start_turn(asked(new_session_id="s1"))
    ignored = await store.start_turn(asked(new_session_id="s2"))
    turn_id = followed.turn.turn_id
    async with listening(other) as heard:
        await other.follow(turn_id)
        found = await other.read(turn_id, 0)
        assert found is not None
        for seq in range(2, 30):
            await store.append([entry(followed, chunks(turn_id, seq, f"{seq}"))])
            await store.append([entry(ignored, chunks(ignored.turn.turn_id, seq, "x"))])
        await end(store, followed, after=29)

        def told() -> list[bytes]:
            pushed = [one for one in heard if isinstance(one, Pushed)]
            assert {one.turn_id for one in pushed} <= {turn_id}
            return [line for one in sorted(pushed, key=lambda one: one.first_seq) for line in one.lines]

        await until(lambda: len(told()) >= 29)
        everything = await other.read(turn_id, 0)
        assert everything is not None
        assert told() == [record.stored for record in everything[1][1:]]
        other.unfollow(turn_id)


@shared
async def test_what_one_committed_the_other_reads(store: Store, other: Store) -> None:
    started = await store.start_turn(asked(new_session_id="s1"))
    for n in range(20):
        assert await appended(store, entry(started, chunks(started.turn.turn_id, 2 + n, f"{n} "))) == [True]
        assert len(await log(other, started.turn.turn_id)) == 2 + n
    assert await refused(other.start_turn(asked(session_id="s1", owner="another"))) == "turn_in_progress"
    assert await appended(other, entry(started, chunks(started.turn.turn_id, 22, "x"), owner="another")) == [False]


@shared
async def test_five_processes_write_at_once(store: Store, backend: Backend, tmp_path: Path) -> None:
    """One process wins each session and each key. Every log has no gap, and the database is whole."""
    url, turns = backend.url(tmp_path), 10
    for n in range(turns):
        await store.create_session(f"session-{n}", None, NOW)
    async with contextlib.AsyncExitStack() as stack:
        writers = []
        for me in range(5):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.store.writer",
                url,
                f"writer {me}",
                str(turns),
                cwd=Path(__file__).parents[2],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            stack.push_async_callback(process.wait)
            writers.append(process)
        for process in writers:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        answers = await asyncio.gather(*(process.communicate(b"go\n") for process in writers))
        assert [process.returncode for process in writers] == [0] * 5
    won, joined = zip(*(map(int, out.split()) for out, _ in answers), strict=True)
    assert sum(won) == turns
    assert sum(joined) == 4 * turns
    sessions, _ = await store.list_sessions(1000, None, 0)
    assert len(sessions) == turns + turns + 5 * turns * 4
    for session in sessions:
        assert session.last_turn_id is not None
        events = await log(store, session.last_turn_id)
        if session.session_id.startswith("writer"):
            texts = [event.text for event in events if isinstance(event, Chunk)]
            assert texts == [f"{seq} " for seq in range(2, 12)]
    if url.startswith("sqlite:"):
        connection = apsw.Connection(url.removeprefix("sqlite:///"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


def test_a_server_that_starts_while_another_makes_the_tables(tmp_path: Path) -> None:
    """The other server writes between any two statements with which this one looks whose file it is."""
    path = tmp_path / "chat.db"
    apsw.Connection(str(path)).execute("PRAGMA user_version = 0")
    connection = apsw.Connection(str(path))
    statements: list[str] = []

    def another_writes(_: apsw.Cursor, statement: str, __: object) -> bool:
        statements.append(statement)
        if "sqlite_master" in statement:
            other = apsw.Connection(str(path))
            with contextlib.suppress(apsw.BusyError):
                other.execute("BEGIN IMMEDIATE")
                make_tables(other)
                other.execute("COMMIT")
            other.close()
        return True

    connection.exec_trace = another_writes
    refuse_foreign(connection, path)
    connection.close()
    assert any("sqlite_master" in statement for statement in statements)
    connect(str(path)).close()
