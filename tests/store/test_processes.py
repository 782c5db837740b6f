"""Several processes on one store."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import apsw

from shared.events import (
    Chunk,
)
from shared.store.protocol import Store
from tests.store.suite import (
    NOW,
    Backend,
    asked,
    chunks,
    entry,
    log,
    new_session,
    refused,
    shared,
    talk,
)


@shared
async def test_another_process_notices(store: Store, other: Store) -> None:
    """``changes`` is None until somebody else has written, then it has what they said, in order, once."""
    seen = await other.last_signal()
    await other.changes(seen)
    assert await other.changes(seen) is None
    session_id = await new_session(store)
    assert await other.changes(seen) == []
    started = await talk(store, session_id, "one", "1")
    await store.signal("me", "cancel", NOW, turn_id=started.turn.turn_id)
    await store.clear_session(session_id, "me", NOW)
    await store.delete_session(session_id, "me", NOW)
    signals = await other.changes(seen)
    assert signals is not None
    assert [(signal.origin, signal.kind) for signal in signals] == [
        ("me", "turn_started"),
        ("me", "message_added"),
        ("me", "cancel"),
        ("me", "session_cleared"),
        ("me", "session_deleted"),
    ]
    assert [signal.message_count for signal in signals[:2]] == [1, 2]
    assert signals[2].turn_id == started.turn.turn_id
    assert await other.changes(signals[-1].signal_id) is None
    assert await other.last_signal() == signals[-1].signal_id
    await new_session(store)
    assert await other.changes(signals[-1].signal_id) == []


@shared
async def test_what_one_committed_the_other_reads(store: Store, other: Store) -> None:
    started = await store.start_turn(asked(new_session_id="s1"))
    for n in range(20):
        assert await store.append([entry(started, chunks(started.turn.turn_id, 2 + n, f"{n} "))]) == [True]
        assert len(await log(other, started.turn.turn_id)) == 2 + n
    assert await refused(other.start_turn(asked(session_id="s1", owner="another"))) == "turn_in_progress"
    assert await other.append([entry(started, chunks(started.turn.turn_id, 22, "x"), owner="another")]) == [False]


@shared
async def test_five_processes_write_at_once(store: Store, backend: Backend, tmp_path: Path) -> None:
    """One winner for each session and each key, every log without a gap, and the database whole."""
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
    path = url.removeprefix("sqlite:///")
    connection = apsw.Connection(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
