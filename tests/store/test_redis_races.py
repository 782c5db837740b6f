"""The races that others have published, on the Redis store with a real Valkey, by their numbers in the list of races (T1 to T27).

Each test runs with all rules of the store, and again without the one rule that keeps its race away (``rules.py``); then it must
fail. The races that are not here:

- T1: a reader never asks the producer for anything. The log is read first, and a push only adds to it.
- T4: no reader or producer waits for an acknowledgement of the other, so no timer of such a wait exists.
- T8: a turn has an id of its own, and its log counts from 1; no log or counter is used for a second turn.
- T16: a failed turn ends with a terminal event in the one log that all nodes read (tests/test_conformance_redis.py).
- T20: the id of an event is its seq, not a time. Two events of the same millisecond have two ids.
- T21: a cursor that is none is refused on each wire (tests/test_bad_input.py).
- T26: a node that takes over a turn ends the turn. It never asks the model again (``paid twice`` in tests/test_outages.py).
- T27: one script appends a group of events of all turns, in one round trip (``append.lua``).
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from compare.lines.relay import Relay
from compare.valkey import Valkey
from shared.chat.turn_logs import TurnLogs
from shared.errors import ChatError
from shared.events import TERMINAL
from shared.store.protocol import Appended, NewsLost, Options, Pushed
from shared.store.redis.store import RedisStore
from shared.store.redis.subscription import Subscription
from tests.conftest import until
from tests.store.redis_parts import SETTINGS, Make, aof_bytes, cut_tail, following, listening, persistent
from tests.store.rules import RULES, Rules, without
from tests.store.suite import LEASE_S, appended, asked, chunks, end, entry, log, new_session, pass_s


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own, which may be killed."""
    with Valkey(tmp_path / "valkey", SETTINGS) as started:
        yield started


@pytest.fixture
async def make(server: Valkey) -> AsyncIterator[Make]:
    """``make()``: the store as one more node has it."""
    made: list[RedisStore] = []

    def one(options: Options | None = None, url: str = "") -> RedisStore:
        made.append(RedisStore(url if "//" in url else server.url + url, options or Options()))
        return made[-1]

    yield one
    for store in made:
        await store.close()


@pytest.fixture
def rules(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rules:
    """All rules, or all but the named one."""
    if request.param:
        RULES[request.param](monkeypatch)
    return Rules(request.param)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node asks the store five times a second where the turns stand, instead of once."""
    monkeypatch.setattr("shared.store.redis.subscription.CHECK_S", 0.2)


@without("the log of an ended turn is kept")
async def test_t2_a_reader_that_comes_when_the_turn_ends_reads_the_end(make: Make, rules: Rules) -> None:
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    await end(writer, started, "a", "b")
    found = await reader.read(started.turn.turn_id, 2)
    assert found is not None
    assert [record.seq for record in found[1]] == [3, 4]
    assert isinstance(found[1][-1].event, TERMINAL)


@without("the store is asked where a quiet turn stands")
async def test_t3_the_end_is_read_though_its_push_was_lost(
    make: Make, rules: Rules, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    async with following(reader, started.turn.turn_id) as follower:

        async def nothing(messages: Any) -> None:
            """The push is lost on the way."""

        writer._commands.pushes = False
        monkeypatch.setattr(writer._commands, "publish", nothing)
        await end(writer, started, "a", "b")
        await rules.until(lambda: len(follower.lines) == 4)
        assert follower.pushes == 0


@without("the turns of a node without a lease are ended")
async def test_t5_a_dead_nodes_turn_ends_within_two_leases(make: Make, rules: Rules) -> None:
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    assert await pass_s(store, LEASE_S * 0.9) == []
    assert await pass_s(store, LEASE_S * 1.1) == [started.turn.turn_id]


@without("key, session and turn are one step")
async def test_t6_two_starts_at_once_are_one_turn(make: Make, rules: Rules) -> None:
    stores = [make() for _ in range(4)]
    session_id = await new_session(stores[0])
    keyed = [store.start_turn(asked(session_id=session_id, request_id="k")) for store in stores for _ in range(5)]
    started = await asyncio.gather(*keyed, return_exceptions=True)
    assert sum(not isinstance(one, BaseException) and not one.joined for one in started) == 1
    assert len({one.turn.turn_id for one in started if not isinstance(one, BaseException)}) == 1
    other = await new_session(stores[0])
    outcomes = await asyncio.gather(
        *(store.start_turn(asked(session_id=other)) for store in stores for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, ChatError) for outcome in outcomes) == 1


@without("a subscription is confirmed before the turn is read")
async def test_t7_nothing_is_missed_between_reading_and_following(
    make: Make, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscription that takes a while; an event that is committed in between is read or pushed."""
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    send = Subscription._send

    async def late(self: Subscription, command: str, *channels: str) -> None:
        await asyncio.sleep(0.1)
        await send(self, command, *channels)

    async with listening(reader) as heard:
        monkeypatch.setattr(Subscription, "_send", late)
        await reader.follow(turn_id)
        found = await reader.read(turn_id, 0)
        assert found is not None
        await writer.append([entry(started, chunks(turn_id, 2, "between"))])
        assert len(found[1]) == 1
        await rules.until(lambda: any(isinstance(news, Pushed) for news in heard))


@without("an event follows the last one in the log")
async def test_t9_no_process_counts_by_itself(make: Make, rules: Rules) -> None:
    """An entry that would leave a gap is refused, and nothing waits for the events between."""
    writer = make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    assert await writer.append([entry(started, chunks(turn_id, 5, "gap"))]) == [Appended(False, 1, "behind")]
    assert await appended(writer, entry(started, chunks(turn_id, 2, "a", "b"))) == [True]
    assert [event.seq for event in await log(writer, turn_id)] == [1, 2, 3]


@without("an event is stored before it is told")
async def test_t10_an_event_is_stored_before_it_is_told(make: Make, rules: Rules) -> None:
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with listening(reader) as heard:
        await reader.follow(turn_id)
        for seq in range(2, 12):
            appending = asyncio.create_task(writer.append([entry(started, chunks(turn_id, seq, f"{seq}"))]))
            await rules.until(lambda: any(isinstance(news, Pushed) and news.first_seq == seq for news in heard))  # noqa: B023
            found = await reader.get_turn(turn_id)
            await appending
            assert found is not None
            assert found.last_seq == seq


@without("a cancel is a field of the turn")
async def test_t11_a_cancel_reaches_an_owner_that_heard_no_signal(make: Make, rules: Rules) -> None:
    owner, other = make(), make()
    started = await owner.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    await other.cancel(turn_id, "another")
    assert (await owner.renew("me", [turn_id], []))[0].cancel
    assert (await owner.append([entry(started, chunks(turn_id, 2, "a"))]))[0].cancel


@without("an event that the log has is dropped")
async def test_t12_an_overlap_of_reading_and_pushing_shows_nothing_twice(make: Make, rules: Rules) -> None:
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with listening(reader) as heard:
        turn_logs = TurnLogs(reader)
        turn_log = await turn_logs.open(turn_id)
        for seq in range(2, 60):
            await writer.append([entry(started, chunks(turn_id, seq, f"{seq}"))])
            if seq % 7 < 3:
                await turn_logs.look(turn_id)
        for pushed in await rules.until(
            lambda: len(found := [n for n in heard if isinstance(n, Pushed)]) == 58 and found
        ):
            await turn_logs.apply(pushed)
    found = await reader.read(turn_id, 0)
    assert found is not None
    assert [record.stored for record in turn_log.records] == [record.stored for record in found[1]]


async def test_a_line_that_is_dead_without_a_sign_costs_no_command(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read on a dead line is repeated on a new line."""
    monkeypatch.setattr("shared.store.redis.connections.ANSWER_TIMEOUT_S", 0.5)
    async with Relay(f"127.0.0.1:{server.port}") as relay:
        # The check of a new store blocks the event loop, on which the relay runs.
        store = await asyncio.to_thread(RedisStore, f"redis://{relay.address}/0", Options())
        session_id = await new_session(store)
        relay.discard()
        assert await store.get_session(session_id) is not None
        await store.close()


@without("a silent subscription is made anew")
async def test_t13_a_line_that_is_dead_without_a_sign_is_made_anew(
    make: Make, rules: Rules, quick: None, server: Valkey
) -> None:
    """No FIN and no error: the relay discards everything on the open connections. Later events are pushed again."""
    async with Relay(f"127.0.0.1:{server.port}") as relay:
        writer = make()
        # The check of a new store blocks the event loop, on which the relay runs.
        reader = await asyncio.to_thread(make, url=f"redis://{relay.address}/0")
        started = await writer.start_turn(asked(new_session_id="s1"))
        turn_id = started.turn.turn_id
        async with following(reader, turn_id) as follower:
            relay.discard()
            await writer.append([entry(started, chunks(turn_id, 2, "lost"))])
            await rules.until(lambda: len(follower.lines) == 2)
            pushes, seqs = follower.pushes, itertools.count(3)

            async def pushed_again() -> bool:
                await writer.append([entry(started, chunks(turn_id, next(seqs), "and again"))])
                return follower.pushes > pushes

            await rules.until(pushed_again)


@without("a lost subscription is made anew")
async def test_t14_a_subscription_that_the_server_ends_is_made_anew(
    make: Make, rules: Rules, quick: None, server: Valkey
) -> None:
    """The server cuts subscribers in silence, and then dies. Each time all is read, and later events are pushed again."""
    writer, reader = make(), make()
    started = await writer.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with following(reader, turn_id) as follower:
        for seq in range(2, 30):
            if seq % 9 == 0:
                server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await writer.append([entry(started, chunks(turn_id, seq, f"{seq}"))])
        await rules.until(lambda: len(follower.lines) == 29)
        server.kill()
        server.start()
        await persistent(writer, entry(started, chunks(turn_id, 30, "after")))
        await rules.until(lambda: len(follower.lines) == 30)


@without("the log of an ended turn expires")
async def test_t15_the_logs_of_ended_turns_expire(make: Make, rules: Rules, server: Valkey) -> None:
    store = make(Options(retention_s=0.3, tombstone_s=0.3))
    ended = await store.start_turn(asked(new_session_id="s2", request_id="k"))
    loose = await store.start_turn(asked("A hill", kind="image"))
    await end(store, ended, "x")
    await end(store, loose, "")
    await rules.until(lambda: b":0" in server.ask("EXISTS", "{genai}:l:" + ended.turn.turn_id))
    await rules.until(lambda: b":0" in server.ask("EXISTS", "{genai}:t:" + loose.turn.turn_id))


@without("a store that evicts is refused")
def test_t17_a_store_that_evicts_is_refused(server: Valkey, rules: Rules) -> None:
    """With allkeys-lru the logs of running turns go, and no node gets an error."""
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    refusal = ""
    try:
        RedisStore(server.url, Options())
    except ValueError as error:
        refusal = str(error)
    assert "set maxmemory-policy noeviction" in refusal


async def test_t17_a_turn_that_has_gone_is_an_error_to_its_owner(make: Make, server: Valkey) -> None:
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    server.ask("FLUSHALL")
    assert await store.append([entry(started, chunks(started.turn.turn_id, 2, "a"))]) == [Appended(False, 0, "gone")]
    assert await store.renew("me", [started.turn.turn_id], []) == [Appended(False, 0, "gone")]


@without("the log of a running turn does not expire")
async def test_t18_the_log_of_a_quiet_turn_does_not_expire(make: Make, rules: Rules, server: Valkey) -> None:
    """The turn is quiet for longer than the retention."""
    store = make(Options(retention_s=0.3, tombstone_s=0.3))
    quiet = await store.start_turn(asked(new_session_id="s1"))
    ended = await store.start_turn(asked(new_session_id="s2"))
    await end(store, ended, "x")
    await rules.until(lambda: b":0" in server.ask("EXISTS", "{genai}:l:" + ended.turn.turn_id))
    for kind in ("t", "l"):
        assert b":-1" in server.ask("PTTL", "{genai}:" + kind + ":" + quiet.turn.turn_id)
    assert [event.seq for event in await log(store, quiet.turn.turn_id)] == [1]


@without("keys have a prefix")
async def test_t19_two_deployments_on_one_server_do_not_meet(make: Make, rules: Rules) -> None:
    one, other = make(url="?prefix=a"), make(url="?prefix=b")
    started = await one.start_turn(asked(new_session_id="s1", request_id="k"))
    assert await other.get_turn(started.turn.turn_id) is None
    assert not (await other.start_turn(asked("other", new_session_id="s1", request_id="k"))).joined
    async with listening(other) as heard:
        await one.append([entry(started, chunks(started.turn.turn_id, 2, "a"))])
        await one.cancel(started.turn.turn_id, "x")
        await other.typing("s1", "y", True)
        await rules.until(lambda: len(heard) > 1)
        assert [news for news in heard if not isinstance(news, NewsLost) and getattr(news, "origin", "") != "y"] == []


@without("channels have the number of the database")
async def test_t19_two_databases_of_one_server_do_not_meet(make: Make, rules: Rules, server: Valkey) -> None:
    """Redis has one space of channels for all databases."""
    one, other = make(), make(url=server.url.removesuffix("0") + "1")
    started = await one.start_turn(asked(new_session_id="s1"))
    async with listening(other) as heard:
        await one.cancel(started.turn.turn_id, "x")
        await other.typing("s1", "y", True)
        await rules.until(lambda: len(heard) > 1)
        assert [news for news in heard if not isinstance(news, NewsLost) and getattr(news, "origin", "") != "y"] == []


@without("the store says that it is behind")
async def test_t22_the_owner_appends_again_what_the_store_lost(make: Make, rules: Rules, server: Valkey) -> None:
    """A power cut loses acknowledged events.

    The store says so, and the owner appends the same bytes under the same seqs.
    """
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    await store.append([entry(started, chunks(turn_id, 2, "kept"))])
    await rules.until(lambda: aof_bytes(server) > 0)
    size = aof_bytes(server)
    await store.append([entry(started, chunks(turn_id, 3, "lost"))])
    await store.append([entry(started, chunks(turn_id, 4, "lost too"))])
    before = await log(store, turn_id)
    await rules.until(lambda: aof_bytes(server) > size)
    cut_tail(server, size)
    server.start()
    assert (await persistent(store, entry(started, chunks(turn_id, 5, "next"))))[0] == Appended(False, 2, "behind")
    assert await appended(store, entry(started, chunks(turn_id, 3, "lost", "lost too", "next"))) == [True]
    assert (await log(store, turn_id))[:4] == before


@without("a command that was sent is not cancelled")
async def test_t23_a_command_whose_caller_leaves_gives_nobody_its_answer(
    make: Make, rules: Rules, server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library closes a connection whose command was cancelled. Here it does not, so the rule of the store stands alone."""
    disconnect = AbstractConnection.disconnect

    async def stay(self: Any, nowait: bool = False, **given: Any) -> None:
        if not nowait:
            await disconnect(self, nowait, **given)

    store = make()
    turns = [await store.start_turn(asked(f"turn {n}", new_session_id=f"s{n}")) for n in range(5)]
    monkeypatch.setattr(AbstractConnection, "disconnect", stay)
    wrong = []
    for n, started in enumerate(turns):
        server.send(signal.SIGSTOP)
        doomed = asyncio.create_task(store.get_session(f"s{n}"))
        # The command is sent, and its answer does not come.
        await asyncio.sleep(0.02)
        doomed.cancel()
        asking = asyncio.create_task(store.get_turn(started.turn.turn_id))
        await asyncio.sleep(0.02)
        server.send(signal.SIGCONT)
        try:
            found = await asking
        except (ValueError, TypeError, AttributeError) as error:
            wrong.append(str(error))
        else:
            if found is None or (found.turn_id, found.session_id) != (started.turn.turn_id, f"s{n}"):
                wrong.append(str(found))
    monkeypatch.setattr(AbstractConnection, "disconnect", disconnect)
    assert wrong == []


@without("a line with an answer that nobody read is closed")
async def test_t23_an_append_whose_caller_leaves_gives_nobody_its_answer(
    make: Make, rules: Rules, server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the first append would be that of the second. The library closes the connection too, but not here."""
    disconnect = AbstractConnection.disconnect

    async def stay(self: Any, *given: Any, **options: Any) -> None:
        """The connection stays open."""

    store = make()
    started = [await store.start_turn(asked(f"turn {n}", new_session_id=f"s{n}")) for n in range(2)]
    (first, second), (one, other) = started, [turn.turn.turn_id for turn in started]
    assert await appended(store, entry(first, chunks(one, 2, "a"))) == [True]
    server.send(signal.SIGSTOP)
    doomed = asyncio.create_task(store.append([entry(first, chunks(one, 9, "a gap"))]))
    # The command is sent, and its answer does not come.
    await asyncio.sleep(0.02)
    monkeypatch.setattr(AbstractConnection, "disconnect", stay)
    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)
    monkeypatch.setattr(AbstractConnection, "disconnect", disconnect)
    appending = asyncio.create_task(store.append([entry(second, chunks(other, 2, "b"))]))
    await asyncio.sleep(0.02)
    server.send(signal.SIGCONT)
    assert await appending == [Appended(True, 2)]


@without("the same entry again is done once")
async def test_t24_an_append_whose_answer_was_lost(make: Make, rules: Rules) -> None:
    """Without the comparison of bytes the repeat looks like a fence, and the turn dies."""
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    one = entry(started, chunks(started.turn.turn_id, 2, "a", "b"))
    assert await appended(store, one) == [True]
    assert await appended(store, one) == [True]
    assert await appended(store, entry(started, chunks(started.turn.turn_id, 2, "other"))) == [False]
    assert [event.seq for event in await log(store, started.turn.turn_id)] == [1, 2, 3]


@without("a lease that ended during an outage proves nothing")
async def test_t25_an_outage_longer_than_a_lease_ends_no_living_turn(make: Make, rules: Rules) -> None:
    owner, other = make(), make()
    started = await owner.start_turn(asked(new_session_id="s1"))
    for store in (owner, other):
        store.clock_offset_ms += LEASE_S * 5 * 1000
    assert await other.reap() == []
    await owner.renew("me", [started.turn.turn_id], [])
    assert await pass_s(other, LEASE_S * 0.9) == []
    assert await appended(owner, entry(started, chunks(started.turn.turn_id, 2, "on"))) == [True]


@without("a lease that is over at a new primary proves nothing")
async def test_t25_a_new_primary_ends_no_turn_of_a_node_that_renewed_at_the_old_one(
    make: Make, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    primaries = iter(["old", "new"])

    async def primary_of(client: object) -> str:
        return next(primaries)

    monkeypatch.setattr("shared.store.redis.commands.primary_of", primary_of)
    owner, other = make(), make()
    started = await owner.start_turn(asked(new_session_id="s1"))
    assert not await other._commands.leave_old_primary()
    assert await pass_s(other, LEASE_S, alive=["me"]) == []
    # The owner renews at the old primary, so its lease at the new one is as old as what was copied last.
    assert await pass_s(other, LEASE_S * 0.9) == []
    assert await other._commands.leave_old_primary()
    assert await pass_s(other, LEASE_S * 0.9) == []
    owner.clock_offset_ms = other.clock_offset_ms
    await owner.renew("me", [started.turn.turn_id], [])
    assert await pass_s(other, LEASE_S * 0.9) == []
    assert await appended(owner, entry(started, chunks(started.turn.turn_id, 2, "on"))) == [True]


async def test_a_store_that_lost_its_scripts_goes_on(make: Make, server: Valkey) -> None:
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    await store.append([entry(started, chunks(turn_id, 2, "a"))])
    server.ask("SCRIPT", "FLUSH")
    assert await appended(store, entry(started, chunks(turn_id, 3, "b"))) == [True]
    assert [event.seq for event in await log(store, turn_id)] == [1, 2, 3]


async def test_a_full_store_says_so_and_writes_nothing(make: Make, server: Valkey) -> None:
    store = make()
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ChatError, match="the store is full"):
        await store.append([entry(started, chunks(turn_id, 2, "a"))])
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert await appended(store, entry(started, chunks(turn_id, 2, "a"))) == [True]


async def test_a_write_on_a_connection_that_has_just_been_closed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop raises RuntimeError for it, and not an OSError: to the store it is one more way of not being reached."""
    store, other = make(), make()
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    send, broken = AbstractConnection.send_packed_command, True

    async def fail(self: Any, *given: Any, **options: Any) -> None:
        if broken:
            await self.disconnect(nowait=True)
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        await send(self, *given, **options)

    async with following(other, turn_id) as follower:
        monkeypatch.setattr(AbstractConnection, "send_packed_command", fail)
        with pytest.raises(ChatError, match="cannot be reached"):
            await store.append([entry(started, chunks(turn_id, 2, "a"))])
        other._subscription._heard_s = 0.0
        await asyncio.sleep(1.2)
        broken = False
        await store.append([entry(started, chunks(turn_id, 2, "a"))])
        pushes = follower.pushes
        await until(lambda: len(follower.lines) == 2)
        await until(lambda: other._subscription._connection is not None)
        await store.append([entry(started, chunks(turn_id, 3, "b"))])
        await until(lambda: len(follower.lines) == 3 and follower.pushes >= pushes)
