"""``python -m compare cluster``: nodes of all transports on one Valkey, killed in a loop while clients go on; prints the score.

Caddy stands before the nodes and gives each request to the next one, without affinity. The store has a replica and a Sentinel. What
a client was shown is compared with the log that another node reads afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from compare.lines.balancer import balancer
from compare.showing.progress import progress
from compare.valkey import Replicated
from protocols import TRANSPORTS
from protocols.ports import free_port
from protocols.processes import Server, serving
from shared.client.protocol import Rewound
from shared.errors import ChatError, ConnectionLost
from shared.events import TERMINAL, AnyEvent, Event, event_type
from shared.reply import Reply
from shared.usage import usage_of

_PAUSE_S = 0.2
_TURN_S = 120.0
_TELL_S = 5.0
# The share of the kills that hit the primary of the store.
_STORE_SHARE = 0.2


@dataclass
class Score:
    """What happened, and what must not: lost or doubled events, logs that differ, models that ran twice.

    ``rewinds``: how often a client was told that the store has lost events which the client had shown, so that the
    client had to drop the turn and read it again. Those events count as lost.
    """

    turns: int = 0
    events: int = 0
    cuts: int = 0
    kills: int = 0
    failovers: int = 0
    rewinds: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    twice: int = 0
    differing: int = 0
    hung: int = 0
    generated: Counter[str] = field(default_factory=Counter)

    def show(self, seen: list[AnyEvent], event: AnyEvent) -> None:
        """Add an event to those that a client has been shown of a turn, and count what is missing or doubled."""
        after = seen[-1].seq if seen else 0
        self.lost += max(0, event.seq - after - 1)
        self.twice += event.seq <= after
        seen.append(event)

    def rewind(self, seen: list[AnyEvent], last_seq: int) -> None:
        """Drop what a client was shown of a turn. The turn has ended in the store with the terminal event ``last_seq``."""
        self.rewinds += 1
        if seen:
            self.lost += max(0, seen[-1].seq - last_seq + 1)
        seen.clear()

    @property
    def paid_twice(self) -> int:
        """The turns whose model ran more than once."""
        return sum(times > 1 for times in self.generated.values())

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.twice or self.differing or self.hung or self.paid_twice)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {name.removeprefix('turn_')}" for name, count in sorted(self.ends.items()))
        return (
            f"turns {self.turns} ({ends}) · events {self.events} · cuts {self.cuts} · nodes killed {self.kills}"
            f" · failovers of the store {self.failovers}\nlost {self.lost} · twice {self.twice} · paid twice"
            f" {self.paid_twice} · rewinds {self.rewinds} · logs that differ {self.differing} · hung {self.hung}"
        )


class Node:
    """One server on a port of its own. ``generated`` gets the ids of the turns whose models it has asked."""

    def __init__(
        self, word: str, env: Mapping[str, str], arguments: Sequence[str] = (), generated: Counter[str] | None = None
    ) -> None:
        self.word = word
        self.port = free_port()
        self.server: Server | None = None
        self._env = env
        self._arguments = arguments
        self._generated = Counter[str]() if generated is None else generated

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The server, until the block ends or it dies."""
        async with serving(self.word, port=self.port, env=self._env, arguments=self._arguments) as server:
            self.server = server
            try:
                yield
            finally:
                self.server = None
        self._generated.update(str(entry["turn"]) for entry in server.log if entry["event"] == "chat started")

    async def run(self, ready: asyncio.Event, *, revives: bool) -> None:
        """Run the server until it dies; with ``revives``, start it again each time that it has died.

        A server does not start while the store is away. After the first start, it is tried again.
        """
        while True:
            try:
                async with self.running():
                    ready.set()
                    assert self.server is not None
                    await self.server.process.wait()
                if not revives:
                    return
            except RuntimeError:
                if not ready.is_set():
                    raise
                await asyncio.sleep(_PAUSE_S)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes behind a balancer, which has an address for each transport, on a store with a replica and a Sentinel."""

    store: Replicated
    balancer: str
    addresses: Mapping[str, str]
    nodes: Mapping[str, Sequence[Node]]

    @property
    def all_nodes(self) -> list[Node]:
        """The nodes of all transports."""
        return [node for group in self.nodes.values() for node in group]


@asynccontextmanager
async def cluster(
    words: Sequence[str],
    count: int,
    *,
    env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    generated: Counter[str] | None = None,
    revives: bool = True,
) -> AsyncIterator[Cluster]:
    """``count`` nodes of each transport, all ready. ``revives``: a node that dies is started again on its port."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        store = Replicated(folder, ["save ''", "appendonly yes"])
        stack.callback(store.kill)
        await asyncio.to_thread(store.start)
        settings = {"STORE_URL": store.url, "GENAI_PROVIDER": "offline", "IMAGE_PROVIDER": "offline", **(env or {})}
        nodes = {word: [Node(word, settings, arguments, generated) for _ in range(count)] for word in words}
        behind = {word: [f"127.0.0.1:{node.port}" for node in group] for word, group in nodes.items()}
        name, addresses = await stack.enter_async_context(balancer(behind))
        made = Cluster(store, name, addresses, nodes)
        starting = [(node, asyncio.Event()) for node in made.all_nodes]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(node.run(ready, revives=revives)) for node, ready in starting]
            for _, ready in starting:
                await ready.wait()
            yield made
            for task in tasks:
                task.cancel()


async def play(word: str, address: str, score: Score, tokens: int) -> None:
    """One turn to its end, from node to node behind the balancer, then read again."""
    key, turn_id, seen = str(uuid.uuid4()), "", list[AnyEvent]()
    ended = ""
    while not ended:
        try:
            async with TRANSPORTS[word].client(address, resume=False) as client:
                after = seen[-1].seq if seen else 0
                asking = client.read(turn_id, after) if seen else client.chat(f"/tokens {tokens} go", request_id=key)
                async with aclosing(asking) as items:
                    async for item in items:
                        if isinstance(item, Reply):
                            ended, turn_id = f"turn_{item.status}", item.turn_id
                        elif isinstance(item, Rewound):
                            score.rewind(seen, item.last_seq)
                        elif isinstance(item, Event):
                            turn_id = item.turn_id
                            score.show(seen, item)
                            ended = event_type(item) if isinstance(item, TERMINAL) else ""
        except (ConnectionLost, OSError):
            score.cuts += 1
            await asyncio.sleep(_PAUSE_S)
        except ChatError as error:
            if error.code == "cursor_lost":
                score.rewind(seen, error.last_seq or 0)
            elif not error.retryable:
                raise
            await asyncio.sleep(_PAUSE_S)
    score.turns += 1
    score.ends[ended] += 1
    score.events += len(seen)
    if seen:
        score.differing += await _read_again(word, address, turn_id) != seen


async def _read_again(word: str, address: str, turn_id: str) -> list[AnyEvent]:
    while True:
        with contextlib.suppress(ConnectionLost, OSError, ChatError):
            async with (
                TRANSPORTS[word].client(address, resume=False) as client,
                aclosing(client.read(turn_id, 0)) as items,
            ):
                return [item async for item in items if isinstance(item, Event)]
        await asyncio.sleep(_PAUSE_S)


async def _living(nodes: list[Node]) -> Server:
    while True:
        living = [node.server for node in nodes if node.server is not None]
        if living:
            return random.choice(living)
        await asyncio.sleep(_PAUSE_S)


async def kill_until(until_s: float, every_s: float, made: Cluster, score: Score) -> None:
    """Kill a node every ``every_s``, and now and then the primary of the store, which fails over to its replica."""
    while time.monotonic() < until_s:
        await asyncio.sleep(every_s)
        if random.random() < _STORE_SHARE:
            await asyncio.to_thread(made.store.lose_primary)
            score.failovers += 1
            await asyncio.to_thread(made.store.recover)
        else:
            (await _living(made.all_nodes)).kill()
            score.kills += 1


async def run(words: Sequence[str], count: int, seconds: float, kill_every_s: float, tokens: int) -> Score:
    """Run nodes and clients and kill nodes for ``seconds``. Returns the score."""
    score = Score()
    env = {"OFFLINE_TOKENS_PER_S": "50"}
    console = Console(stderr=True)
    console.print(f"{len(words) * count} nodes and their store start …")
    async with cluster(words, count, env=env, generated=score.generated) as made:
        shown = ", ".join(f"{word} on {made.addresses[word]}" for word in words)
        print(f"{len(made.all_nodes)} nodes behind {made.balancer}: {shown}")
        print(f"the store: {made.store.url}", flush=True)
        until_s = time.monotonic() + seconds

        async def ask_until(word: str) -> None:
            while time.monotonic() < until_s:
                try:
                    async with asyncio.timeout(_TURN_S):
                        await play(word, made.addresses[word], score, tokens)
                except TimeoutError:
                    score.hung += 1

        async def tell() -> None:
            with progress(console, seconds) as tick:
                while time.monotonic() < until_s:
                    await asyncio.sleep(_TELL_S)
                    tick(f"turns {score.turns}, nodes killed {score.kills}, failovers {score.failovers}", _TELL_S)
            console.print("no new turns; the running ones go on to their ends")

        kills = kill_until(until_s, kill_every_s, made, score)
        await asyncio.gather(kills, tell(), *(ask_until(word) for word in words for _ in range(2)))
    return score


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 1 when anything was lost, doubled, different, hung or paid twice."""
    parser = argparse.ArgumentParser(prog="python -m compare cluster", description=usage_of(__doc__))
    parser.add_argument(
        "--transports", default=",".join(TRANSPORTS), help="transports, comma-separated (default: all five)"
    )
    parser.add_argument("--nodes", type=int, default=3, help="nodes of each transport (default: 3)")
    parser.add_argument("--seconds", type=float, default=60, help="how long new turns are started (default: 60)")
    parser.add_argument("--kill-every", type=float, default=4, help="seconds between two kills (default: 4)")
    parser.add_argument("--tokens", type=int, default=150, help="length of a reply (default: 150, three seconds)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the kills of the run with this seed")
    args = parser.parse_args(argv)
    random.seed(args.seed)
    words = args.transports.split(",")
    status = 2
    try:
        score = asyncio.run(run(words, args.nodes, args.seconds, args.kill_every, args.tokens))
        print(score)
        status = 0 if score.good else 1
    except* (RuntimeError, FileNotFoundError, TimeoutError) as errors:
        sys.stderr.write(f"{errors.exceptions[0]}\n")
    return status
