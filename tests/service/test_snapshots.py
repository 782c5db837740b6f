"""A snapshot of a long running turn decodes only what is new, and keeps no other reader waiting."""

from __future__ import annotations

import time

from shared.store.sqlite.store import SqliteStore
from tests.conftest import until
from tests.service.scripted import Serve, Stepwise, seq_is

EVENTS = 20_000


async def test_the_text_so_far_is_decoded_once(serve: Serve) -> None:
    play = Stepwise()
    async with serve(play) as here:
        turn = await here.service.start_chat("Hi")
        texts = [f"{number} " for number in range(EVENTS)]
        play.say(*texts)
        await until(lambda: seq_is(here.service, turn.turn_id, EVENTS + 1))
        assert (await here.service.get_turn(turn.turn_id)).text == "".join(texts)
        store = here.store._store
        assert isinstance(store, SqliteStore)
        known = store._running_texts._known
        assert known[turn.turn_id] == ("".join(texts), EVENTS + 1)
        begun = time.perf_counter()
        for _ in range(20):
            await here.service.get_turn(turn.turn_id)
        again_s = time.perf_counter() - begun
        known.clear()
        begun = time.perf_counter()
        await here.service.get_turn(turn.turn_id)
        assert again_s < 20 * (time.perf_counter() - begun)
        play.say("more")
        await until(lambda: seq_is(here.service, turn.turn_id, EVENTS + 2))
        assert (await here.service.get_turn(turn.turn_id)).text.endswith("more")
        await here.service.cancel_turn(turn.turn_id)
        assert (await here.service.get_turn(turn.turn_id)).status == "cancelled"
        assert turn.turn_id not in known
