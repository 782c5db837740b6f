"""The directions of the offline model that act on the turn's readers: a silence without heartbeats, and a line that breaks."""

from __future__ import annotations

import httpx
import pytest

from shared.client.protocol import Item, Lost
from shared.errors import ConnectionLost
from shared.events import Chunk, TurnCompleted
from shared.reply import Reply
from tests.conftest import Connect, MakeServers, Servers

SILENCE_S = 1.5


@pytest.fixture(scope="module")
def beating(make_servers: MakeServers) -> Servers:
    """Servers whose heartbeats come often."""
    return make_servers(HEARTBEAT_S="0.2")


@pytest.mark.parametrize("word", ["ndjson", "sse"])
async def test_quiet_is_a_silence_without_heartbeats(beating: Servers, word: str) -> None:
    heartbeats = {}
    async with httpx.AsyncClient(base_url=f"http://{beating[word].address}", timeout=30) as http:
        for direction in ("stall", "quiet"):
            body = {"message": f"/tokens 4 /{direction} {SILENCE_S} hello"}
            async with http.stream("POST", "/chat/stream", json=body) as answer:
                pieces = [piece async for piece in answer.aiter_raw()]
            assert b"turn_completed" in pieces[-1]
            heartbeats[direction] = sum(piece in (b"\n", b":\n\n") for piece in pieces)
    assert heartbeats["stall"] >= 2
    assert heartbeats["quiet"] == 0


async def test_drop_breaks_the_line_and_not_the_turn(client: Connect, word: str) -> None:
    """A client that does not resume is told of a broken line; one that resumes gets the whole turn, which ran once."""
    message = "/tokens 4 /drop hello"
    broken = await client(word, resume=False)
    with pytest.raises(ConnectionLost):
        async for _ in broken.chat(message):
            pass
    resuming = await client(word)
    items: list[Item] = [item async for item in resuming.chat(message)]
    assert any(isinstance(item, Lost) for item in items)
    if word == "rest":
        assert isinstance(items[-1], Reply)
        assert items[-1].message_count == 2
    else:
        assert sum(isinstance(item, Chunk) for item in items) == 4
        assert isinstance(items[-1], TurnCompleted)
