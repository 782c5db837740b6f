"""The forms of a Redis in which a node has to find the server first: Sentinels that promote a replica, and a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compare.valkey import Replicated, Valkey
from protocols.ports import free_port
from shared.errors import ChatError
from shared.store.protocol import Options, Signal, StoredImage
from shared.store.redis.store import RedisStore
from tests.conftest import until
from tests.store.redis_parts import following, listening
from tests.store.suite import asked, chunks, end, entry, log

Start = Callable[..., Valkey]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start("cluster-enabled yes", …)``: a server with these settings."""
    started: list[Valkey] = []

    def one(*settings: str) -> Valkey:
        started.append(Valkey(tmp_path / f"valkey{len(started)}", settings))
        return started[-1].start()

    yield one
    for server in started:
        server.kill()


async def test_a_replica_that_a_sentinel_promotes_is_found(tmp_path: Path) -> None:
    """The primary dies with events that the replica has.

    The owner of the turn goes on, and the reader gets every event.
    """
    pair = await asyncio.to_thread(Replicated(tmp_path, ["save ''"], down_s=0.5).start)
    replica, url = pair._replica, pair.url
    owner, other = [await asyncio.to_thread(RedisStore, url, Options()) for _ in range(2)]
    started = await owner.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with following(other, turn_id) as follower:
        await owner.append([entry(started, chunks(turn_id, 2, "before"))])
        await until(lambda: turn_id.encode() in replica.ask("KEYS", "*" + turn_id) and len(follower.lines) == 2)
        await asyncio.to_thread(pair.lose_primary)
        async with asyncio.timeout(60):
            while True:
                try:
                    (appended,) = await owner.append([entry(started, chunks(turn_id, 3, "after"))])
                    break
                except ChatError as error:
                    assert error.code == "storage_unavailable"
                    await asyncio.sleep(0.05)
        assert appended.done
        await until(lambda: len(follower.lines) == 3)
    assert [event.seq for event in await log(other, turn_id)] == [1, 2, 3]
    assert await owner.reap() == []
    await owner.close()
    await other.close()
    pair.kill()


async def test_a_replica_is_not_read(start: Start) -> None:
    """What a replica shows may be old. A node that comes to one says that the store cannot be used, and tries again."""
    server, other = start("save ''"), start("save ''")
    store = await asyncio.to_thread(RedisStore, server.url, Options())
    await store.create_session("s1", None, 1.0)
    server.ask("REPLICAOF", "127.0.0.1", other.port)
    server.ask("CLIENT", "KILL", "TYPE", "normal")
    for _ in range(3):
        with pytest.raises(ChatError, match="storage_unavailable"):
            await store.get_session("s1")
    server.ask("REPLICAOF", "NO", "ONE")

    async def found() -> bool:
        with contextlib.suppress(ChatError):
            await store.get_session("s1")
            return True
        return False

    await until(found)
    await store.close()


async def test_a_cluster_pushes_to_the_other_nodes(start: Start) -> None:
    server = start("cluster-enabled yes", f"cluster-port {free_port()}", "save ''")
    assert server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383).startswith(b"+OK")
    await until(lambda: b"cluster_state:ok" in server.ask("CLUSTER", "INFO"))
    url = f"redis+cluster://127.0.0.1:{server.port}"
    owner, other = [await asyncio.to_thread(RedisStore, url, Options()) for _ in range(2)]
    owner.keep_leases("me")
    started = await owner.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with listening(other) as heard:
        await owner.cancel(turn_id, "x")
        await until(lambda: any(isinstance(news, Signal) and news.kind == "cancel" for news in heard))
    async with following(other, turn_id) as follower:
        for seq in range(2, 12):
            await owner.append([entry(started, chunks(turn_id, seq, f"{seq}"))])
        await until(lambda: len(follower.lines) == 11)
    assert (await other.renew("other", [], [turn_id])) == []
    assert await other.reap() == []
    await end(owner, started, after=11)
    assert len((await other.list_messages("s1", 10, None))[0]) == 2
    picture = await owner.start_turn(asked("A hill", kind="image"))
    image = StoredImage(
        image_id="i1",
        turn_id=picture.turn.turn_id,
        mime_type="image/png",
        width=1,
        height=1,
        sha256="00",
        preview=False,
        revised_prompt=None,
        data=b"png",
    )
    await owner.append([entry(picture, chunks(picture.turn.turn_id, 2, "x"), images=[image])])
    assert await other.get_image("i1") == image
    await owner.clear_session("s1", "me", 1.0)
    sessions, active = await other.list_sessions(10, None, 0)
    assert ([session.session_id for session in sessions], active) == (["s1"], 1)
    await owner.close()
    await other.close()


async def test_a_primary_that_was_replaced_is_left(tmp_path: Path) -> None:
    """The primary stands still, its replica is promoted, and the primary goes on: for 10 s it takes writes that are lost.

    The connections to it are as good as before. The node leaves them when a Sentinel names another primary.
    """
    pair = await asyncio.to_thread(Replicated(tmp_path, ["save ''"], down_s=0.5).start)
    old, new = pair.primary, pair._replica
    owner, other = [await asyncio.to_thread(RedisStore, pair.url, Options()) for _ in range(2)]
    owner.keep_leases("me")
    started = await owner.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    async with following(owner, turn_id), following(other, turn_id) as follower:
        await until(lambda: turn_id.encode() in new.ask("KEYS", "*" + turn_id))
        old.send(signal.SIGSTOP)
        await until(lambda: b"role:master" in new.ask("INFO", "replication"), timeout_s=30)
        old.send(signal.SIGCONT)

        async def left() -> bool:
            with contextlib.suppress(ChatError):
                await owner.append([entry(started, chunks(turn_id, 2, "after"))])
            return new.ask("HGET", "{genai}:t:" + turn_id, "last_seq") == b"$1\r\n2\r\n"

        await until(left)
        await until(lambda: len(follower.lines) == 2)
    assert b"role:master" in old.ask("INFO", "replication")
    await owner.close()
    await other.close()
    pair.kill()
