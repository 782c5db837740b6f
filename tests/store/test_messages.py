"""Pages of a session's messages: in order, each once, and no page too long for one answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ChatError
from shared.session import Message
from shared.store.protocol import Store, TurnRow
from shared.store.sqlite import rows, running_texts
from shared.store.sqlite.store import SqliteStore
from shared.store.texts import MAX_TEXT_BYTES, cut_text
from tests.store.suite import NOW, asked, end, every, messages_of, new_session, refused, talk


async def pages(store: Store, session_id: str, limit: int) -> list[list[Message]]:
    found: list[list[Message]] = []
    after: str | None = None
    more = True
    while more:
        page, more = await store.list_messages(session_id, limit, after)
        found.append(page)
        after = page[-1].message_id if page else None
    return found


@every
async def test_pages_hold_each_message_once(store: Store) -> None:
    """A page may end between a question and its reply; a turn without a reply and one that runs have a question alone."""
    session_id = await new_session(store)
    for number in range(5):
        await talk(store, session_id, f"question {number}", f"reply {number}")
    await talk(store, session_id, "question without a reply", status="cancelled")
    running = await store.start_turn(asked("running", session_id=session_id))
    whole = await messages_of(store, session_id)
    assert len(whole) == 12
    for limit in (1, 2, 3, 11, 12, 13):
        found = await pages(store, session_id, limit)
        assert [message for page in found for message in page] == whole
        assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
    # The reply of the turn that was running comes after the cursor, which is the turn's question.
    last = whole[-1].message_id
    await end(store, running, "at last")
    page, more = await store.list_messages(session_id, 10, last)
    assert ([message.text for message in page], more) == (["at last"], False)


@every
async def test_a_cursor_that_the_session_does_not_show(store: Store) -> None:
    session_id, other = await new_session(store), await new_session(store)
    await talk(store, session_id, "one", "1")
    await talk(store, other, "two", "2")
    cursors = [message.message_id for one in (session_id, other) for message in await messages_of(store, one)]
    for wrong in (*cursors[2:], "x", "x:user", f"{cursors[0]}x", cursors[0].partition(":")[0]):
        assert await refused(store.list_messages(session_id, 10, wrong)) == "invalid_request"
    await store.clear_session(session_id, "me", 1.0)
    for gone in cursors[:2]:
        assert await refused(store.list_messages(session_id, 10, gone)) == "invalid_request"


@every
async def test_a_page_ends_before_its_texts_are_too_long(store: Store) -> None:
    session_id = await new_session(store)
    mib = "é" * (512 * 1024)
    await talk(store, session_id, mib, mib)
    await talk(store, session_id, mib, mib * 4)
    await talk(store, session_id, "x" * MAX_TEXT_BYTES, "y" * (MAX_TEXT_BYTES + 1))
    found = await pages(store, session_id, 500)
    sizes = [[len(message.text.encode()) for message in page] for page in found]
    one, most = 1024 * 1024, MAX_TEXT_BYTES
    assert sizes == [[one] * 3, [most], [most], [most]]
    assert [message.truncated for page in found for message in page] == [False, False, False, True, False, True]


@every
async def test_a_long_text_is_cut_in_messages_and_snapshots(store: Store) -> None:
    started = await store.start_turn(asked("Hi", new_session_id="s1"))
    text = "a" + "€" * (MAX_TEXT_BYTES // 3)
    await end(store, started, text)
    found = await store.read_text(started.turn.turn_id)
    assert found is not None
    cut, truncated = cut_text(found[1])
    assert truncated
    assert cut == text[: MAX_TEXT_BYTES // 3]
    assert len(cut.encode()) <= MAX_TEXT_BYTES


async def test_a_turn_that_is_deleted_while_it_is_read_is_no_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running turn is read twice, the second time with its log. Another process ends it and deletes its session in between."""
    here, elsewhere = (SqliteStore(str(tmp_path / "chat.db")) for _ in range(2))
    started = await here.start_turn(asked("Hi", new_session_id="s1"))
    select = rows.select_turn_and_text

    async def end_and_delete() -> None:
        await end(elsewhere, started, "Hello")
        await elsewhere.delete_session("s1", "test", NOW)

    def select_then_delete(*given: Any) -> tuple[TurnRow, str] | None:
        found = select(*given)
        if not deleted:
            deleted.append(True)
            asyncio.run_coroutine_threadsafe(end_and_delete(), loop).result()
        return found

    deleted: list[bool] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(running_texts, "select_turn_and_text", select_then_delete)
    assert await here.read_text(started.turn.turn_id) is None
    for store in (here, elsewhere):
        await store.close()


@pytest.mark.parametrize(("text", "kept"), [("abc", "abc"), ("ab€", "ab"), ("€€", "€"), ("", "")])
def test_cutting_keeps_characters_whole(text: str, kept: str) -> None:
    assert cut_text(text, 4) == (kept, kept != text)


@every
async def test_pages_of_no_session(store: Store) -> None:
    with pytest.raises(ChatError, match="session_not_found"):
        await store.list_messages("nobody", 10, None)
