"""Starting turns, appending to their logs, and reading them."""

from __future__ import annotations

import hashlib

from shared.events import (
    AnyEvent,
    Chunk,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    TurnCompleted,
    TurnInterrupted,
    TurnStarted,
)
from shared.llm.model import ContextMessage
from shared.reply import text_sha256
from shared.store.protocol import Appended, Store, StoredImage
from shared.store.record import Record
from tests.store.suite import (
    LEASE_S,
    NOW,
    PNG,
    appended,
    asked,
    chunks,
    end,
    entry,
    every,
    log,
    new_session,
    pass_s,
    refused,
    talk,
)


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
        at=first.at,
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
    """Only the owner of a running turn appends, and only after the last seq. A refused entry has written nothing."""
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    assert await appended(store, entry(started, chunks(turn_id, 2, "a", "b"))) == [True]
    for wrong in (
        entry(started, chunks(turn_id, 4, "x"), owner="another"),
        entry(started, chunks(turn_id, 3, "again")),
        entry(started, chunks(turn_id, 5, "gap")),
        entry(started, chunks("no such turn", 2, "x"), turn_id="no such turn"),
    ):
        assert await appended(store, wrong) == [False]
    # A stale entry does not affect the others in the same commit.
    second = await store.start_turn(asked(new_session_id="s2"))
    batch = [
        entry(started, chunks(turn_id, 3, "stale")),
        entry(second, chunks(second.turn.turn_id, 2, "fresh")),
        entry(started, chunks(turn_id, 4, "c")),
    ]
    assert await appended(store, *batch) == [False, True, True]
    assert [event.text for event in await log(store, turn_id, 1) if isinstance(event, Chunk)] == ["a", "b", "c"]
    await end(store, second, after=2)
    assert await appended(store, entry(second, chunks(second.turn.turn_id, 4, "after the end"))) == [False]
    turn = await store.get_turn(second.turn.turn_id)
    assert turn is not None
    assert (turn.status, turn.last_seq, turn.ended_at) == ("completed", 3, NOW + 50)


@every
async def test_an_entry_that_is_sent_again_is_done_once(store: Store) -> None:
    """The answer to the first attempt may be lost, also when the entry ends the turn."""
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    first = entry(started, chunks(turn_id, 2, "a", "b"))
    assert await store.append([first]) == [Appended(True, 3)]
    assert await store.append([first]) == [Appended(True, 3)]
    assert (await store.append([entry(started, chunks(turn_id, 2, "a", "other"))]))[0].why == "fenced"
    await end(store, started, "c", after=3)
    assert [event.seq for event in await log(store, turn_id)] == [1, 2, 3, 4, 5]
    await end(store, started, "c", after=3)
    assert [event.seq for event in await log(store, turn_id)] == [1, 2, 3, 4, 5]


@every
async def test_a_refusal_says_why(store: Store) -> None:
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    assert await store.append([entry(started, chunks(turn_id, 5, "e"))]) == [Appended(False, 1, "behind")]
    stranger = entry(started, chunks(turn_id, 2, "x"), owner="another")
    assert await store.append([stranger]) == [Appended(False, 1, "fenced")]
    nothing = entry(started, chunks("no such turn", 2, "x"), turn_id="no such turn")
    assert await store.append([nothing]) == [Appended(False, 0, "gone")]
    standings = await store.renew("me", [turn_id, "no such turn"], [])
    assert standings == [Appended(True, 1), Appended(False, 0, "gone")]
    assert (await store.renew("another", [turn_id], []))[0].why == "fenced"


@every
async def test_a_cancel_waits_for_the_owner(store: Store) -> None:
    """The cancel is kept with the turn. The owner learns of it with the next commit or renewal."""
    started = await store.start_turn(asked(new_session_id="s1"))
    turn_id = started.turn.turn_id
    await store.cancel(turn_id, "another")
    assert await store.renew("me", [turn_id], []) == [Appended(True, 1, cancel=True)]
    assert await store.append([entry(started, chunks(turn_id, 2, "a"))]) == [Appended(True, 2, cancel=True)]
    await end(store, started, status="cancelled", after=2)
    # A turn that has ended is not cancelled any more.
    await store.cancel(turn_id, "another")
    await store.cancel("no such turn", "another")


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
    assert await appended(store, entry(started, [Record.of(event) for event in events], images=[image])) == [True]
    assert await log(store, turn_id, 1) == events
    assert await log(store, turn_id, 3) == events[2:]
    assert await store.get_image("i1") == image
    assert await store.get_image("i2") is None


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
        store.list_messages("nobody", 10, None),
    ):
        assert await refused(missing) == "session_not_found"
    # Pictures outside a session do not hold up other turns.
    await store.start_turn(asked("A hill", kind="image"))
    await store.start_turn(asked("A hill", kind="image"))


@every
async def test_a_turn_whose_owner_is_gone_stands_in_nobodys_way(store: Store) -> None:
    session_id = await new_session(store)
    first = await store.start_turn(asked(session_id=session_id))
    await store.append([entry(first, chunks(first.turn.turn_id, 2, "Half a "))])
    await pass_s(store, LEASE_S * 1.5)
    second = await store.start_turn(asked("Go on", session_id=session_id))
    assert second.context == (ContextMessage("user", "Hi"), ContextMessage("model", "Half a "))
    last = (await log(store, first.turn.turn_id))[-1]
    assert last == TurnInterrupted(
        turn_id=first.turn.turn_id, seq=3, at=last.at, chunks=1, sha256=text_sha256("Half a "), epoch=1
    )
    assert await appended(store, entry(first, chunks(first.turn.turn_id, 3, "late"))) == [False]


@every
async def test_the_models_context(store: Store) -> None:
    """The context has completed, cancelled and interrupted turns whose reply has text; no failed turns, no pictures."""
    session_id = await new_session(store)
    await talk(store, session_id, "one", "1")
    await talk(store, session_id, "two", "2", status="failed")
    await talk(store, session_id, "three", "3", status="cancelled")
    await talk(store, session_id, "four", status="cancelled")
    await talk(store, session_id, "five", "5", status="interrupted")
    await talk(store, session_id, "six", status="interrupted")
    await talk(store, session_id, "seven")
    await talk(store, session_id, "blank", " \n\u00a0\t")
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
    for cap, kept in ((0, 0), (4, 0), (5, 2), (10, 2), (11, 4), (14, 4), (15, 6), (20, 6)):
        capped = await store.start_turn(asked("cap", session_id=session_id, max_context_chars=cap))
        assert [said.text for said in capped.context] == expected[len(expected) - kept :], cap
        await end(store, capped, status="failed")


@every
async def test_which_model(store: Store) -> None:
    """The requested model, else the session's, else the default. A picture has the default image model."""
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
