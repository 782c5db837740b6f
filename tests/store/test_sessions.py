"""Sessions and their messages in the store."""

from __future__ import annotations

from shared.store.protocol import Store
from tests.store.suite import (
    NOW,
    asked,
    end,
    every,
    log,
    messages_of,
    new_session,
    refused,
    talk,
)


@every
async def test_sessions_and_their_messages(store: Store) -> None:
    session_id = await new_session(store, "m-session")
    session = await store.get_session(session_id)
    assert session is not None
    assert (session.model, session.message_count, session.created_at) == ("m-session", 0, NOW)
    assert (session.running_turn_id, session.last_turn_id) == (None, None)
    first = await talk(store, session_id, "one", "1")
    empty = await talk(store, session_id, "two", status="cancelled")
    second = await store.start_turn(asked("three", session_id=session_id))
    assert second.message_count == 4
    session = await store.get_session(session_id)
    assert session is not None
    assert (session.message_count, session.user_messages, session.model_messages) == (4, 3, 1)
    assert session.running_turn_id == session.last_turn_id == second.turn.turn_id
    assert second.first is not None
    assert session.last_activity_at == second.first.event.at
    messages = [(m.turn_id, m.role, m.text, m.status) for m in await messages_of(store, session_id)]
    assert messages == [
        (first.turn.turn_id, "user", "one", "completed"),
        (first.turn.turn_id, "model", "1", "completed"),
        (empty.turn.turn_id, "user", "two", "cancelled"),
        (second.turn.turn_id, "user", "three", "running"),
    ]
    ids = [message.message_id for message in await messages_of(store, session_id)]
    assert len(set(ids)) == len(ids)
    assert await store.get_session("nobody") is None


@every
async def test_pages_of_sessions(store: Store) -> None:
    """Newest first by (created_at, session_id), also for equal times. No session is on two pages."""
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
    assert await messages_of(store, session_id) == []
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
    assert await refused(store.list_messages(doomed, 10, None)) == "session_not_found"
    # The key of a deleted turn may be used again.
    keyed = await store.start_turn(asked(new_session_id="s9", request_id="k9"))
    await end(store, keyed)
    await store.delete_session("s9", "me", NOW)
    assert not (await store.start_turn(asked("other", new_session_id="s10", request_id="k9"))).joined
