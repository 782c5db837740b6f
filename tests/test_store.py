"""What every store must do, whichever it is: one suite for the Store protocol, run over each.

A store that is added later is one more line in ``BACKENDS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from shared.errors import ChatError
from shared.events import (
    AnyEvent,
    Chunk,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    Status,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    TurnStarted,
    Usage,
)
from shared.llm.model import ContextMessage
from shared.reply import text_sha256
from shared.store.open import open_store
from shared.store.protocol import Append, End, NewTurn, Started, Store, StoredImage
from shared.store.record import Record

NOW = 1_800_000_000_000.125
LEASE_MS = 3000.0
PNG = bytes(range(256)) * 800


@dataclass(frozen=True)
class Backend:
    """A store under test; ``shared``: other processes can open the same one."""

    name: str
    url: Callable[[Path], str]
    shared: bool


BACKENDS = (
    Backend("sqlite-file", lambda folder: f"sqlite:///{folder}/chat.db", shared=True),
    Backend("sqlite-memory", lambda folder: "sqlite://", shared=False),
)
every = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
shared = pytest.mark.parametrize("backend", [b for b in BACKENDS if b.shared], ids=lambda backend: backend.name)


@pytest.fixture
async def store(backend: Backend, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(backend.url(tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
async def other(backend: Backend, tmp_path: Path, store: Store) -> AsyncIterator[Store]:
    """The same store as another process has it."""
    opened = open_store(backend.url(tmp_path))
    yield opened
    await opened.close()


def asked(text: str = "Hi", **given: Any) -> NewTurn:
    new = NewTurn(
        turn_id=str(uuid.uuid4()),
        kind="chat",
        input=text,
        session_id=None,
        new_session_id=None,
        model_id=None,
        default_model="m-default",
        request_id=None,
        request_hash=hashlib.sha256(text.encode()).hexdigest(),
        owner="me",
        now=NOW,
        lease_until=NOW + LEASE_MS,
        attended=True,
        max_context_chars=1000,
    )
    return replace(new, **given)


def chunks(turn_id: str, first_seq: int, *texts: str) -> list[Record]:
    return [
        Record.of(Chunk(turn_id=turn_id, seq=seq, at=NOW + seq, text=text)) for seq, text in enumerate(texts, first_seq)
    ]


def entry(started: Started, records: list[Record], **given: Any) -> Append:
    turn = started.turn
    return replace(
        Append(turn_id=turn.turn_id, owner=turn.owner, lease_until=turn.lease_until, records=records), **given
    )


async def end(
    store: Store, started: Started, *texts: str, status: Status = "completed", at: float = NOW + 50, after: int = 1
) -> None:
    """Say these chunks after seq ``after`` and end the turn."""
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
    assert await store.append([entry(started, records, end=ended)]) == [True]


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


async def refused(work: Any) -> str:
    with pytest.raises(ChatError) as refusal:
        await work
    return refusal.value.code


# -- the log -----------------------------------------------------------------------------------------------------------


@every
async def test_a_log_is_read_as_it_was_written(store: Store) -> None:
    started = await store.start_turn(asked("Olá\u2028\u0085", new_session_id="s1", model_id="m-x", request_id="key 1"))
    texts = ("a\n\n b", "\u2028", "👩‍👩‍👧‍👦", "\t")
    await end(store, started, *texts)
    turn_id = started.turn.turn_id
    first, *said, last = await log(store, turn_id)
    assert first == TurnStarted(
        turn_id=turn_id,
        seq=1,
        at=NOW,
        session_id="s1",
        kind="chat",
        input="Olá\u2028\u0085",
        model="m-x",
        context_messages=0,
        request_id="key 1",
    )
    assert [(event.seq, event.at, event.text) for event in said if isinstance(event, Chunk)] == [
        (seq, NOW + seq, text) for seq, text in enumerate(texts, 2)
    ]
    assert isinstance(last, TurnCompleted)
    assert (started.joined, started.made_session, started.context, started.message_count) == (False, True, (), 1)
    for after in range(8):
        found = await store.read(turn_id, after)
        assert found is not None
        assert [record.seq for record in found[1]] == list(range(after + 1, 7))
    text = await store.read_text(turn_id)
    assert text is not None
    assert (text[0].status, text[1]) == ("completed", "".join(texts))
    assert await store.read("no such turn", 0) is None
    assert await store.read_text("no such turn") is None
    assert await store.get_turn("no such turn") is None


@every
async def test_the_fence_keeps_stale_writers_out(store: Store) -> None:
    """Only the owner of a running turn appends, and only what follows the last seq; what is refused wrote nothing."""
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    assert await store.append([entry(started, chunks(turn_id, 2, "a", "b"))]) == [True]
    for wrong in (
        entry(started, chunks(turn_id, 4, "x"), owner="another"),
        entry(started, chunks(turn_id, 3, "again")),
        entry(started, chunks(turn_id, 5, "gap")),
        entry(started, chunks("no such turn", 2, "x"), turn_id="no such turn"),
    ):
        assert await store.append([wrong]) == [False]
    # A stale entry costs the others in the same commit nothing.
    second = await store.start_turn(asked(new_session_id="s2"))
    batch = [
        entry(started, chunks(turn_id, 3, "stale")),
        entry(second, chunks(second.turn.turn_id, 2, "fresh")),
        entry(started, chunks(turn_id, 4, "c")),
    ]
    assert await store.append(batch) == [False, True, True]
    assert [event.text for event in await log(store, turn_id, 1) if isinstance(event, Chunk)] == ["a", "b", "c"]
    await end(store, second, after=2)
    assert await store.append([entry(second, chunks(second.turn.turn_id, 4, "after the end"))]) == [False]
    turn = await store.get_turn(second.turn.turn_id)
    assert turn is not None
    assert (turn.status, turn.last_seq, turn.ended_at) == ("completed", 3, NOW + 50)


@every
async def test_a_picture_is_kept_once_and_read_in_pieces(store: Store) -> None:
    started = await store.start_turn(asked("A hill", kind="image", max_context_chars=0))
    turn_id, sha256 = started.turn.turn_id, hashlib.sha256(PNG).hexdigest()
    image = StoredImage(
        image_id="i1",
        turn_id=turn_id,
        mime_type="image/png",
        width=8,
        height=9,
        sha256=sha256,
        preview=False,
        revised_prompt="A green hill",
        data=PNG,
    )
    events: list[AnyEvent] = [
        ImageStarted(
            turn_id=turn_id,
            seq=2,
            at=NOW,
            image_id="i1",
            mime_type="image/png",
            width=8,
            height=9,
            size_bytes=len(PNG),
            preview=False,
        )
    ]
    for offset in range(0, len(PNG), 65536):
        piece = PNG[offset : offset + 65536]
        events.append(
            ImageChunk(turn_id=turn_id, seq=len(events) + 2, at=NOW, image_id="i1", offset=offset, data=piece)
        )
    events.append(
        ImageCompleted(turn_id=turn_id, seq=len(events) + 2, at=NOW, image_id="i1", sha256=sha256, revised_prompt=None)
    )
    assert await store.append([entry(started, [Record.of(event) for event in events], images=[image])]) == [True]
    assert await log(store, turn_id, 1) == events
    assert await log(store, turn_id, 3) == events[2:]
    assert await store.get_image("i1") == image
    assert await store.get_image("i2") is None


# -- starting ----------------------------------------------------------------------------------------------------------


@every
async def test_a_key_is_one_turn(store: Store) -> None:
    first = await store.start_turn(asked("Hi", new_session_id="s1", request_id="k"))
    again = await store.start_turn(asked("Hi", new_session_id="s2", request_id="k"))
    assert again.joined
    assert again.turn.turn_id == first.turn.turn_id
    assert await store.get_session("s2") is None
    await end(store, first, "Hello")
    assert (await store.start_turn(asked("Hi", request_id="k"))).turn.status == "completed"
    other = asked("Something else", new_session_id="s3", request_id="k")
    assert await refused(store.start_turn(other)) == "idempotency_key_reused"
    assert await store.get_session("s3") is None
    assert await store.get_turn(other.turn_id) is None


@every
async def test_one_running_turn_a_session(store: Store) -> None:
    session_id = await new_session(store)
    first = await store.start_turn(asked(session_id=session_id))
    assert await refused(store.start_turn(asked(session_id=session_id))) == "turn_in_progress"
    assert await refused(store.start_turn(asked("A hill", kind="image", session_id=session_id))) == "turn_in_progress"
    assert await refused(store.clear_session(session_id, "me", NOW)) == "turn_in_progress"
    assert await refused(store.delete_session(session_id, "me", NOW)) == "turn_in_progress"
    await end(store, first)
    await talk(store, session_id, "Now?", "Yes.")
    for missing in (
        store.start_turn(asked(session_id="nobody")),
        store.clear_session("nobody", "me", NOW),
        store.delete_session("nobody", "me", NOW),
        store.list_messages("nobody"),
    ):
        assert await refused(missing) == "session_not_found"
    # Pictures outside a session get in nobody's way.
    await store.start_turn(asked("A hill", kind="image"))
    await store.start_turn(asked("A hill", kind="image"))


@every
async def test_a_turn_whose_owner_is_gone_stands_in_nobodys_way(store: Store) -> None:
    session_id = await new_session(store)
    first = await store.start_turn(asked(session_id=session_id))
    await store.append([entry(first, chunks(first.turn.turn_id, 2, "Half a "))])
    later = NOW + LEASE_MS + 1
    second = await store.start_turn(asked("Go on", session_id=session_id, now=later, lease_until=later + LEASE_MS))
    assert second.context == (ContextMessage("user", "Hi"), ContextMessage("model", "Half a "))
    last = (await log(store, first.turn.turn_id))[-1]
    assert last == TurnInterrupted(turn_id=first.turn.turn_id, seq=3, at=later, chunks=1, sha256=text_sha256("Half a "))
    assert await store.append([entry(first, chunks(first.turn.turn_id, 3, "late"))]) == [False]


@every
async def test_the_models_context(store: Store) -> None:
    """Completed, cancelled and interrupted turns whose reply has text; never failed ones, never pictures."""
    session_id = await new_session(store)
    await talk(store, session_id, "one", "1")
    await talk(store, session_id, "two", "2", status="failed")
    await talk(store, session_id, "three", "3", status="cancelled")
    await talk(store, session_id, "four", status="cancelled")
    await talk(store, session_id, "five", "5", status="interrupted")
    await talk(store, session_id, "six", status="interrupted")
    await talk(store, session_id, "seven")
    await talk(store, session_id, "seven and a half", " \n\u00a0\t")
    picture = await store.start_turn(asked("A hill", kind="image", session_id=session_id))
    assert picture.context == ()
    await end(store, picture)
    expected = ["one", "1", "three", "3", "five", "5"]
    started = await store.start_turn(asked("eight", session_id=session_id))
    assert [said.text for said in started.context] == expected
    assert [said.role for said in started.context] == ["user", "model"] * 3
    assert started.first is not None
    assert isinstance(started.first.event, TurnStarted)
    assert started.first.event.context_messages == len(expected)
    await end(store, started, "8", status="failed")
    for cap, kept in ((0, 0), (4, 0), (5, 2), (10, 2), (11, 4), (14, 4), (15, 6)):
        capped = await store.start_turn(asked("cap", session_id=session_id, max_context_chars=cap))
        assert [said.text for said in capped.context] == expected[len(expected) - kept :], cap
        await end(store, capped, status="failed")


@every
async def test_which_model(store: Store) -> None:
    """Asked for, else the session's, else the default; a picture has the image model's."""
    plain, chosen = await new_session(store), await new_session(store, "m-session")
    for given, session_id, expected in (
        (None, plain, "m-default"),
        ("m-asked", plain, "m-asked"),
        (None, chosen, "m-session"),
        ("m-asked", chosen, "m-asked"),
    ):
        started = await store.start_turn(asked(session_id=session_id, model_id=given))
        assert started.model == expected
        await end(store, started)
    drawn = await store.start_turn(asked("A hill", kind="image", session_id=chosen, default_model="m-image"))
    assert drawn.model == "m-image"


# -- sessions ----------------------------------------------------------------------------------------------------------


@every
async def test_sessions_and_their_messages(store: Store) -> None:
    session_id = await new_session(store, "m-session")
    session = await store.get_session(session_id)
    assert session is not None
    assert (session.model, session.message_count, session.created_at) == ("m-session", 0, NOW)
    assert (session.running_turn_id, session.last_turn_id) == (None, None)
    first = await talk(store, session_id, "one", "1")
    empty = await talk(store, session_id, "two", status="cancelled")
    second = await store.start_turn(asked("three", session_id=session_id, now=NOW + 99))
    assert second.message_count == 4
    session = await store.get_session(session_id)
    assert session is not None
    assert (session.message_count, session.user_messages, session.model_messages) == (4, 3, 1)
    assert session.running_turn_id == session.last_turn_id == second.turn.turn_id
    assert session.last_activity_at == NOW + 99
    messages = [(m.turn_id, m.role, m.text, m.status) for m in await store.list_messages(session_id)]
    assert messages == [
        (first.turn.turn_id, "user", "one", "completed"),
        (first.turn.turn_id, "model", "1", "completed"),
        (empty.turn.turn_id, "user", "two", "cancelled"),
        (second.turn.turn_id, "user", "three", "running"),
    ]
    ids = [message.message_id for message in await store.list_messages(session_id)]
    assert len(set(ids)) == len(ids)
    assert await store.get_session("nobody") is None


@every
async def test_pages_of_sessions(store: Store) -> None:
    """Newest first by (created_at, session_id), also where several have the same time; no page has one twice."""
    made = [(await new_session(store, now=NOW + n // 3), NOW + n // 3) for n in range(10)]
    expected = [session_id for session_id, _ in sorted(made, key=lambda one: (one[1], one[0]), reverse=True)]
    seen: list[str] = []
    before: tuple[float, str] | None = None
    while True:
        page, active = await store.list_sessions(4, before, NOW + 2)
        assert active == 4
        if not page:
            break
        seen += [session.session_id for session in page]
        before = (page[-1].created_at, page[-1].session_id)
    assert seen == expected


@every
async def test_clearing_keeps_the_logs_and_deleting_does_not(store: Store) -> None:
    session_id = await new_session(store)
    started = await talk(store, session_id, "one", "1")
    turn_id = started.turn.turn_id
    await store.clear_session(session_id, "me", NOW + 60)
    assert await store.list_messages(session_id) == []
    assert len(await log(store, turn_id)) == 3
    session = await store.get_session(session_id)
    assert session is not None
    assert (session.message_count, session.last_turn_id, session.last_activity_at) == (0, None, NOW + 60)
    assert (await store.start_turn(asked("two", session_id=session_id))).context == ()
    doomed = await new_session(store)
    gone = (await talk(store, doomed, "one", "1")).turn.turn_id
    await store.delete_session(doomed, "me", NOW)
    assert await store.get_session(doomed) is None
    assert await store.read(gone, 0) is None
    assert await store.get_turn(gone) is None
    assert await refused(store.list_messages(doomed)) == "session_not_found"
    # The key of a turn that is gone may be used again.
    keyed = await store.start_turn(asked(new_session_id="s9", request_id="k9"))
    await end(store, keyed)
    await store.delete_session("s9", "me", NOW)
    assert not (await store.start_turn(asked("other", new_session_id="s10", request_id="k9"))).joined


# -- leases and age ----------------------------------------------------------------------------------------------------


@every
async def test_reaping_what_has_no_owner(store: Store) -> None:
    session_id = await new_session(store)
    mine = await store.start_turn(asked(session_id=session_id))
    await store.append([entry(mine, chunks(mine.turn.turn_id, 2, "a", "b"))])
    theirs = await store.start_turn(asked(new_session_id="s2", owner="another", lease_until=NOW + 10_000))
    assert await store.reap(NOW + LEASE_MS) == []
    assert await store.reap(NOW + LEASE_MS + 1) == [mine.turn.turn_id]
    assert await store.reap(NOW + LEASE_MS + 1) == []
    last = (await log(store, mine.turn.turn_id))[-1]
    assert last == TurnInterrupted(
        turn_id=mine.turn.turn_id, seq=4, at=NOW + LEASE_MS + 1, chunks=2, sha256=text_sha256("ab")
    )
    assert [(m.role, m.text, m.status) for m in await store.list_messages(session_id)] == [
        ("user", "Hi", "interrupted"),
        ("model", "ab", "interrupted"),
    ]
    # The writer that wakes up late finds itself locked out; the other's turn goes on.
    assert await store.append([entry(mine, chunks(mine.turn.turn_id, 4, "late"))]) == [False]
    assert await store.append([entry(theirs, chunks(theirs.turn.turn_id, 2, "x"))]) == [True]


@every
async def test_renewing_a_lease(store: Store) -> None:
    started = await store.start_turn(asked(new_session_id="s1"))
    read = await store.start_turn(asked(new_session_id="s2", owner="another"))
    await store.renew("me", NOW + 9000, [read.turn.turn_id], NOW + 500)
    assert await store.reap(NOW + 8999) == [read.turn.turn_id]
    mine, theirs = await store.get_turn(started.turn.turn_id), await store.get_turn(read.turn.turn_id)
    assert mine is not None
    assert theirs is not None
    assert (mine.status, mine.lease_until, mine.last_read_at) == ("running", NOW + 9000, NOW)
    assert theirs.last_read_at == NOW + 500
    # An append renews the lease too.
    await store.append([entry(started, chunks(started.turn.turn_id, 2, "x"), lease_until=NOW + 20_000)])
    assert await store.reap(NOW + 19_999) == []


@every
async def test_old_logs_expire_then_vanish(store: Store) -> None:
    """The log goes first, the turn is ``expired`` for a while, then not found; the messages stay with their session."""
    session_id = await new_session(store)
    old = await talk(store, session_id, "one", "1")
    keyed = await store.start_turn(asked(new_session_id="s2", request_id="k"))
    await end(store, keyed, "x")
    fresh = await store.start_turn(asked("two", session_id=session_id))
    await end(store, fresh, "2", at=NOW + 5000)
    running = await store.start_turn(asked(new_session_id="s3"))
    await store.purge(NOW + 1000, 0, 0)
    for turn_id, expired in ((old.turn.turn_id, True), (fresh.turn.turn_id, False), (running.turn.turn_id, False)):
        turn = await store.get_turn(turn_id)
        assert turn is not None
        assert turn.expired is expired
    found = await store.read(old.turn.turn_id, 0)
    assert found is not None
    assert (found[0].expired, found[1]) == (True, [])
    assert [message.text for message in await store.list_messages(session_id)] == ["one", "1", "two", "2"]
    # A key lives as long as its log.
    assert not (await store.start_turn(asked("other", new_session_id="s4", request_id="k"))).joined
    await store.purge(NOW + 1000, NOW + 1000, 0)
    assert await store.get_turn(old.turn.turn_id) is None
    assert await store.read(old.turn.turn_id, 0) is None
    assert [message.text for message in await store.list_messages(session_id)] == ["one", "1", "two", "2"]
    assert (await store.start_turn(asked("three", session_id=session_id))).context[0] == ContextMessage("user", "one")


@every
async def test_pictures_go_with_what_shows_them(store: Store) -> None:
    """A picture among messages stays; previews, and pictures that no session shows any more, go with the log."""

    async def draw(image_id: str, session_id: str | None) -> Started:
        started = await store.start_turn(asked("A hill", kind="image", session_id=session_id))
        pictures = [
            StoredImage(
                image_id=image_id + suffix,
                turn_id=started.turn.turn_id,
                mime_type="image/png",
                width=1,
                height=1,
                sha256="00",
                preview=bool(suffix),
                revised_prompt=None,
                data=b"png",
            )
            for suffix in ("", "-preview")
        ]
        turn_id = started.turn.turn_id
        cancelled = TurnCancelled(turn_id=turn_id, seq=2, at=NOW, usage=Usage(), chunks=0, sha256=None)
        ended = End(status="cancelled", text="", image_id=image_id, ended_at=NOW)
        batch = [entry(started, [Record.of(cancelled)], images=pictures, end=ended)]
        assert await store.append(batch) == [True]
        return started

    kept, cleared, deleted = [await new_session(store) for _ in range(3)]
    await draw("kept", kept)
    await draw("loose", None)
    await draw("cleared", cleared)
    await draw("deleted", deleted)
    await store.delete_session(deleted, "me", NOW)
    assert await store.get_image("deleted") is None
    await store.clear_session(cleared, "me", NOW)
    assert await store.get_image("cleared") is not None
    await store.purge(NOW + 1, NOW + 1, 0)
    left = {name for name in ("kept", "kept-preview", "loose", "cleared") if await store.get_image(name) is not None}
    assert left == {"kept"}
    await draw("late", kept)
    await store.purge(NOW + 1, 0, 0)
    await store.clear_session(kept, "me", NOW)
    await store.purge(NOW + 1, NOW + 1, 0)
    assert await store.get_image("kept") is None
    assert await store.get_image("late") is None


@every
async def test_a_word_to_the_other_processes(store: Store) -> None:
    assert await store.last_signal() == 0
    await store.signal("me", "cancel", NOW, turn_id="t1")
    last = await store.last_signal()
    assert last > 0
    await store.purge(0, 0, NOW + 1)
    assert await store.last_signal() == last


# -- several processes -------------------------------------------------------------------------------------------------


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


WRITER = """
import asyncio, sys
from shared.errors import ChatError
from shared.events import Chunk
from shared.store import Append, open_store
from shared.turn import Record
from tests.test_store import asked, chunks, end, entry

async def main(url, me, turns):
    store = open_store(url)
    print("ready", flush=True)
    sys.stdin.readline()
    won = joined = 0
    for n in range(int(turns)):
        started = await store.start_turn(asked("race", new_session_id=f"race-{n}-{me}", request_id=f"race-{n}", owner=me))
        joined += started.joined
        if not started.joined:
            assert await store.append([entry(started, chunks(started.turn.turn_id, 2, me))]) == [True]
        try:
            await store.start_turn(asked("mine", session_id=f"session-{n}", owner=me))
            won += 1
        except ChatError as refusal:
            assert refusal.code == "turn_in_progress", refusal
        async def stream(number):
            one = await store.start_turn(asked("Hi", new_session_id=f"{me}-{n}-{number}", owner=me))
            for seq in range(2, 12):
                assert await store.append([entry(one, chunks(one.turn.turn_id, seq, f"{seq} "))]) == [True]
        await asyncio.gather(*(stream(number) for number in range(4)))
    print(won, joined, flush=True)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


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
                "-c",
                WRITER,
                url,
                f"writer {me}",
                str(turns),
                cwd=Path(__file__).parent.parent,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
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


# -- when it cannot ----------------------------------------------------------------------------------------------------


async def test_a_locked_database_is_storage_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.sqlite._BUSY_TIMEOUT_MS", 100)
    url = f"sqlite:///{tmp_path}/chat.db"
    store = open_store(url)
    session_id = await new_session(store)
    connection = apsw.Connection(str(tmp_path / "chat.db"))
    connection.execute("BEGIN IMMEDIATE")
    assert await refused(store.start_turn(asked(session_id=session_id))) == "storage_unavailable"
    assert await store.get_session(session_id) is not None
    connection.execute("ROLLBACK")
    connection.close()
    await talk(store, session_id, "Again", "Yes")
    await store.close()


@pytest.mark.parametrize(
    "url", ["redis://localhost", "rediss://x", "postgres://x", "sqlite:/x", "sqlite://x", "", "chat.db"]
)
def test_a_store_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match="STORE_URL"):
        open_store(url)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.write_bytes(b"This is no database. " * 100)
    with pytest.raises(ValueError, match="STORE_URL"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"This is no database.")


async def test_a_database_of_another_version(tmp_path: Path) -> None:
    await open_store(f"sqlite:///{tmp_path}/chat.db").close()
    connection = apsw.Connection(str(tmp_path / "chat.db"))
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(ValueError, match="another version"):
        open_store(f"sqlite:///{tmp_path}/chat.db")
