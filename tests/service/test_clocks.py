"""A machine whose clock jumps: running turns go on, and the turns of a process that is gone are ended as always."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.chat.service import ChatService, open_service
from shared.config import Settings
from shared.events import AnyEvent, event_type
from shared.logger import open_logger
from tests.conftest import until
from tests.service.scripted import ended, follow, last_seq

HOUR_S = 3600.0
LEASE_S = 0.5


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``jump(seconds)``: the time of day is that much later from now on. The clock that measures times stays as it is."""
    real, offset_s = time.time, 0.0

    def later(seconds: float) -> None:
        nonlocal offset_s
        offset_s += seconds

    monkeypatch.setattr(time, "time", lambda: real() + offset_s)
    return later


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[ChatService]:
    settings = Settings(
        _env_file=None,
        genai_provider="offline",
        image_provider="offline",
        offline_tokens_per_s=200,
        offline_first_token_ms=0,
        lease_s=LEASE_S,
        disconnect_grace_s=60,
        store_url=f"sqlite:///{folder}/chat.db",
    )
    async with open_service(settings, logger=open_logger("test", io.StringIO())) as service:
        yield service


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
async def test_a_clock_that_jumps_costs_no_turn(tmp_path: Path, jump: Callable[[float], None], seconds: float) -> None:
    """The model says nothing for three leases after the jump, and the readers of both processes get the whole turn."""
    async with opened(tmp_path) as here, opened(tmp_path) as there:
        turn = await here.start_chat(f"/tokens 8 /stall {3 * LEASE_S:g} hello")
        reading = [asyncio.create_task(follow(service, turn.turn_id)) for service in (here, there)]
        await until(lambda: half_said(there, turn.turn_id))
        jump(seconds)
        logs: list[list[AnyEvent]] = [await task for task in reading]
        assert logs[0] == logs[1]
        assert event_type(logs[0][-1]) == "turn_completed"
        assert (await there.get_turn(turn.turn_id)).status == "completed"


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
async def test_a_clock_that_jumps_holds_no_turn_of_a_process_that_is_gone(
    tmp_path: Path, jump: Callable[[float], None], seconds: float
) -> None:
    async with opened(tmp_path) as there, opened(tmp_path) as here:
        turn = await here.start_chat("/slow 60 hello")
        assert turn.session_id is not None
        # As a kill would: no lease is renewed, and no end is stored.
        await here.abandon()
        await here._store.close()
        jump(seconds)
        begun = time.monotonic()
        await until(lambda: ended(there, turn.turn_id))
        assert event_type((await follow(there, turn.turn_id))[-1]) == "turn_interrupted"
        assert time.monotonic() - begun < 60 * LEASE_S
        again = await there.start_chat("/tokens 3 again", session_id=turn.session_id)
        assert event_type((await follow(there, again.turn_id))[-1]) == "turn_completed"


async def half_said(service: ChatService, turn_id: str) -> bool:
    return await last_seq(service, turn_id) >= 4
