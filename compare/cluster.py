"""``python -m compare.cluster``: nodes of all transports on one Valkey, killed in a loop while clients go on; prints the score.

A client chooses any living node for each connection, as behind a balancer without affinity. What a client was shown is compared
with the log that another node reads afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compare.valkey import Valkey
from protocols import TRANSPORTS
from protocols.processes import Server, serving
from shared.errors import ChatError, ConnectionLost
from shared.events import TERMINAL, AnyEvent, Event, event_type
from shared.reply import Reply

_PAUSE_S = 0.2
_TURN_S = 120.0


@dataclass
class Score:
    """What happened, and what must not: lost or doubled events, logs that differ, models that ran twice."""

    turns: int = 0
    events: int = 0
    cuts: int = 0
    kills: int = 0
    store_kills: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    differing: int = 0
    hung: int = 0
    generated: Counter[str] = field(default_factory=Counter)

    @property
    def paid_twice(self) -> int:
        """The turns whose model ran more than once."""
        return sum(times > 1 for times in self.generated.values())

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.differing or self.hung or self.paid_twice)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {name.removeprefix('turn_')}" for name, count in sorted(self.ends.items()))
        return (
            f"{self.turns} turns ({ends}), {self.events} events, {self.cuts} cuts, {self.kills} nodes killed,"
            f" {self.store_kills} times the store\nlost or twice {self.lost} · logs that differ {self.differing}"
            f" · hung {self.hung} · paid twice {self.paid_twice}"
        )


class Node:
    """One server that is started again after it was killed."""

    def __init__(self, word: str, env: dict[str, str], score: Score) -> None:
        self.word = word
        self.server: Server | None = None
        self._env = env
        self._score = score

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The server, until the block ends or it dies."""
        async with serving(self.word, env=self._env) as server:
            self.server = server
            try:
                yield
            finally:
                self.server = None
        self._score.generated.update(str(entry["turn"]) for entry in server.log if entry["event"] == "chat started")

    async def run_forever(self, ready: asyncio.Event) -> None:
        """Start the server again each time that it has died."""
        while True:
            async with self.running():
                ready.set()
                assert self.server is not None
                await self.server.process.wait()


async def play(word: str, nodes: list[Node], score: Score, tokens: int) -> None:
    """One turn to its end, from node to node, then read again from another node."""
    key, turn_id, seen = str(uuid.uuid4()), "", list[AnyEvent]()
    ended = ""
    while not ended:
        node = await _living(nodes)
        try:
            async with node.client(resume=False) as client:
                asking = (
                    client.read(turn_id, len(seen)) if seen else client.chat(f"/tokens {tokens} go", request_id=key)
                )
                async with aclosing(asking) as items:
                    async for item in items:
                        if isinstance(item, Reply):
                            ended, turn_id = f"turn_{item.status}", item.turn_id
                        elif isinstance(item, Event):
                            turn_id = item.turn_id
                            score.lost += item.seq != len(seen) + 1
                            seen.append(item)
                            ended = event_type(item) if isinstance(item, TERMINAL) else ""
        except (ConnectionLost, OSError):
            score.cuts += 1
        except ChatError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(_PAUSE_S)
    score.turns += 1
    score.ends[ended] += 1
    score.events += len(seen)
    if seen:
        score.differing += await _read_again(nodes, turn_id) != seen


async def _read_again(nodes: list[Node], turn_id: str) -> list[AnyEvent]:
    while True:
        node = await _living(nodes)
        with contextlib.suppress(ConnectionLost, OSError, ChatError):
            async with node.client(resume=False) as client, aclosing(client.read(turn_id, 0)) as items:
                return [item async for item in items if isinstance(item, Event)]


async def _living(nodes: list[Node]) -> Server:
    while True:
        living = [node.server for node in nodes if node.server is not None]
        if living:
            return random.choice(living)
        await asyncio.sleep(_PAUSE_S)


async def run(words: list[str], count: int, seconds: float, kill_every_s: float, tokens: int) -> Score:
    """Run nodes and clients and kill nodes for ``seconds``. Returns the score."""
    score = Score()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        valkey = Valkey(folder / "valkey", ["save ''", "appendonly yes"])
        await asyncio.to_thread(valkey.start)
        stack.callback(valkey.kill)
        env = {
            "STORE_URL": valkey.url,
            "GENAI_PROVIDER": "offline",
            "IMAGE_PROVIDER": "offline",
            "OFFLINE_TOKENS_PER_S": "50",
        }
        nodes = {word: [Node(word, env, score) for _ in range(count)] for word in words}
        everywhere = [node for group in nodes.values() for node in group]
        starting = [(node, asyncio.Event()) for node in everywhere]
        tasks = [asyncio.create_task(node.run_forever(ready)) for node, ready in starting]
        try:
            for _, ready in starting:
                await ready.wait()
            print(f"{len(everywhere)} nodes of {', '.join(words)} on {valkey.url}", flush=True)
            until_s = time.monotonic() + seconds

            async def clients(word: str) -> None:
                while time.monotonic() < until_s:
                    try:
                        async with asyncio.timeout(_TURN_S):
                            await play(word, nodes[word], score, tokens)
                    except TimeoutError:
                        score.hung += 1

            async def kills() -> None:
                while time.monotonic() < until_s:
                    await asyncio.sleep(kill_every_s)
                    if random.random() < 0.2:
                        valkey.kill()
                        score.store_kills += 1
                        await asyncio.to_thread(valkey.start)
                        continue
                    server = await _living(everywhere)
                    server.kill()
                    score.kills += 1

            await asyncio.gather(kills(), *(clients(word) for word in words for _ in range(2)))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return score


def main() -> int:
    """The command line; exit status 1 when anything was lost, doubled, different, hung or paid twice."""
    parser = argparse.ArgumentParser(prog="python -m compare.cluster", description=__doc__)
    parser.add_argument("--transports", default=",".join(TRANSPORTS), help="which, with commas (default: all five)")
    parser.add_argument("--nodes", type=int, default=3, help="nodes of each transport (default: 3)")
    parser.add_argument("--seconds", type=float, default=60, help="how long new turns are started (default: 60)")
    parser.add_argument("--kill-every", type=float, default=4, help="seconds between two kills (default: 4)")
    parser.add_argument("--tokens", type=int, default=150, help="length of a reply (default: 150, three seconds)")
    parser.add_argument("--seed", type=int, default=None, help="the same kills again")
    args = parser.parse_args()
    random.seed(args.seed)
    words = args.transports.split(",")
    score = asyncio.run(run(words, args.nodes, args.seconds, args.kill_every, args.tokens))
    print(score)
    return 0 if score.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
