"""A store that cannot be opened or used."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from shared.store.open import open_store
from shared.store.protocol import Options
from tests.store.suite import LEASE_S, asked, new_session, pass_s, refused, talk


async def test_a_locked_database_is_storage_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.sqlite.connection.BUSY_TIMEOUT_MS", 100)
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


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_an_older_database_gets_what_it_lacks(version: int, tmp_path: Path) -> None:
    """The sessions of the older database are counted, and its running turn is interrupted."""
    path = tmp_path / "chat.db"
    connection = apsw.Connection(str(path))
    connection.execute((Path(__file__).parent / "versions" / f"{version}.sql").read_text())
    connection.close()
    store = open_store(f"sqlite:///{path}", Options(lease_s=LEASE_S))
    sessions, active = await store.list_sessions(10, None, 26_000)
    assert active == 2
    counts = [(one.session_id, one.user_messages, one.model_messages, one.running_turn_id) for one in sessions]
    assert counts == [("s3", 0, 0, None), ("s2", 1, 0, None), ("s1", 2, 1, "t4")]
    assert [one.last_turn_id for one in sessions] == [None, "t3", "t4"]
    assert await pass_s(store, LEASE_S * 1.5) == ["t4"]
    started = await talk(store, "s1", "four", "4")
    assert [message.text for message in started.context] == ["one", "1"]
    session = await store.get_session("s1")
    assert session is not None
    assert (session.user_messages, session.model_messages, session.running_turn_id) == (3, 2, None)
    await store.close()


async def test_a_database_of_another_version(tmp_path: Path) -> None:
    await open_store(f"sqlite:///{tmp_path}/chat.db").close()
    connection = apsw.Connection(str(tmp_path / "chat.db"))
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(ValueError, match="another version"):
        open_store(f"sqlite:///{tmp_path}/chat.db")
