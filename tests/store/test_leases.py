"""Leases, turns whose server is gone, and what is dropped when it is old."""

from __future__ import annotations

from shared.events import (
    TurnCancelled,
    TurnInterrupted,
    Usage,
)
from shared.llm.model import ContextMessage
from shared.reply import text_sha256
from shared.store.protocol import End, Options, Started, Store, StoredImage
from shared.store.record import Record
from tests.store.suite import (
    LEASE_S,
    NOW,
    appended,
    asked,
    chunks,
    end,
    entry,
    every,
    lasts,
    log,
    messages_of,
    new_session,
    pass_s,
    purge_all,
    talk,
)

RETENTION_S = Options().retention_s


@every
async def test_reaping_what_has_no_owner(store: Store) -> None:
    session_id = await new_session(store)
    mine = await store.start_turn(asked(session_id=session_id))
    await store.append([entry(mine, chunks(mine.turn.turn_id, 2, "a", "b"))])
    theirs = await store.start_turn(asked(new_session_id="s2", owner="another"))
    assert await pass_s(store, LEASE_S / 2, alive=["another"]) == []
    assert await pass_s(store, LEASE_S * 1.5, alive=["another"]) == [mine.turn.turn_id]
    assert await pass_s(store, LEASE_S, alive=["another"]) == []
    last = (await log(store, mine.turn.turn_id))[-1]
    assert last == TurnInterrupted(
        turn_id=mine.turn.turn_id, seq=4, at=last.at, chunks=2, sha256=text_sha256("ab"), epoch=1
    )
    turn = await store.get_turn(mine.turn.turn_id)
    assert turn is not None
    assert (turn.status, turn.epoch) == ("interrupted", 1)
    assert [(m.role, m.text, m.status) for m in await messages_of(store, session_id)] == [
        ("user", "Hi", "interrupted"),
        ("model", "ab", "interrupted"),
    ]
    # The store refuses the writer that wakes up late. The other process's turn goes on.
    assert await appended(store, entry(mine, chunks(mine.turn.turn_id, 4, "late"))) == [False]
    assert await appended(store, entry(theirs, chunks(theirs.turn.turn_id, 2, "x"))) == [True]


@every
async def test_renewing_a_lease(store: Store) -> None:
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    assert await pass_s(store, LEASE_S * 2, alive=["me"]) == []
    # An append renews the lease too.
    for seq in range(2, 8):
        await store.append([entry(started, chunks(turn_id, seq, "x"))])
        assert await pass_s(store, LEASE_S / 2) == []
    assert await pass_s(store, LEASE_S * 1.5) == [turn_id]


@every
async def test_a_lease_shows_whether_its_owner_renews_it(store: Store) -> None:
    started = await store.start_turn(asked(new_session_id="s1"))

    async def lease() -> float:
        turn = await store.get_turn(started.turn.turn_id)
        assert turn is not None
        return turn.lease

    first = await lease()
    store.clock_offset_ms += 100
    assert await lease() == first
    await store.renew("me", [started.turn.turn_id], [])
    assert await lease() > first
    await store.renew("me", [], [], [started.turn.turn_id])
    assert await lease() == 0


@every
async def test_a_turn_that_is_dropped_ends_at_once(store: Store) -> None:
    """The process that dropped the turn lives, and renews the leases of its other turns."""
    dropped = await store.start_turn(asked(new_session_id="s1"))
    kept = await store.start_turn(asked(new_session_id="s2"))
    await store.renew("me", [], [], [dropped.turn.turn_id])
    store.clock_offset_ms += 1
    assert await store.reap() == [dropped.turn.turn_id]
    assert await appended(store, entry(kept, chunks(kept.turn.turn_id, 2, "x"))) == [True]


@every
async def test_when_a_turn_was_last_read(store: Store) -> None:
    """The time of the last read is by the store's clock, for readers in any process."""
    started = await store.start_turn(asked(new_session_id="s1"))
    await pass_s(store, 10, alive=["me"])
    turn = await store.get_turn(started.turn.turn_id)
    assert turn is not None
    assert turn.unread_ms >= 10_000
    await store.renew("another", [], [started.turn.turn_id])
    turn = await store.get_turn(started.turn.turn_id)
    assert turn is not None
    assert turn.unread_ms < 10_000


@every
async def test_old_logs_expire_then_vanish(store: Store) -> None:
    """The log goes first, the turn is ``expired`` for a while, then not found; the messages stay with their session."""
    session_id = await new_session(store)
    old = await talk(store, session_id, "one", "1")
    keyed = await store.start_turn(asked(new_session_id="s2", request_id="k"))
    await end(store, keyed, "x")
    store.clock_offset_ms += 5000
    fresh = await store.start_turn(asked("two", session_id=session_id))
    await end(store, fresh, "2", at=NOW + 5000)
    running = await store.start_turn(asked(new_session_id="s3"))
    store.clock_offset_ms += RETENTION_S * 1000 - 4000
    await purge_all(store)
    for turn_id, expired in ((old.turn.turn_id, True), (fresh.turn.turn_id, False), (running.turn.turn_id, False)):
        turn = await store.get_turn(turn_id)
        assert turn is not None
        assert turn.expired is expired
    found = await store.read(old.turn.turn_id, 0)
    assert found is not None
    assert (found[0].expired, found[1]) == (True, [])
    assert [message.text for message in await messages_of(store, session_id)] == ["one", "1", "two", "2"]
    # A key can be used again when the log of its turn has expired.
    assert not (await store.start_turn(asked("other", new_session_id="s4", request_id="k"))).joined
    store.clock_offset_ms += Options().tombstone_s * 1000
    await purge_all(store)
    assert await store.get_turn(old.turn.turn_id) is None
    assert await store.read(old.turn.turn_id, 0) is None
    assert [message.text for message in await messages_of(store, session_id)] == ["one", "1", "two", "2"]
    assert (await store.start_turn(asked("three", session_id=session_id))).context[0] == ContextMessage("user", "one")


@every
async def test_pictures_go_with_what_shows_them(store: Store) -> None:
    """A picture among messages stays. Previews, and pictures that no session shows, are dropped with the log."""

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
        assert await appended(store, *batch) == [True]
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
    store.clock_offset_ms += RETENTION_S * 1000 + 1000
    await purge_all(store)
    left = {name for name in ("kept", "kept-preview", "loose", "cleared") if await lasts(store, name)}
    assert left == {"kept"}
    await draw("late", kept)
    await store.clear_session(kept, "me", NOW)
    store.clock_offset_ms += RETENTION_S * 1000 + 1000
    await purge_all(store)
    assert not await lasts(store, "kept")
    assert not await lasts(store, "late")
