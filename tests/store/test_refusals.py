"""A store that cannot be opened or used."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from shared.store.open import open_store
from tests.store.suite import (
    asked,
    new_session,
    refused,
    talk,
)


async def test_a_locked_database_is_storage_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.sqlite.schema.BUSY_TIMEOUT_MS", 100)
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
    "url", ["redis://127.0.0.1:1", "rediss://127.0.0.1:1", "postgres://x", "sqlite:/x", "sqlite://x", "", "chat.db"]
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


async def test_a_database_of_the_version_before_is_taken_along(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = open_store(f"sqlite:///{path}")
    started = await talk(store, await new_session(store), "one", "1")
    await store.close()
    connection = apsw.Connection(str(path))
    connection.execute(
        "ALTER TABLE turns DROP COLUMN cancel; ALTER TABLE turns DROP COLUMN epoch; PRAGMA user_version = 1"
    )
    connection.close()
    store = open_store(f"sqlite:///{path}")
    turn = await store.get_turn(started.turn.turn_id)
    assert turn is not None
    assert (turn.status, turn.epoch) == ("completed", 0)
    await talk(store, await new_session(store), "two", "2")
    await store.close()


async def test_a_database_of_another_version(tmp_path: Path) -> None:
    await open_store(f"sqlite:///{tmp_path}/chat.db").close()
    connection = apsw.Connection(str(tmp_path / "chat.db"))
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(ValueError, match="another version"):
        open_store(f"sqlite:///{tmp_path}/chat.db")
