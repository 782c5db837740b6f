"""The proxy configurations in the leaves' READMEs, run as they are: tokens pass one by one through nginx, Caddy and haproxy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from compare.probing.planted.readmes import readme_config
from protocols import TRANSPORTS
from protocols.ports import free_port
from shared.client.protocol import Item
from shared.events import Chunk, TurnCompleted
from shared.reply import Reply
from tests.conftest import Servers
from tests.parts import part
from tests.proxies import proxy

SILENCE_S = 1.5


@contextmanager
def proxy_of_readme(name: str, word: str, target: str, folder: Path) -> Iterator[str]:
    """The proxy that a leaf's README describes, in front of a server; the proxy's address."""
    port = free_port()
    with proxy(name, folder, port, readme_config(name, port, target, word)) as address:
        yield address


@asynccontextmanager
async def asking(word: str, address: str) -> AsyncIterator[AsyncIterator[Item]]:
    async with TRANSPORTS[word].client(address, resume=False) as client:
        yield client.chat(f"/tokens 4 /stall {SILENCE_S} hello")


@pytest.mark.parametrize("name", ["nginx", "caddy", "haproxy"])
async def test_a_reply_passes_as_it_comes(name: str, word: str, servers: Servers, tmp_path: Path) -> None:
    """Two tokens, a silence, two tokens: the first two arrive before the silence is over."""
    part(name)
    with proxy_of_readme(name, word, servers[word].address, tmp_path) as address:
        arrived: list[tuple[float, Item]] = []
        async with asking(word, address) as items:
            async for item in items:
                arrived.append((time.monotonic(), item))
    kinds = [item for _, item in arrived]
    if not TRANSPORTS[word].tokens:
        assert isinstance(kinds[0], Reply)
        return
    chunks = [at for at, item in arrived if isinstance(item, Chunk)]
    assert isinstance(kinds[-1], TurnCompleted)
    assert len(chunks) == 4
    assert chunks[2] - chunks[1] > SILENCE_S * 0.6
