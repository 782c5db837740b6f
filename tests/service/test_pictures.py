"""A picture is a turn."""

from __future__ import annotations

import asyncio

from shared.events import (
    ImageCompleted,
    ImageStarted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    Usage,
    event_type,
)
from shared.images.model import ImagePart
from tests.conftest import until
from tests.service.scripted import (
    Drawn,
    Serve,
    follow,
    refused,
    saying,
    seq_is,
)


def picture(data: bytes, *, preview: bool) -> ImagePart:
    return ImagePart(data, "image/png", 8, 8, preview, None if preview else "As drawn", Usage(3, 4))


async def test_a_picture_is_a_turn(serve: Serve) -> None:
    parts = [picture(b"p" * 70_000, preview=True), picture(b"f" * 200_000, preview=False)]
    model = Drawn(parts)
    async with serve(saying("x"), images=model) as here:
        session = await here.service.create_session()
        turn = await here.service.start_image("A hill", size="8x8", session_id=session.session_id)
        events = await follow(here.service, turn.turn_id)
        kinds = ["image_started", *["image_chunk"] * 2, "image_started", *["image_chunk"] * 5, "image_completed"]
        assert [event_type(event) for event in events] == ["turn_started", *kinds, "turn_completed"]
        (done,) = [event for event in events if isinstance(event, ImageCompleted)]
        assert done.revised_prompt == "As drawn"
        assert (await here.service.get_image(done.image_id)).data == parts[1].data
        end = events[-1]
        assert isinstance(end, TurnCompleted)
        assert (end.chunks, end.message_count, end.usage) == (0, 2, Usage(3, 4))
        assert model.closed == 1
        for size in ("13x13", "0x8", "8", "8x8x8", "-8x8", "", "99999x99999"):
            assert await refused(here.service.start_image("A hill", size=size)) == "invalid_request"


async def test_a_picture_is_cancelled_before_it_is_whole(serve: Serve) -> None:
    model = Drawn([picture(b"p", preview=True), picture(b"f", preview=False)], go=asyncio.Semaphore(1))
    async with serve(saying("x"), images=model) as here:
        turn = await here.service.start_image("A hill")
        await until(lambda: seq_is(here.service, turn.turn_id, 3))
        assert (await here.service.cancel_turn(turn.turn_id)).status == "cancelled"
        events = await follow(here.service, turn.turn_id)
        assert model.closed == 1
        assert isinstance(events[1], ImageStarted)
        assert events[1].preview
        assert isinstance(events[-1], TurnCancelled)
        assert events[-1].sha256 is None


async def test_an_image_model_without_a_picture(serve: Serve) -> None:
    async with serve(saying("x"), images=Drawn([picture(b"p", preview=True)])) as here:
        turn = await here.service.start_image("A hill")
        end = (await follow(here.service, turn.turn_id))[-1]
        assert isinstance(end, TurnFailed)
        assert end.code == "model_unavailable"
