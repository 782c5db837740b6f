"""A record of the log gives the JSON that the event itself has."""

from __future__ import annotations

import pytest

from shared.events import ImageChunk, to_json
from shared.store.record import Record


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_a_piece_of_a_picture_has_the_json_of_its_event(size: int) -> None:
    data = bytes(number % 256 for number in range(size))
    event = ImageChunk(turn_id="t", seq=3, at=1764365257123.25, image_id="i", offset=7, data=data)
    appended = Record.of(event)
    read_back = Record.load("t", 3, appended.stored, lambda image_id: memoryview(b"1234567" + data))
    assert appended.json == read_back.json == to_json(event)
    assert read_back.event == event
