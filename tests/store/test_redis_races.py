"""The races that others have published, on the Redis store with a real Valkey, by their numbers in the design (T1 to T27).

Where one rule keeps a race away, the test runs a second time with that rule switched off in a copy of the store, and there it must
fail: so the test shows the rule and not luck.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from compare.valkey import Valkey
from shared.errors import ChatError
from shared.store.protocol import Appended, Lost, Moved, News, Options, Pushed
from shared.store.redis.commands import Script
from shared.store.redis.store import RedisStore
from tests.conftest import until
from tests.store.suite import LEASE_S, appended, asked, chunks, end, entry, log, new_session, pass_s

Make = Callable[..., RedisStore]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own, which may be killed."""
    with Valkey(tmp_path / "valkey", ["save ''", "appendonly yes", "appendfsync everysec"]) as started:
        yield started


@pytest.fixture
async def make(server: Valkey) -> AsyncIterator[Make]:
    """``make()``: the store as one more process has it."""
    made: list[RedisStore] = []

    def one(options: Options | None = None, query: str = "") -> RedisStore:
        made.append(RedisStore(server.url + query, options or Options()))
        return made[-1]

    yield one
    for store in made:
        await store.close()


@asynccontextmanager
async def listening(store: RedisStore) -> AsyncIterator[list[News]]:
    """What the store tells, as it comes, from the moment it is connected."""
    heard: list[News] = []

    async def listen() -> None:
        async for news in store.news(lambda: True):
            heard.append(news)

    task = asyncio.create_task(listen())
    await until(lambda: any(isinstance(news, Lost) for news in heard))
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Follower:
    """The log of one turn as a node that follows it has it: pushes are applied in order, and a gap is read."""

    def __init__(self, store: RedisStore, turn_id: str) -> None:
        self.store = store
        self.turn_id = turn_id
        self.lines: list[bytes] = []

    async def run(self) -> None:
        """Follow until the task is cancelled."""
        listener = self.store.news(lambda: True)
        await self.store.follow(self.turn_id)
        async for news in listener:
            if isinstance(news, Pushed) and news.first_seq <= len(self.lines) + 1:
                self.lines += news.lines[len(self.lines) + 1 - news.first_seq :]
            elif isinstance(news, Pushed | Moved | Lost):
                await self.read()

    async def read(self) -> None:
        """Read what the log lacks."""
        try:
            found = await self.store.read(self.turn_id, len(self.lines))
        except ChatError:
            return
        if found is not None:
            self.lines += [record.stored for record in found[1] if record.seq > len(self.lines)]


@asynccontextmanager
async def following(store: RedisStore, turn_id: str) -> AsyncIterator[Follower]:
    follower = Follower(store, turn_id)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _persistent(store: RedisStore, *entries: Any) -> list[Appended]:
    """Append as the committer does: again and again with the same entries, until there is an answer."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.append(entries)
            except ChatError:
                await asyncio.sleep(0.05)


async def _cut_tail(server: Valkey, keep: int) -> None:
    """What a power cut does: the newest part of the append-only file is gone."""
    server.kill()
    files = sorted(server.folder.glob("appendonlydir/*.incr.aof"))
    os.truncate(files[-1], keep)


def _aof_bytes(server: Valkey) -> int:
    return sorted(server.folder.glob("appendonlydir/*.incr.aof"))[-1].stat().st_size


async def test_t2_t3_the_end_is_read_though_its_push_was_lost(make: Make) -> None:
    """T2, T3: a look each second finds where the store stands, so a reader never waits for a push that was lost."""
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    async with following(reader, started.turn.turn_id) as follower:
        await until(lambda: len(follower.lines) == 1)
        writer._commands.pushes = False
        publish = writer._commands.publish

        async def nothing(messages: Any) -> None:
            """The push is lost on the way."""

        writer._commands.publish = nothing  # type: ignore[method-assign]
        await end(writer, started, "a", "b")
        assert len(follower.lines) == 1
        await until(lambda: len(follower.lines) == 4)
        writer._commands.publish = publish  # type: ignore[method-assign]


async def test_t6_two_starts_at_once_are_one_turn(make: Make) -> None:
    """T6: key, session and turn are one script."""
    stores = [make() for _ in range(4)]
    session_id = await new_session(stores[0])
    keyed = [store.start_turn(asked(session_id=session_id, request_id="k")) for store in stores for _ in range(5)]
    started = await asyncio.gather(*keyed)
    assert len({one.turn.turn_id for one in started}) == 1
    assert sum(not one.joined for one in started) == 1
    other = await new_session(stores[0])
    outcomes = await asyncio.gather(
        *(store.start_turn(asked(session_id=other)) for store in stores for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, ChatError) for outcome in outcomes) == 1


@pytest.mark.parametrize("confirmed", [True, False])
async def test_t7_nothing_is_missed_between_reading_and_following(
    make: Make, confirmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T7: subscribe, wait for the confirmation, then read. Without the wait a commit in between is in neither."""
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with listening(reader) as heard:
        if not confirmed:
            send, sent = reader._subscription._send, asyncio.Event()

            async def late(command: str, *channels: str) -> None:
                await sent.wait()
                await send(command, *channels)

            monkeypatch.setattr(reader._subscription, "_send", late)
            following_task = asyncio.create_task(reader.follow(turn_id))
            await asyncio.sleep(0)
        else:
            await reader.follow(turn_id)
        found = await reader.read(turn_id, 0)
        assert found is not None
        await writer.append([entry(started, chunks(turn_id, 2, "between"))])
        if not confirmed:
            sent.set()
            await following_task
        told = [news for news in heard if isinstance(news, Pushed)]
        if confirmed:
            await until(lambda: any(isinstance(news, Pushed) for news in heard))
        else:
            assert told == []


async def test_t9_t10_seqs_are_the_logs_and_an_event_is_stored_before_it_is_told(make: Make) -> None:
    """T9, T10: whichever process is told, the store has the event already, under the same seq."""
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with listening(reader) as heard:
        await reader.follow(turn_id)
        for seq in range(2, 40):
            await writer.append([entry(started, chunks(turn_id, seq, f"{seq}"))])
        pushed = await until(lambda: len(found := [n for n in heard if isinstance(n, Pushed)]) == 38 and found)
    assert [news.first_seq for news in pushed] == list(range(2, 40))
    found = await reader.read(turn_id, 1)
    assert found is not None
    assert [record.stored for record in found[1]] == [line for news in pushed for line in news.lines]


async def test_t11_a_cancel_reaches_an_owner_that_heard_no_signal(make: Make) -> None:
    owner, other = make(), make()
    started = await owner.start_turn(asked(new_session_id="s1"))
    await other.cancel(started.turn.turn_id, "another")
    assert (await owner.renew("me", [started.turn.turn_id], []))[0].cancel


async def test_t12_an_overlap_of_reading_and_pushing_shows_nothing_twice(make: Make) -> None:
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with following(reader, turn_id) as follower:
        for seq in range(2, 60):
            await writer.append([entry(started, chunks(turn_id, seq, f"{seq}"))])
            if seq % 7 == 0:
                await follower.read()
        await until(lambda: len(follower.lines) == 59)
    found = await reader.read(turn_id, 0)
    assert found is not None
    assert follower.lines == [record.stored for record in found[1]]


async def test_t13_t14_a_line_that_is_cut_or_deaf_is_made_anew(make: Make, server: Valkey) -> None:
    """T13, T14: the server cuts subscribers in silence; then everything is read and the line is made again."""
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with following(reader, turn_id) as follower:
        for seq in range(2, 30):
            if seq % 9 == 0:
                server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await writer.append([entry(started, chunks(turn_id, seq, f"{seq}"))])
        await until(lambda: len(follower.lines) == 29)


async def test_t13_a_server_that_freezes_for_seconds(make: Make, server: Valkey) -> None:
    """T13: no FIN and no error; the reader still gets all of it."""
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with following(reader, turn_id) as follower:
        await _persistent(writer, entry(started, chunks(turn_id, 2, "before")))
        server.send(signal.SIGSTOP)
        waiting = asyncio.create_task(_persistent(writer, entry(started, chunks(turn_id, 3, "during"))))
        await asyncio.sleep(3.5)
        assert not waiting.done()
        server.send(signal.SIGCONT)
        assert (await waiting)[0].done
        await until(lambda: len(follower.lines) == 3)
    assert [event.seq for event in await log(writer, turn_id)] == [1, 2, 3]


async def test_t15_t18_a_log_expires_after_its_end_and_not_before(make: Make, server: Valkey) -> None:
    """T15, T18: the script that ends a turn sets the expiry; while the turn runs there is none, however quiet it is."""
    store = make(Options(retention_s=0.4, tombstone_s=0.4))
    running = await store.start_turn(asked(new_session_id="s1"))
    ended = await store.start_turn(asked(new_session_id="s2", request_id="k"))
    loose = await store.start_turn(asked("A hill", kind="image"))
    await end(store, ended, "x")
    await end(store, loose, "")
    await until(lambda: b":0" in server.ask("EXISTS", "{genai}:l:" + ended.turn.turn_id))
    assert b":1" in server.ask("EXISTS", "{genai}:l:" + running.turn.turn_id)
    assert b":-1" in server.ask("PTTL", "{genai}:t:" + running.turn.turn_id)
    await until(lambda: b":0" in server.ask("EXISTS", "{genai}:t:" + loose.turn.turn_id))
    await store.delete_session("s2", "me", 0)
    assert b":0" in server.ask("EXISTS", "{genai}:t:" + ended.turn.turn_id, "{genai}:k:k")


async def test_t19_two_deployments_on_one_server_do_not_meet(make: Make) -> None:
    """T19: keys and channels have the prefix, and channels the number of the database too."""
    one, other, third = make(query="?prefix=a"), make(query="?prefix=b"), make(query="?prefix=a")
    third._keys.signal_channel = one._keys.signal_channel
    started = await one.start_turn(asked(new_session_id="s1", request_id="k"))
    assert await other.get_turn(started.turn.turn_id) is None
    assert not (await other.start_turn(asked("other", new_session_id="s1", request_id="k"))).joined
    assert (await third.start_turn(asked(request_id="k"))).joined
    async with listening(other) as heard:
        await one.append([entry(started, chunks(started.turn.turn_id, 2, "a"))])
        await one.cancel(started.turn.turn_id, "x")
        await other.create_session("later", None, 1.0)
        assert [news for news in heard if not isinstance(news, Lost)] == []


async def test_t22_the_owner_appends_again_what_the_store_lost(make: Make, server: Valkey) -> None:
    """T22: a power cut takes acknowledged events; the store says so, and the same bytes come back under the same seqs."""
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    await store.append([entry(started, chunks(turn_id, 2, "kept"))])
    await until(lambda: _aof_bytes(server) > 0)
    size = _aof_bytes(server)
    await store.append([entry(started, chunks(turn_id, 3, "lost"))])
    await store.append([entry(started, chunks(turn_id, 4, "lost too"))])
    before = await log(store, turn_id)
    await until(lambda: _aof_bytes(server) > size)
    await _cut_tail(server, size)
    server.start()
    assert (await _persistent(store, entry(started, chunks(turn_id, 5, "next"))))[0] == Appended(False, 2, "behind")
    assert await appended(store, entry(started, chunks(turn_id, 3, "lost", "lost too", "next"))) == [True]
    assert (await log(store, turn_id))[:4] == before


@pytest.mark.parametrize("idempotent", [True, False])
async def test_t24_an_append_whose_answer_was_lost(
    make: Make, idempotent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T24: the same entry again is done. Without the comparison of bytes it looks like a fence, and the turn dies."""
    if not idempotent:
        script = Script("append")
        script.source = script.source.replace("if row[1] == owner and stored[1] and", "if false and")
        script.sha1 = "0" * 40
        monkeypatch.setattr("shared.store.redis.turns._APPEND", script)
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    one = entry(started, chunks(started.turn.turn_id, 2, "a", "b"))
    assert await appended(store, one) == [True]
    assert await appended(store, one) == [idempotent]
    assert [event.seq for event in await log(store, started.turn.turn_id)] == [1, 2, 3]


@pytest.mark.parametrize("contact", [True, False])
async def test_t25_an_outage_longer_than_a_lease_ends_no_living_turn(make: Make, contact: bool) -> None:
    """T25: a lease that ended while nobody could renew proves nothing; the first look afterwards kills nothing."""
    owner, other = make(), make()
    started = await owner.start_turn(asked(new_session_id="s1"))
    if not contact:
        # A copy without the rule: it believes that it has been in contact for ever.
        other._contact.since_s = lambda: float("-inf")  # type: ignore[method-assign]
        other._overdue_since_s = {"me": float("-inf")}
    for store in (owner, other):
        store.clock_offset_ms += LEASE_S * 5 * 1000
    assert await other.reap() == ([] if contact else [started.turn.turn_id])
    await owner.renew("me", [started.turn.turn_id], [])
    assert await pass_s(other, LEASE_S * 0.9) == []
    assert await appended(owner, entry(started, chunks(started.turn.turn_id, 2, "on"))) == [contact]


async def test_t5_a_dead_owners_turn_ends_within_two_leases(make: Make) -> None:
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    assert await pass_s(store, LEASE_S * 0.9) == []
    assert await pass_s(store, LEASE_S * 1.1) == [started.turn.turn_id]


async def test_t23_a_command_whose_caller_leaves_gives_nobody_its_answer(make: Make) -> None:
    store = make()
    turns = [await store.start_turn(asked(f"turn {n}", new_session_id=f"s{n}")) for n in range(20)]
    for n, started in enumerate(turns):
        doomed = asyncio.create_task(store.get_session(f"s{n}"))
        await asyncio.sleep(0)
        doomed.cancel()
        found = await store.get_turn(started.turn.turn_id)
        assert found is not None
        assert (found.turn_id, found.session_id) == (started.turn.turn_id, f"s{n}")


async def test_a_store_that_was_killed_or_lost_its_scripts_goes_on(make: Make, server: Valkey) -> None:
    store, other = make(), make()
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with following(other, turn_id) as follower:
        await store.append([entry(started, chunks(turn_id, 2, "a"))])
        server.ask("SCRIPT", "FLUSH")
        assert await appended(store, entry(started, chunks(turn_id, 3, "b"))) == [True]
        server.kill()
        with pytest.raises(ChatError, match="storage_unavailable"):
            await store.append([entry(started, chunks(turn_id, 4, "c"))])
        server.start()
        assert (await _persistent(store, entry(started, chunks(turn_id, 4, "c"))))[0].done
        await until(lambda: len(follower.lines) == 4)
    assert [event.seq for event in await log(store, turn_id)] == [1, 2, 3, 4]


async def test_a_full_store_says_so_and_writes_nothing(make: Make, server: Valkey) -> None:
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ChatError, match="the store is full"):
        await store.append([entry(started, chunks(turn_id, 2, "a"))])
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert await appended(store, entry(started, chunks(turn_id, 2, "a"))) == [True]
