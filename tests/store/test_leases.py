"""Leases, turns whose server is gone, and what is dropped when it is old."""

from __future__ import annotations

from shared.events import (
    TurnCancelled,
    TurnInterrupted,
    Usage,
)
from shared.llm.model import ContextMessage
from shared.reply import text_sha256
from shared.store.protocol import End, Started, Store, StoredImage
from shared.store.record import Record
from tests.store.suite import (
    LEASE_MS,
    NOW,
    asked,
    chunks,
    end,
    entry,
    every,
    log,
    messages_of,
    new_session,
    talk,
)


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
    assert [(m.role, m.text, m.status) for m in await messages_of(store, session_id)] == [
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
    assert [message.text for message in await messages_of(store, session_id)] == ["one", "1", "two", "2"]
    # A key lives as long as its log.
    assert not (await store.start_turn(asked("other", new_session_id="s4", request_id="k"))).joined
    await store.purge(NOW + 1000, NOW + 1000, 0)
    assert await store.get_turn(old.turn.turn_id) is None
    assert await store.read(old.turn.turn_id, 0) is None
    assert [message.text for message in await messages_of(store, session_id)] == ["one", "1", "two", "2"]
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
