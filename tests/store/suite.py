"""The stores under test, and the turns and records that the tests make.

A store that is added later is one more line in ``BACKENDS``.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from compare.valkey import Valkey
from shared.errors import ChatError
from shared.events import (
    AnyEvent,
    Chunk,
    Status,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    Usage,
)
from shared.ids import ordered_id
from shared.reply import text_sha256
from shared.session import Message
from shared.store.protocol import Append, End, NewTurn, Started, Store
from shared.store.record import Record
from shared.store.redis.store import RedisStore
from tests.conftest import with_prefix

NOW = 1_800_000_000_000.125
LEASE_S = 3.0
PNG = bytes(range(256)) * 800


@dataclass(frozen=True)
class Backend:
    """A store under test; ``shared``: other processes can open the same one."""

    name: str
    url: Callable[[Path], str]
    shared: bool


@cache
def valkey() -> Valkey:
    """One server for all tests of this process."""
    server = Valkey(Path(tempfile.mkdtemp(prefix="valkey-")), ["save ''", "appendonly yes"]).start()
    atexit.register(shutil.rmtree, server.folder, True)
    atexit.register(server.kill)
    return server


def redis_url(folder: Path) -> str:
    """The address of the server, with a prefix for the keys of one test."""
    return with_prefix(valkey().url, folder)


BACKENDS = (
    Backend("sqlite-file", lambda folder: f"sqlite:///{folder}/chat.db", shared=True),
    Backend("sqlite-memory", lambda folder: "sqlite://", shared=False),
    Backend("redis", redis_url, shared=True),
)
every = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
shared = pytest.mark.parametrize("backend", [b for b in BACKENDS if b.shared], ids=lambda backend: backend.name)


def asked(text: str = "Hi", **given: Any) -> NewTurn:
    new = NewTurn(
        turn_id=ordered_id(),
        kind="chat",
        input=text,
        session_id=None,
        new_session_id=None,
        model_id=None,
        default_model="m-default",
        request_id=None,
        request_hash=hashlib.sha256(text.encode()).hexdigest(),
        owner="me",
        max_context_chars=1000,
    )
    return replace(new, **given)


def chunks(turn_id: str, first_seq: int, *texts: str) -> list[Record]:
    return [
        Record.of(Chunk(turn_id=turn_id, seq=seq, at=NOW + seq, text=text)) for seq, text in enumerate(texts, first_seq)
    ]


def entry(started: Started, records: list[Record], **given: Any) -> Append:
    turn = started.turn
    append = Append(
        turn_id=turn.turn_id, session_id=turn.session_id, request_id=None, owner=turn.owner, records=records
    )
    return replace(append, **given)


async def appended(store: Store, *entries: Append) -> list[bool]:
    """Append in one commit; for each entry whether it is in the store."""
    return [outcome.done for outcome in await store.append(entries)]


async def pass_s(store: Store, seconds: float, *, alive: Sequence[str] = ()) -> list[str]:
    """Let time pass by the store's clock, while the processes ``alive`` renew. Returns the interrupted turns.

    Time passes in small steps with a look after each: a store without contact for long does not judge other processes.
    """
    ended = []
    for _ in range(12):
        store.clock_offset_ms += seconds * 1000 / 12
        for owner in alive:
            await store.renew(owner, [], [])
        ended += await store.reap()
    return ended


async def end(
    store: Store, started: Started, *texts: str, status: Status = "completed", at: float = NOW + 50, after: int = 1
) -> None:
    """Append these chunks after seq ``after`` and end the turn."""
    turn_id, text, seq = started.turn.turn_id, "".join(texts), after + 1 + len(texts)
    sha256 = text_sha256(text)
    events: dict[str, AnyEvent] = {
        "completed": TurnCompleted(
            turn_id=turn_id,
            seq=seq,
            at=at,
            finish_reason="stop",
            usage=Usage(1, 2),
            chunks=len(texts),
            message_count=2,
            elapsed_ms=50,
            sha256=sha256,
        ),
        "failed": TurnFailed(
            turn_id=turn_id, seq=seq, at=at, code="model_timeout", message="Late.", retryable=True, usage=Usage()
        ),
        "cancelled": TurnCancelled(turn_id=turn_id, seq=seq, at=at, usage=Usage(), chunks=len(texts), sha256=sha256),
        "interrupted": TurnInterrupted(turn_id=turn_id, seq=seq, at=at, chunks=len(texts), sha256=sha256),
    }
    records = [*chunks(turn_id, after + 1, *texts), Record.of(events[status])]
    ended = End(status=status, text=text, image_id=None, ended_at=at)
    assert await appended(store, entry(started, records, end=ended)) == [True]


async def talk(store: Store, session_id: str, text: str, *texts: str, status: Status = "completed") -> Started:
    started = await store.start_turn(asked(text, session_id=session_id))
    await end(store, started, *texts, status=status)
    return started


async def new_session(store: Store, model_id: str | None = None, now: float = NOW) -> str:
    session_id = str(uuid.uuid4())
    await store.create_session(session_id, model_id, now)
    return session_id


async def log(store: Store, turn_id: str, after: int = 0) -> list[AnyEvent]:
    found = await store.read(turn_id, after)
    assert found is not None
    assert [record.seq for record in found[1]] == list(range(after + 1, found[0].last_seq + 1))
    return [record.event for record in found[1]]


async def lasts(store: Store, image_id: str) -> bool:
    """Whether a picture is there and stays; Redis drops the others by itself, by the time of its machine."""
    if await store.get_image(image_id) is None:
        return False
    if isinstance(store, RedisStore):
        key = store._keys.image(image_id)
        return int(await store._commands.call(lambda client: client.pttl(key))) == -1
    return True


async def refused(work: Any) -> str:
    with pytest.raises(ChatError) as refusal:
        await work
    return refusal.value.code


async def messages_of(store: Store, session_id: str) -> list[Message]:
    """All messages of a session, which fit in one page."""
    messages, more = await store.list_messages(session_id, 500, None)
    assert not more
    return messages


async def purge_all(store: Store) -> None:
    """Drop everything that has been kept for long enough."""
    while await store.purge():
        pass
