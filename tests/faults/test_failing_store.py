"""A store that fails for a while, a turn whose lease is lost, signals that are missed: on services in this process."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.chat.service import ChatService, open_service
from shared.config import Settings
from shared.errors import ChatError
from shared.events import AnyEvent, TurnCompleted, TurnInterrupted
from shared.logger import open_logger
from shared.store.protocol import Append, Appended, News
from shared.store.sqlite.news import NewsWatch
from shared.store.sqlite.store import SqliteStore
from tests.faults.harness import rows, until


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        genai_provider="offline",
        image_provider="offline",
        offline_tokens_per_s=200,
        offline_first_token_ms=0,
        lease_s=0.5,
        store_url=f"sqlite:///{tmp_path / 'chat.db'}",
    )


@asynccontextmanager
async def opened(config: Settings) -> AsyncIterator[tuple[ChatService, io.StringIO]]:
    """A service and what it logs."""
    said = io.StringIO()
    async with open_service(config, logger=open_logger("test", said)) as service:
        yield service, said


async def events(service: ChatService, turn_id: str, after: int = 0) -> list[AnyEvent]:
    """The turn from a cursor to its end."""
    found: list[AnyEvent] = []
    async with asyncio.timeout(15):
        with await service.open(turn_id, after) as reader:
            async for records in reader:
                found.extend(record.event for record in records)
    return found


async def test_a_store_that_is_busy_for_a_moment_costs_nothing(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = SqliteStore.append, 0

    async def busy(self: SqliteStore, batch: Sequence[Append]) -> list[Appended]:
        nonlocal calls
        calls += 1
        if 5 < calls < 15:
            raise ChatError("storage_unavailable")
        return await append(self, batch)

    monkeypatch.setattr(SqliteStore, "append", busy)
    async with opened(config) as (service, _):
        turn = await service.start_chat("/tokens 40 hello")
        seen = await events(service, turn.turn_id)
    assert calls > 15
    assert isinstance(seen[-1], TurnCompleted)
    assert [event.seq for event in seen] == list(range(1, 43))


async def test_a_turn_that_the_store_will_not_take_is_interrupted_and_costs_no_other(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SqliteStore.append
    poisoned = ""

    async def poison(self: SqliteStore, batch: Sequence[Append]) -> list[Appended]:
        outcomes = await append(self, [entry for entry in batch if entry.turn_id != poisoned])
        refused = Appended(False, 0, "damaged")
        return [refused if entry.turn_id == poisoned else outcomes.pop(0) for entry in batch]

    monkeypatch.setattr(SqliteStore, "append", poison)
    async with opened(config) as (service, _):
        session = await service.create_session()
        bad = await service.start_chat("/tokens 400 bad", session_id=session.session_id)
        good = await service.start_chat("/tokens 100 good")
        await until(lambda: service._turn_logs.get(bad.turn_id).records[3:], 5, "it begins")  # type: ignore[union-attr]
        poisoned = bad.turn_id
        seen, others = await asyncio.gather(events(service, bad.turn_id), events(service, good.turn_id))
        if not isinstance(seen[-1], TurnInterrupted):
            # The readers of this turn were sent away before its terminal event. They come back and read it.
            seen += await until(lambda: events(service, bad.turn_id, len(seen)), 5, "it gets an end")
        assert isinstance(seen[-1], TurnInterrupted)
        assert isinstance(others[-1], TurnCompleted)
        after = await service.start_chat("/tokens 5 and now", session_id=session.session_id)
        assert isinstance((await events(service, after.turn_id))[-1], TurnCompleted)


async def test_a_turn_that_was_taken_away_stops_and_costs_no_other(
    config: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SqliteStore.append

    async def slow(self: SqliteStore, batch: Sequence[Append]) -> list[Appended]:
        done = await append(self, batch)
        # The models go on meanwhile.
        await asyncio.sleep(0.05)
        return done

    monkeypatch.setattr(SqliteStore, "append", slow)
    async with opened(config) as (service, said):
        taken = await service.start_chat("/tokens 2000 taken away")
        other = await service.start_chat("/tokens 200 goes on")
        log = service._turn_logs.get(taken.turn_id)
        assert log is not None
        await until(lambda: log.records[20:], 5, "it begins")
        # Another process would do the same after the lease has ended.
        interrupt = SqliteStore(str(tmp_path / "chat.db"))

        async def taken_away() -> bool:
            rows(tmp_path / "chat.db", "UPDATE turns SET lease_until = 0 WHERE turn_id = ?", taken.turn_id)
            await interrupt.reap()
            return (await service.get_turn(taken.turn_id)).status == "interrupted"

        await until(taken_away, 5, "it is taken away")
        await interrupt.close()
        seen, others = await asyncio.gather(events(service, taken.turn_id), events(service, other.turn_id))
    assert isinstance(seen[-1], TurnInterrupted)
    assert isinstance(others[-1], TurnCompleted)
    assert '"error"' not in said.getvalue()


async def test_news_are_not_missed_when_the_store_fails_in_between(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(config) as (writer, _), opened(config) as (follower, _):
        turn = await writer.start_chat("/tokens 60 followed")
        reading = asyncio.create_task(events(follower, turn.turn_id))
        log = await until(lambda: follower._turn_logs.get(turn.turn_id), 5, "it is followed")
        await until(lambda: log.records[10:], 5, "it is heard of")
        look: Any = NewsWatch._look
        store = follower._store

        def fail(self: NewsWatch, *args: Any) -> list[News]:
            if self is store._news:  # type: ignore[attr-defined]
                raise ChatError("storage_unavailable")
            found: list[News] = look(self, *args)
            return found

        monkeypatch.setattr(NewsWatch, "_look", fail)
        assert isinstance((await events(writer, turn.turn_id))[-1], TurnCompleted)
        # From here on nothing is written, so no signal would wake the watch.
        monkeypatch.setattr(NewsWatch, "_look", look)
        assert isinstance((await asyncio.wait_for(reading, 5))[-1], TurnCompleted)


async def test_a_cursor_that_is_ahead_of_this_process_is_waited_for(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    look: Any = NewsWatch._look
    async with opened(config) as (writer, _), opened(config) as (follower, _):
        turn = await writer.start_chat("/tokens 300 ahead")
        with await follower.open(turn.turn_id, 0):

            def deaf(self: NewsWatch, *args: Any) -> Any:
                return [] if self is follower._store._news else look(self, *args)  # type: ignore[attr-defined]

            monkeypatch.setattr(NewsWatch, "_look", deaf)
            log = writer._turn_logs.get(turn.turn_id)
            assert log is not None
            await until(lambda: log.records[50:], 5, "it goes on")
            seen = len(log.records)
            reader = await follower.open(turn.turn_id, seen)
            assert reader.after == seen
            with pytest.raises(ChatError, match="beyond the last event"):
                await follower.open(turn.turn_id, 10_000)
