"""The database in memory: its cost does not grow with what it holds, and a full one refuses and goes on."""

from __future__ import annotations

import asyncio
import ctypes

import apsw
import pytest

from shared.errors import ChatError
from shared.events import now_ms
from shared.store.sqlite import connection
from shared.store.sqlite.rows import is_shared
from shared.store.sqlite.store import SqliteStore
from tests.conftest import until
from tests.store.suite import NOW, messages_of, new_session, talk

_MIB = 2**20


def test_the_page_cache_is_bounded() -> None:
    """A commit may walk through the whole page cache. So the cache must not hold the whole database."""
    database = connection.connect_in_memory()
    database.execute("CREATE TABLE filler(n INTEGER PRIMARY KEY, bytes BLOB)")
    for n in range(32):
        database.execute("INSERT INTO filler VALUES (?, zeroblob(?))", (n, _MIB))
    held = database.execute("SELECT sum(length(bytes)) FROM filler").fetchall()
    used, _ = database.status(apsw.SQLITE_DBSTATUS_CACHE_USED)
    assert held == [(32 * _MIB,)]
    assert used < 4 * _MIB
    database.close()


def test_one_connection_holds_the_lock() -> None:
    """A commit does not ask whether another connection has written."""
    database = connection.connect_in_memory()
    assert database.pragma("locking_mode") == "exclusive"
    database.close()


async def test_it_is_looked_at_when_a_turn_is_followed() -> None:
    """No other process writes into it. So nothing wakes an idle server."""
    store, looks = SqliteStore(None), 0

    def wanted() -> bool:
        nonlocal looks
        looks += 1
        return False

    async def watch() -> None:
        async for _ in store.news(wanted):
            raise AssertionError("There is no news.")

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.2)
    assert looks == 0
    await store.follow("a turn")
    await until(lambda: looks > 0)
    store.unfollow("a turn")
    await asyncio.sleep(0.1)
    before = looks
    await asyncio.sleep(0.2)
    assert looks == before
    watching.cancel()
    await store.close()


def test_it_may_grow_to_its_limit() -> None:
    """SQLite's own limit is 1 GiB."""
    database = connection.connect_in_memory()
    limit = ctypes.c_int64(-1)
    database.file_control("main", apsw.SQLITE_FCNTL_SIZE_LIMIT, ctypes.addressof(limit))
    assert limit.value >= connection.MEMORY_BYTES == database.pragma("max_page_count") * database.pragma("page_size")
    database.close()


async def test_nobody_else_sees_it() -> None:
    first, second = SqliteStore(None), SqliteStore(None)
    session_id = await new_session(first)
    assert await first.get_session(session_id) is not None
    assert await second.get_session(session_id) is None
    assert not is_shared(connection.connect_in_memory())
    await first.close()
    await second.close()


async def test_a_full_one_refuses_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MEMORY_BYTES", 2 * _MIB)
    store = SqliteStore(None)
    session_id = await new_session(store)
    await talk(store, session_id, "kept", "answer")
    others: list[str] = []
    for length in (10_000, 10):
        with pytest.raises(ChatError) as refusal:
            while len(others) < 1000:
                others.append(await new_session(store))
                await talk(store, others[-1], "filler", "x" * length)
        assert refusal.value.code == "storage_unavailable"
    with pytest.raises(ChatError):
        await store.check_write()
    assert [message.text for message in await messages_of(store, session_id)] == ["kept", "answer"]
    for other in others:
        session = await store.get_session(other)
        if session is not None and session.running_turn_id is None:
            await store.delete_session(other, "test", NOW)
    while await store.purge():
        pass
    await store.check_write()
    await talk(store, session_id, "again", "answer")
    assert len(await messages_of(store, session_id)) == 4
    await store.close()


async def test_a_session_of_many_turns_can_be_deleted_from_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """To delete takes pages before it frees any. So it may use a reserve that new turns may not use."""
    monkeypatch.setattr(connection, "MEMORY_BYTES", 2 * _MIB)
    store = SqliteStore(None)
    large = await new_session(store)
    for _ in range(300):
        await talk(store, large, "Hi", "x" * 1000)
    with pytest.raises(ChatError):
        for _ in range(1000):
            await talk(store, await new_session(store), "filler", "x" * 1000)
    await store.delete_session(large, "test", NOW)
    while await store.purge():
        pass
    for _ in range(100):
        await talk(store, await new_session(store), "again", "x" * 1000)
    await store.close()


async def test_old_logs_go_from_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MEMORY_BYTES", 2 * _MIB)
    store = SqliteStore(None)
    with pytest.raises(ChatError):
        for _ in range(2000):
            await talk(store, await new_session(store), "filler", "x" * 10)
    store.clock_offset_ms = NOW - now_ms() + 30 * 3_600_000
    while await store.purge():
        pass
    await talk(store, await new_session(store), "again", "answer")
    await store.close()
