"""The ids of turns: ordered by time, so that a commit writes few pages, and random where an ordered one meets damage."""

from __future__ import annotations

import time
import uuid

import pytest

from shared.chat.ids import ordered_id
from shared.store.protocol import Damaged, NewTurn, Started
from tests.service.scripted import Serve, SlowStore, follow, saying, text_of


def test_ids_are_uuids_of_version_7() -> None:
    before_ms = time.time_ns() // 1_000_000
    ids = [ordered_id() for _ in range(10_000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    times = [uuid.UUID(each).int >> 80 for each in ids]
    assert times == sorted(times)
    assert before_ms <= times[0] <= times[-1] <= after_ms
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in ids} == {(7, uuid.RFC_4122)}
    assert ids[0] == str(uuid.UUID(ids[0]))


async def test_a_turn_finds_a_place_where_the_newest_page_is_damaged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordered id belongs to the newest page of an index. A random one belongs to any."""
    asked: list[int | None] = []
    start_turn = SlowStore.start_turn

    async def refuse_ordered(store: SlowStore, new: NewTurn) -> Started:
        asked.append(uuid.UUID(new.turn_id).version)
        if asked[-1] == 7:
            raise Damaged
        return await start_turn(store, new)

    monkeypatch.setattr(SlowStore, "start_turn", refuse_ordered)
    async with serve(saying("a", "b")) as here:
        turn = await here.service.start_chat("Hi")
        assert text_of(await follow(here.service, turn.turn_id)) == "ab"
    assert asked == [7, 4]
