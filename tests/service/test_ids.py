"""The ids of turns: ordered by time, so that a commit writes few pages, and of another time where the newest page is damaged."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from pathlib import Path

import apsw
import pytest

from compare.measuring.stores.fill import fill
from shared.ids import ordered_id, scattered_id
from shared.session import short_turn
from shared.store.open import open_store
from shared.store.sqlite import store as sqlite_store
from tests.service.scripted import Serve, follow, saying, text_of
from tests.store.test_damage import damage_pages


def ms_of(turn_id: str) -> int:
    return uuid.UUID(turn_id).int >> 80


def test_ids_are_uuids_of_version_7() -> None:
    before_ms = time.time_ns() // 1_000_000
    ids = [ordered_id() for _ in range(10_000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    assert before_ms <= ms_of(ids[0]) <= ms_of(ids[-1]) <= after_ms
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in ids} == {(7, uuid.RFC_4122)}
    assert ids[0] == str(uuid.UUID(ids[0]))
    assert ms_of(ordered_id(1234.5)) == 1234


def test_a_turn_is_shown_by_what_no_other_turn_of_its_minute_has() -> None:
    ids = [ordered_id() for _ in range(100)]
    assert len({short_turn(each) for each in ids}) == 100
    assert all(each.endswith(short_turn(each)) and len(short_turn(each)) == 8 for each in ids)


def test_scattered_ids_are_of_every_age() -> None:
    now_ms = time.time() * 1000
    ids = [uuid.UUID(scattered_id()) for _ in range(8000)]
    assert {each.version for each in ids} == {4, 7}
    ages = Counter(max(1, int(now_ms - (each.int >> 80))).bit_length() for each in ids if each.version == 7)
    assert all(ages[bits] for bits in range(2, 42))


@pytest.mark.parametrize("index", ["segments", "sqlite_autoindex_turns_1"])
@pytest.mark.parametrize("older", [False, True], ids=["ordered", "random"])
async def test_turns_are_recorded_where_a_new_id_meets_a_damaged_page(
    older: bool, index: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a file of this version, and in one of an older version whose ids are random."""
    path = tmp_path / "chat.db"
    await open_store(f"sqlite:///{path}").close()
    if older:
        monkeypatch.setattr("compare.measuring.stores.fill.ordered_id", lambda _: str(uuid.uuid4()))
    fill(path, 2000, 1000, days=1)
    connection = apsw.Connection(str(path))
    table = "segments" if index == "segments" else "turns"
    query = f"SELECT coalesce((SELECT max(turn_id) FROM {table} WHERE turn_id < ?), min(turn_id)) FROM {table}"
    (neighbour,) = connection.execute(query, (ordered_id(),)).fetchall()[0]
    connection.close()
    assert damage_pages(path, str(neighbour).encode(), index) == 1
    # A server that starts would look for damage, and may write the file anew.
    monkeypatch.setattr(sqlite_store, "_made_usable", lambda *_: "")
    async with serve(saying("a", "b")) as here:
        turns = [await here.service.start_chat("Hi") for _ in range(20)]
        texts = [text_of(await follow(here.service, turn.turn_id)) for turn in turns]
        # A log whose page borders on the damaged page may not grow, so its turn ends without the rest.
        assert texts.count("ab") >= 15
        await here.store.check_write()
