"""What the service logs and counts."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from shared.logger import Logger
from tests.conftest import until
from tests.service.scripted import Serve, ended, follow, reply, saying


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


class FailingLogger:
    """A logger whose line ``event`` raises, as a log whose reader is gone does."""

    def __init__(self, logger: Logger, event: str) -> None:
        self._logger = logger
        self._event = event

    def __getattr__(self, level: str) -> Any:
        def log(event: str, **fields: Any) -> None:
            if event == self._event:
                raise BrokenPipeError(32, "Broken pipe")
            getattr(self._logger, level)(event, **fields)

        return log


@pytest.mark.parametrize("event", ["chat started", "first token", "chat completed"])
async def test_a_logger_that_raises_leaves_no_turn_without_an_end(serve: Serve, event: str) -> None:
    """Any log line may fail: the turn still ends, and its session accepts the next turn."""
    async with serve(saying("a", "b"), lease_s=0.5) as here:
        session = await here.service.create_session()
        dependencies = here.service._generation._dependencies
        object.__setattr__(dependencies, "logger", FailingLogger(here.service.logger, event))
        with contextlib.suppress(BrokenPipeError):
            await here.service.start_chat("Hi", session_id=session.session_id, request_id="k")
        turn = await here.service.start_chat("Hi", session_id=session.session_id, request_id="k")
        await until(lambda: ended(here.service, turn.turn_id))
        object.__setattr__(dependencies, "logger", here.service.logger)
        assert await reply(here.service, "Go on", session_id=session.session_id)
