"""A power cut loses the newest commits of a SQLite store while clients read: they come back and show what is stored."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from shared.client.protocol import ChatClient, Item, Lost, Reconnected, Rewound
from shared.events import Event, TurnInterrupted
from shared.reply import Reply, text_sha256
from tests.conftest import WORDS, until
from tests.power_cut import machine

SEEN = 15


async def test_each_client_comes_back_and_shows_what_is_stored(tmp_path: Path) -> None:
    items: dict[str, list[Item]] = {word: [] for word in WORDS}
    last = dict.fromkeys(WORDS, 0)

    async def ask(word: str, client: ChatClient) -> None:
        async with aclosing(client.chat("/tokens 5000 Explain power cuts")) as stream:
            async for item in stream:
                items[word].append(item)
                if isinstance(item, Event):
                    last[word] = item.seq

    streaming = [word for word in WORDS if word != "rest"]
    ports = dict.fromkeys(WORDS, 0)
    async with AsyncExitStack() as stack:
        cut = await stack.enter_async_context(
            machine(tmp_path, ports, LEASE_S="1", OFFLINE_TOKENS_PER_S="50", RETRY_MS="50")
        )
        clients = {word: await stack.enter_async_context(server.client()) for word, server in cut.servers.items()}
        async with asyncio.TaskGroup() as group:
            for word in WORDS:
                group.create_task(ask(word, clients[word]))
            await until(lambda: all(last[word] > SEEN for word in streaming))
            await asyncio.to_thread(cut.remember)
            kept = dict(last)
            await until(lambda: all(last[word] > kept[word] + SEEN for word in streaming))
            await cut.cut_power()
        for word in streaming:
            events = [item for item in items[word] if isinstance(item, Event)]
            assert {type(item) for item in items[word]} >= {Lost, Reconnected}
            (rewound,) = [item for item in items[word] if isinstance(item, Rewound)]
            again = events[rewound.after :]
            assert [event.seq for event in events[: rewound.after]] == list(range(1, rewound.after + 1)), word
            assert again == [event async for event in clients[word].read(rewound.turn_id)], word
            assert len(again) == rewound.last_seq <= rewound.after, word
            assert isinstance(again[-1], TurnInterrupted), word
            assert again[-1].epoch == 1, word
        reply = items["rest"][-1]
        assert isinstance(reply, Reply)
        assert (reply.status, reply.sha256) == ("interrupted", text_sha256(reply.text))
        assert reply.text
