"""What the service logs and counts."""

from __future__ import annotations

from tests.conftest import until
from tests.service.scripted import (
    Serve,
    follow,
    reply,
    saying,
)


async def test_the_log_tells_the_stages_and_no_text(serve: Serve) -> None:
    async with serve(saying("a secret answer")) as here:
        await reply(here.service, "a secret question")
        await until(lambda: len(here.lines) > 2)
        stages = [line["event"] for line in here.lines]
        assert stages == ["chat started", "first token", "chat completed"]
        assert here.lines[0]["context"] == 0
        assert here.lines[-1]["chunks"] == 1
        assert "secret" not in here.out.getvalue()


async def test_what_is_counted(serve: Serve) -> None:
    async with serve(saying("x")) as here:
        await reply(here.service, "One")
        turn = await here.service.start_chat("Two")
        await follow(here.service, turn.turn_id)
        stats = await here.service.stats()
        assert (stats.requests_total, stats.requests_succeeded, stats.requests_failed) == (2, 2, 0)
        assert (stats.sessions_created, stats.sessions_active, stats.streams_active) == (2, 2, 0)
        assert (stats.provider, stats.model) == ("scripted", "scripted-1")
        assert stats.average_response_ms > 0
