"""One of the processes that write to one store at the same time: it starts turns in the same sessions and with the same
keys.

``python -m tests.store.writer URL OWNER ROUNDS`` prints ``ready``, begins when a line arrives on stdin, and prints how
many sessions it won and how many keys were known.
"""

from __future__ import annotations

import asyncio
import sys

from shared.errors import ChatError
from shared.store.open import open_store
from shared.store.protocol import Store
from tests.store.suite import appended, asked, chunks, entry


async def main(url: str, owner: str, rounds: int) -> None:
    """Start turns against the other writers, and stream four turns beside each."""
    store = open_store(url)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    won = joined = 0
    for number in range(rounds):
        new = asked("race", new_session_id=f"race-{number}-{owner}", request_id=f"race-{number}", owner=owner)
        started = await store.start_turn(new)
        joined += started.joined
        if not started.joined:
            assert await appended(store, entry(started, chunks(started.turn.turn_id, 2, owner))) == [True]
        try:
            await store.start_turn(asked("mine", session_id=f"session-{number}", owner=owner))
            won += 1
        except ChatError as refusal:
            assert refusal.code == "turn_in_progress", refusal
        await asyncio.gather(*(_stream(store, owner, f"{owner}-{number}-{stream}") for stream in range(4)))
    print(won, joined, flush=True)
    await store.close()


async def _stream(store: Store, owner: str, session_id: str) -> None:
    started = await store.start_turn(asked("Hi", new_session_id=session_id, owner=owner))
    for seq in range(2, 12):
        assert await appended(store, entry(started, chunks(started.turn.turn_id, seq, f"{seq} "))) == [True]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
