"""A store on another machine that goes back over the end of a turn: the turn runs again in the store, and nobody generates it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from shared.events import AnyEvent, TurnInterrupted, event_type
from shared.images.model import ImagePart
from tests.conftest import until
from tests.service.scripted import Drawn, Here, Serve, Stepwise, follow, seq_is, silent, text_of
from tests.store.suite import redis_url, valkey


class OlderStore:
    """The keys of a store under a prefix, as they were at one moment."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._client = redis.Redis(port=valkey().port)
        self._keys = {key: self._client.dump(key) or b"" for key in self._client.scan_iter(f"*{prefix}*", count=1000)}

    def restore(self) -> None:
        """Take the store back to that moment, in one step, as a failover does."""
        with self._client.pipeline() as pipeline:
            for key in self._client.scan_iter(f"*{self._prefix}*", count=1000):
                pipeline.delete(key)
            for key, value in self._keys.items():
                pipeline.restore(key, 0, value)
            pipeline.execute()
        self._client.close()


@asynccontextmanager
async def end_lost(serve: Serve, folder: Path) -> AsyncIterator[tuple[Here, Here, str, list[AnyEvent]]]:
    """The owner, another service, and a turn that has ended after the moment to which the store went back; its whole log."""
    play, url = Stepwise(), redis_url(folder)
    given = {"store_url": url, "lease_s": 0.6}
    async with serve(play, **given) as here, serve(silent, **given) as there:
        turn = await here.service.start_chat("Hi")
        play.say("one ", "two ")
        await until(lambda: seq_is(here.service, turn.turn_id, 3))
        before = await asyncio.to_thread(OlderStore, url.partition("prefix=")[2])
        play.say("three")
        play.end()
        whole = await follow(here.service, turn.turn_id)
        assert text_of(whole) == "one two three"
        await asyncio.to_thread(before.restore)
        async with asyncio.timeout(20):
            yield here, there, turn.turn_id, whole


async def test_the_owner_appends_a_lost_end_again(serve: Serve, tmp_path: Path) -> None:
    async with end_lost(serve, tmp_path) as (here, there, turn_id, whole):
        assert await follow(there.service, turn_id) == whole
        row = await here.store.get_turn(turn_id)
        assert row is not None
        assert (row.status, row.last_seq) == ("completed", len(whole))


async def test_a_lost_end_that_nobody_has_is_an_interruption(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner lives, and renews its lease; the turn ends all the same."""
    monkeypatch.setattr("shared.chat.housekeeping._UNKNOWN_S", 0.5)
    monkeypatch.setattr("shared.chat.ended_turns._MAX_BYTES", 0)
    async with end_lost(serve, tmp_path) as (_, there, turn_id, _):
        events = await follow(there.service, turn_id)
        assert (event_type(events[-1]), text_of(events[:-1])) == ("turn_interrupted", "one two ")
        assert isinstance(events[-1], TurnInterrupted)
        assert events[-1].epoch == 1


async def test_pictures_count_in_what_is_kept(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log only refers to the bytes of a picture, and a kept turn holds these bytes."""
    monkeypatch.setattr("shared.chat.ended_turns._MAX_BYTES", 60_000)
    drawn = Drawn([ImagePart(bytes(50_000), "image/png", 8, 8, preview=False)])
    async with serve(silent, images=drawn, store_url=redis_url(tmp_path)) as here:
        ended = here.service._generation.ended
        kept = []
        for _ in range(2):
            turn_id = (await here.service.start_image("A hill", size="8x8")).turn_id
            await follow(here.service, turn_id)
            await until(lambda: ended.get(turn_id))  # noqa: B023
            kept.append(turn_id)
        assert ended.get(kept[0]) is None
