"""The held connection without a wire: the order of its writes, and that no write is broken off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shared.chat.service import open_service
from shared.config import Settings
from shared.duplex_messages import Chat, CreateSession, JoinSession, Resume, Resumed
from shared.logger import open_logger
from shared.server.duplex import Duplex, Outgoing
from shared.store.record import Record
from tests.conftest import until
from tests.service.scripted import Room


async def test_a_write_that_has_begun_ends_when_another_message_ends_its_turn(tmp_path: Path) -> None:
    """A resume ends the turn's stream, and a join ends the stream of hints, each between two writes."""
    gate = asyncio.Event()
    gate.set()
    begun: list[Outgoing] = []
    ended: list[Outgoing] = []

    async def send(item: Outgoing) -> None:
        begun.append(item)
        await gate.wait()
        ended.append(item)

    settings = Settings(store_url=f"sqlite:///{tmp_path}/chat.db", offline_tokens_per_s=0, offline_first_token_ms=0)
    async with (
        open_service(settings, logger=open_logger("test"), framework="none") as service,
        Duplex(service, send) as duplex,
    ):
        await duplex.handle(CreateSession())
        gate.clear()
        await duplex.handle(Chat(message="/tokens 40 hello", request_id="one"))
        await until(lambda: len(begun) > len(ended))
        [events] = begun[len(ended) :]
        assert isinstance(events, list)
        turn_id = events[0].turn_id
        elsewhere = await service.create_session()
        resuming = asyncio.create_task(duplex.handle(Resume(turn_id=turn_id, after=0)))
        while not resuming.done() and len(begun) == len(ended) + 1:
            gate.set()
            await asyncio.sleep(0)
        await resuming
        await duplex.handle(JoinSession(session_id=elsewhere.session_id))
        await duplex.finish()
        assert begun == ended
    after_resumed = ended[next(i for i, item in enumerate(ended) if isinstance(item, Resumed)) + 1 :]
    seqs = [record.seq for item in after_resumed if isinstance(item, list) for record in item]
    assert seqs == list(range(1, 43))
    assert all(isinstance(record, Record) for item in ended if isinstance(item, list) for record in item)


@pytest.mark.parametrize("room", [0, 3, 1000])
async def test_events_go_on_the_line_and_the_rest_is_written_in_order_and_once(tmp_path: Path, room: int) -> None:
    line = Room(room)

    async def write(item: Outgoing) -> None:
        if isinstance(item, list):
            assert item
            line.sent += [record.seq for record in item]

    settings = Settings(store_url=f"sqlite:///{tmp_path}/chat.db", offline_tokens_per_s=0, offline_first_token_ms=0)
    async with (
        open_service(settings, logger=open_logger("test"), framework="none") as service,
        Duplex(service, write, line=line) as duplex,
    ):
        await duplex.handle(Chat(message="/tokens 40 hello", request_id="one"))
        await duplex.finish()
    assert line.sent == list(range(1, 43))
